// The join string and the -p mappings: what is written is read back, and every bad form is told without a secret.
#include "qtrp/config/join.h"

#include <fmt/format.h>

#include "texts.h"

namespace qtrp::config {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

const std::string kPin = "sha256:0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";

Join join(std::string_view text) {
  auto parsed = parse_join(text);
  if (!parsed) ADD_FAILURE() << text << ": " << parsed.error().message;
  return parsed ? *parsed : Join{};
}
std::string join_mistake(std::string_view text) {
  const auto parsed = parse_join(text);
  if (parsed) return "";
  EXPECT_EQ(parsed.error().kind, ErrorKind::config);
  return parsed.error().message;
}
Mapping mapping(std::string_view text) {
  auto parsed = parse_mapping(text);
  if (!parsed) ADD_FAILURE() << parsed.error().message;
  return parsed ? *parsed : Mapping{};
}

TEST(JoinString, HasOnlyWhatDiffersFromTheDefaults) {
  Join j{.server = {"vps.example.com", 6000}, .token = "0123456789abcdef", .pin = "", .psk = ""};
  EXPECT_EQ(format_join(j), "qtrp://0123456789abcdef@vps.example.com:6000");
  j.pin = kPin;
  EXPECT_EQ(format_join(j), "qtrp://0123456789abcdef@vps.example.com:6000?pin=" + kPin);
  j.transport = Transport::epoll;
  j.mux = Mux::yamux;
  EXPECT_EQ(format_join(j), "qtrp://0123456789abcdef@vps.example.com:6000?pin=" + kPin + "&transport=epoll&mux=yamux");
  j = {.server = {"2001:db8::1", 443},
       .token = "a b/c@d?e&f%g\xc3\xa9",
       .crypto = Crypto::chacha20,
       .pin = "",
       .psk = "p&q"};
  EXPECT_EQ(format_join(j), "qtrp://a%20b%2Fc%40d%3Fe%26f%25g%C3%A9@[2001:db8::1]:443?crypto=chacha20&psk=p%26q");
}

TEST(JoinString, IsReadBackAsItWasWritten) {
  for (const std::string token : {"0123456789abcdef", "a b/c@d?e&f%g#h'\"\\${x}", "\xe4\xb8\xad\xe6\x96\x87"}) {
    for (const Crypto crypto : {Crypto::tls, Crypto::chacha20, Crypto::none}) {
      for (const Transport transport : {Transport::net, Transport::epoll}) {
        Join j{
            .server = {"::1", 65535}, .token = token, .transport = transport, .crypto = crypto, .pin = "", .psk = ""};
        if (crypto == Crypto::tls) j.pin = kPin;
        if (crypto == Crypto::chacha20) j.psk = token + "+" + token;
        const Join back = join(format_join(j));
        EXPECT_EQ(back.server, j.server);
        EXPECT_EQ(back.token, j.token);
        EXPECT_EQ(back.transport, j.transport);
        EXPECT_EQ(back.crypto, j.crypto);
        EXPECT_EQ(back.pin, j.pin);
        EXPECT_EQ(back.psk, j.psk);
      }
    }
  }
}

TEST(JoinString, IgnoresWhatPastingAddsAround) {
  EXPECT_EQ(join("  qtrp://secret@host:1\r\n").server, (io::HostPort{"host", 1}));
  EXPECT_EQ(join("qtrp://secret@host:1/?pin=" + kPin).pin, kPin);
  EXPECT_EQ(join("qtrp://secret@host:1?pin=sha256//Dx4tPEtaaXiHlqW0w9Lh8A8eLTxLWml4h5altMPS4fA=").pin,
            "sha256//Dx4tPEtaaXiHlqW0w9Lh8A8eLTxLWml4h5altMPS4fA=");
}

TEST(JoinString, EveryBadFormIsToldWithoutTheSecret) {
  const struct {
    std::string text, says;
  } bad[] = {
      {"", "is empty"},
      {" \n", "is empty"},
      {"hunter2hunter2", "does not begin with qtrp://"},
      {"http://hunter2@host:1", "does not begin with qtrp://"},
      {"qtrp://host:6000", "no token"},
      {"qtrp://@host:6000", "an empty token"},
      {"qtrp://hunter2@", "has the server ''"},
      {"qtrp://hunter2@host", "has the server 'host'"},
      {"qtrp://hunter2@host:", "has the server 'host:'"},
      {"qtrp://hunter2@host:0", "has the server 'host:0'"},
      {"qtrp://hunter2@host:65536", "has the server 'host:65536'"},
      {"qtrp://hunter2@host:1x", "has the server 'host:1x'"},
      {"qtrp://hunter2@:6000", "has the server ':6000'"},
      {"qtrp://hunter2@::1:6000", "has the server '::1:6000'"},
      {"qtrp://hunter2@[::1]", "has the server '[::1]'"},
      {"qtrp://hunter2@ho_st!:6000", "has the server 'ho_st!:6000'"},
      {"qtrp://hunter2@host:6000/path", "has the server 'host:6000/path'"},
      {"qtrp://hunter2 hunter2@host:1", "white space"},
      {"qtrp://hunter2@host:1#x", "'#'"},
      {"qtrp://hunter2%@host:1", "'%'"},
      {"qtrp://hunter2%4@host:1", "'%'"},
      {"qtrp://hunter2%4g@host:1", "'%'"},
      {"qtrp://hunter2%0a@host:1", "control character"},
      {"qtrp://hunter2%20@host:1", "a space around its token"},
      {"qtrp://" + std::string(1025, 'x') + "@host:1", "more than 1024 bytes"},
      {"qtrp://hunter2@host:1?" + std::string(8192, 'x'), "longer than 8192"},
      {"qtrp://hunter2@host:1?pin=" + kPin.substr(0, 70), "cut off"},
      {"qtrp://hunter2@host:1?pin", "cut off"},
      {"qtrp://hunter2@host:1?pin=", "a pin that is none"},
      {"qtrp://hunter2@host:1?pin=%zz", "'%' in 'pin'"},
      {"qtrp://hunter2@host:1?pin=" + kPin + "&pin=" + kPin, "'pin' twice"},
      {"qtrp://hunter2@host:1?transport=tcp", "transport 'tcp'"},
      {"qtrp://hunter2@host:1?crypto=aes", "crypto 'aes'"},
      {"qtrp://hunter2@host:1?mux=h2", "mux 'h2'"},
      {"qtrp://hunter2@host:1?skip_verify=1", "'skip_verify'"},
      {"qtrp://hunter2@host:1?crypto=chacha20&pin=" + kPin, "a pin with crypto chacha20"},
      {"qtrp://hunter2@host:1?crypto=none&pin=" + kPin, "a pin with crypto none"},
      {"qtrp://hunter2@host:1?psk=hunter2", "a psk without crypto chacha20"},
      {"qtrp://hunter2@host:1?crypto=chacha20&psk=", "an empty psk"},
  };
  for (const auto& [text, says] : bad) {
    const std::string told = join_mistake(text);
    EXPECT_THAT(told, HasSubstr(says)) << text;
    EXPECT_THAT(told, testing::StartsWith("the join string ")) << text;
    EXPECT_THAT(told, Not(HasSubstr("hunter2"))) << text;
    EXPECT_LT(told.size(), 500U) << text;
  }
  if (available(Transport::quic)) {
    EXPECT_THAT(join_mistake("qtrp://hunter2@host:1?transport=quic&crypto=none"), HasSubstr("always tls"));
    EXPECT_EQ(join_mistake("qtrp://hunter2@host:1?transport=quic&pin=" + kPin), "");
  } else {
    EXPECT_THAT(join_mistake("qtrp://hunter2@host:1?transport=quic"), HasSubstr("not built into this binary"));
  }
}

TEST(Mapping, TakesPortsRangesNamesAndAddresses) {
  const auto check = [](std::string_view text, std::string name, unsigned first, unsigned last, io::HostPort local) {
    const Mapping m = mapping(text);
    EXPECT_EQ(m.name, name) << text;
    ASSERT_TRUE(m.ports) << text;
    EXPECT_EQ(m.ports->first, first) << text;
    EXPECT_EQ(m.ports->last, last) << text;
    EXPECT_EQ(m.local, local) << text;
  };
  check("2222:127.0.0.1:22", "", 2222, 2222, {"127.0.0.1", 22});
  check("2222:22", "", 2222, 2222, {"127.0.0.1", 22});
  check("8000-8005:[::1]:9000", "", 8000, 8005, {"::1", 9000});
  check("ssh=2222:nas.local:22", "ssh", 2222, 2222, {"nas.local", 22});
  check("65534-65535:65534", "", 65534, 65535, {"127.0.0.1", 65534});
  EXPECT_FALSE(mapping("0:127.0.0.1:22").ports);
  for (const std::string text : {"2222:127.0.0.1:22", "8000-8005:[::1]:9000", "ssh=0:nas.local:22"})
    EXPECT_EQ(format_mapping(mapping(text)), text);
}

TEST(Mapping, EveryBadFormIsTold) {
  const struct {
    std::string text, says;
  } bad[] = {
      {"", "no local port"},
      {"2222", "no local port"},
      {"2222:", "'' is not a local host:port"},
      {":22", "'' is not a port"},
      {"70000:22", "'70000' is not a port"},
      {"9-5:22", "'9-5' is not a port"},
      {"0-5:22", "'0-5' is not a port"},
      {"-1:22", "'-1' is not a port"},
      {"2222:0", "'0' is not a port"},
      {"2222:65536", "'65536' is not a port"},
      {"2222:host", "'host' is not a local host:port"},
      {"2222:host:", "'host:' is not a local host:port"},
      {"2222:host:0", "'host:0' is not a local host:port"},
      {"2222::22", "':22' is not a local host:port"},
      {"2222:::1:22", "'::1:22' is not a local host:port"},
      {"=2222:22", "its name"},
      {"a b=2222:22", "its name"},
      {"8000-8005:65534", "6 ports counted up"},
  };
  for (const auto& [text, says] : bad) {
    const auto parsed = parse_mapping(text);
    ASSERT_FALSE(parsed) << text;
    EXPECT_THAT(parsed.error().message, HasSubstr(says)) << text;
    EXPECT_THAT(parsed.error().message, HasSubstr("2222:127.0.0.1:22")) << text;
  }
}

TEST(ClientFromJoin, IsWhatAFileWouldSay) {
  const Join j = join("qtrp://the-$%7Btoken%7D-%22quoted%22@[2001:db8::1]:6000?pin=" + kPin + "&transport=epoll");
  const std::vector<Mapping> mappings{mapping("ssh=2222:22"), mapping("8000-8001:[::1]:9000"), mapping("0:db:5432")};
  const auto config = client_config(j, mappings);
  ASSERT_TRUE(config) << joined(config.error());
  EXPECT_EQ(config->server, (io::HostPort{"2001:db8::1", 6000}));
  EXPECT_EQ(config->token, "the-${token}-\"quoted\"");
  EXPECT_EQ(config->transport, Transport::epoll);
  EXPECT_THAT(config->tls.pins, testing::ElementsAre(kPin));
  EXPECT_THAT(config->warnings, IsEmpty());
  ASSERT_EQ(config->proxies.size(), 4U);
  EXPECT_EQ(config->proxies[0].name, "ssh");
  EXPECT_EQ(config->proxies[2].remote_port, 8001);
  EXPECT_EQ(config->proxies[2].local, (io::HostPort{"::1", 9001}));
  EXPECT_EQ(config->proxies[3].remote_port, 0);
  // The same text as a file.
  EXPECT_EQ(show(client(client_yaml(j, mappings))), show(*config));
  const auto psk =
      client_config(join("qtrp://0123456789abcdef@h:1?crypto=chacha20&psk=a-psk-of-16-or-more&mux=yamux"), mappings);
  ASSERT_TRUE(psk);
  EXPECT_EQ(psk->chacha20_psk, "a-psk-of-16-or-more");
  EXPECT_EQ(psk->mux, Mux::yamux);
}

TEST(ClientFromJoin, ToldOfMappingsThatDoNotFit) {
  const Join j = join("qtrp://0123456789abcdef@host:1");
  EXPECT_THAT(joined(client_config(j, {}).error()), HasSubstr("found no -p"));
  const std::vector<Mapping> twice{mapping("8000-8003:80"), mapping("8003:81")};
  EXPECT_EQ(joined(client_config(j, twice).error()), "the command line: found the server's port 8003 in two -p");
  const std::vector<Mapping> named{mapping("a=1:80"), mapping("a=2:81")};
  EXPECT_THAT(joined(client_config(j, named).error()), HasSubstr("'a' a second time"));
}

TEST(ServerSetup, LoadsAndLeadsBackToTheSameJoinString) {
  const ServerConfig config =
      server(server_yaml({.bind = {"::", 6000}, .token = "0123456789abcdef", .certificate = "", .key = ""}));
  EXPECT_EQ(config.bind, (io::HostPort{"::", 6000}));
  EXPECT_THAT(config.warnings, IsEmpty());
  const auto j = join_of(config, "", {"vps.example.com", 6000}, kPin);
  ASSERT_TRUE(j);
  EXPECT_EQ(format_join(*j), "qtrp://0123456789abcdef@vps.example.com:6000?pin=" + kPin);
  EXPECT_TRUE(join_of(config, "first", {"h", 1}, ""));
}

TEST(ServerSetup, OneOfSeveralTokensIsChosenByItsName) {
  const ServerConfig config = server(
      "crypto: chacha20\nchacha20: {psk: a-psk-of-16-or-more}\nmux: yamux\nauth: {tokens: [{token: "
      "0123456789abcdef, name: home}, {token: fedcba9876543210, name: office}]}\n");
  const auto none = join_of(config, "", {"h", 1}, kPin);
  ASSERT_FALSE(none);
  EXPECT_THAT(none.error().message, HasSubstr("--token-name: home, office"));
  const auto wrong = join_of(config, "offce", {"h", 1}, kPin);
  ASSERT_FALSE(wrong);
  EXPECT_THAT(wrong.error().message, HasSubstr("no token 'offce', only: home, office"));
  const auto office = join_of(config, "office", {"h", 1}, kPin);
  ASSERT_TRUE(office);
  EXPECT_EQ(format_join(*office), "qtrp://fedcba9876543210@h:1?crypto=chacha20&mux=yamux&psk=a-psk-of-16-or-more");
}

}  // namespace
}  // namespace qtrp::config
