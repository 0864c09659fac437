#include <fmt/format.h>

#include "texts.h"

namespace qtrp::config {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

TEST(Mistakes, AMisspeltKeyHasItsPlaceAndAGuess) {
  EXPECT_EQ(client_mistakes(least_client + "   \ntransprot: net\n"),
            "client.yaml:5:1: unknown key 'transprot', did you mean 'transport'?");
  EXPECT_EQ(client_mistakes(least_client + "brutal: {enabled: true, targt_mbps: 100, target_mbps: 100}\n"),
            "client.yaml:4:25: unknown key 'targt_mbps', did you mean 'target_mbps'?");
  EXPECT_THAT(client_mistakes(least_client + "frobnicate: 1\n"),
              StartsWith("client.yaml:4:1: unknown key 'frobnicate', expected one of server, token"));
}

TEST(Mistakes, AKeyOfTheOtherDaemonIsSentThere) {
  EXPECT_EQ(
      server_mistakes(least_server + "token: abc\n"),
      "server.yaml:2:1: unknown key 'token' here: 'token' is the client's, the server has 'auth: {tokens: [...]}'");
  EXPECT_THAT(client_mistakes(least_client + "bind: a:1\n"),
              HasSubstr("'bind' is the server's, the client has 'server'"));
  EXPECT_THAT(client_mistakes(least_client + "tls: {cert: a}\n"), HasSubstr("tls.cert is the server's"));
  EXPECT_THAT(server_mistakes(least_server + "tls: {pin: a}\n"), HasSubstr("tls.pin is the client's"));
}

TEST(Mistakes, AMisspeltWordHasAGuess) {
  EXPECT_EQ(
      server_mistakes(least_server + "crypto: chacha\n"),
      "server.yaml:2:9: found 'chacha' for 'crypto', expected one of tls, chacha20, none; did you mean 'chacha20'?");
  EXPECT_EQ(server_mistakes(least_server + "transport: epol\n"),
            "server.yaml:2:12: found 'epol' for 'transport', expected one of net, epoll, quic; did you mean 'epoll'?");
  EXPECT_EQ(server_mistakes(least_server + "mux: http2\n"),
            "server.yaml:2:6: found 'http2' for 'mux', expected one of smux, yamux");
}

TEST(Mistakes, AKeyTwiceIsOneTooMany) {
  EXPECT_EQ(server_mistakes(least_server + "crypto: tls\ncrypto: none\n"),
            "server.yaml:3:1: found 'crypto' a second time, expected it once (it is in line 2)");
  EXPECT_THAT(server_mistakes(least_server + "brutal: {enabled: false, enabled: false}\n"),
              HasSubstr("server.yaml:2:26: found 'enabled' a second time"));
}

TEST(Mistakes, EachValueIsCheckedInItsPlace) {
  const auto wrong = [](const std::string& line) { return server_mistakes(least_server + line + "\n"); };
  EXPECT_THAT(wrong("brutal: {enabled: maybe}"),
              HasSubstr(":2:19: found 'maybe' for 'brutal.enabled', expected true or false"));
  EXPECT_THAT(wrong("brutal: {enabled: true}"), HasSubstr(":2:19: found brutal enabled without a rate"));
  EXPECT_THAT(wrong("brutal: {enabled: true, target_mbps: 0}"),
              HasSubstr(":2:38: found brutal enabled without a rate"));
  EXPECT_THAT(wrong("brutal: {target_mbps: -5}"), HasSubstr("found '-5' for 'brutal.target_mbps'"));
  EXPECT_THAT(wrong("brutal: {target_mbps: fast}"), HasSubstr("found 'fast'"));
  EXPECT_THAT(wrong("brutal: true"),
              HasSubstr("found 'true' for 'brutal', expected a map with the keys enabled, target_mbps, mode"));
  EXPECT_THAT(wrong("keepalive: {interval: 0}"), HasSubstr("expected a duration from 1s to 1h"));
  EXPECT_THAT(wrong("keepalive: {interval: 30 s}"), HasSubstr("found '30 s'"));
  EXPECT_THAT(wrong("shutdown: {grace: 1d}"), HasSubstr("expected a duration from 0s to 10m"));
  EXPECT_THAT(wrong("connect_timeout: 1ms"), HasSubstr("expected a duration from 100ms to 5m"));
  EXPECT_THAT(wrong("workers: 1000"), HasSubstr("found '1000' for 'workers'"));
  EXPECT_THAT(wrong("workers: -1"), HasSubstr("found '-1' for 'workers'"));
  EXPECT_THAT(wrong("tcp: {buffer: 4M}"), HasSubstr("found '4M' for 'tcp.buffer', expected a size such as 4MiB"));
  EXPECT_THAT(wrong("tcp: {buffer: 1}"), HasSubstr("found '1' for 'tcp.buffer'"));
  EXPECT_THAT(wrong("tcp: {congestion: 'a b'}"), HasSubstr("expected a congestion controller"));
  EXPECT_THAT(wrong("tcp: {congestion: far-too-long-a-name}"), HasSubstr("expected a congestion controller"));
  EXPECT_THAT(wrong("log: {level: loud}"), HasSubstr("expected one of trace, debug, info, warn, error"));
  EXPECT_THAT(wrong("ports: 0-5"), HasSubstr("found '0-5' for 'ports'"));
  EXPECT_THAT(wrong("ports: []"), HasSubstr("found a list for 'ports'"));
  EXPECT_THAT(wrong("ports: [80, {}]"), HasSubstr("found a map for 'ports'"));
  EXPECT_THAT(wrong("bind: 6000"), HasSubstr("found '6000' for 'bind', expected host:port such as 0.0.0.0:6000"));
  EXPECT_THAT(wrong("bind:"), HasSubstr("found nothing for 'bind'"));
  EXPECT_THAT(wrong("bind: ''"), HasSubstr("found an empty value for 'bind'"));
  EXPECT_THAT(wrong("stats: {allow: [10.0.0.0/33]}"), HasSubstr("found '10.0.0.0/33' for 'stats.allow'"));
  EXPECT_THAT(wrong("stats: maybe"), HasSubstr("found 'maybe' for 'stats'"));
  EXPECT_THAT(wrong("quic: {congestion: vegas}"), HasSubstr("expected one of bbr, cubic, reno"));
  EXPECT_THAT(wrong("tls: {cert: /no/such/file.pem}"),
              HasSubstr(":2:13: can't read /no/such/file.pem: No such file or directory"));
  EXPECT_THAT(wrong("tls: {cert: /}"), HasSubstr("/ is not a file"));
  EXPECT_THAT(wrong("state_dir: /dev/null"), HasSubstr("/dev/null is not a directory"));
  EXPECT_THAT(client_mistakes(least_client + "tunnels: 0\n"), HasSubstr("expected a number of tunnels from 1 to 64"));
  EXPECT_THAT(client_mistakes(least_client + "pool: 9999\n"), HasSubstr("from 0 to 1024"));
  EXPECT_THAT(client_mistakes(least_client + "tls: {pin: abc}\n"),
              HasSubstr("found 'abc' for 'tls.pin', expected a pin"));
  EXPECT_THAT(client_mistakes(least_client + "tls: {server_name: 'a b'}\n"), HasSubstr("expected a host name"));
}

TEST(Mistakes, TokensAreChecked) {
  EXPECT_EQ(server_mistakes("bind: a:1\n"),
            "server.yaml: found no 'auth', expected the clients' tokens, as in 'auth: {tokens: [a-long-random-text]}'");
  EXPECT_THAT(server_mistakes("auth: {}\n"), HasSubstr("server.yaml:1:7: found no token"));
  EXPECT_THAT(server_mistakes("auth: {tokens: []}\n"), HasSubstr("found no token"));
  EXPECT_THAT(server_mistakes("auth: {tokens: ['']}\n"), HasSubstr("found an empty secret"));
  EXPECT_THAT(server_mistakes("auth: {tokens: [aaaaaaaaaaaaaaaa, aaaaaaaaaaaaaaaa]}\n"),
              HasSubstr("server.yaml:1:35: found the same token as 'token-1'"));
  EXPECT_THAT(
      server_mistakes("auth: {tokens: [{token: aaaaaaaaaaaaaaaa, name: x}, {token: bbbbbbbbbbbbbbbb, name: x}]}\n"),
      HasSubstr("the token name 'x' a second time"));
  EXPECT_THAT(server_mistakes("auth: {tokens: [{name: x}]}\n"),
              HasSubstr("both or neither of 'token' and 'token_file'"));
  EXPECT_THAT(server_mistakes("auth: {tokens: [{token: aaaaaaaaaaaaaaaa, max_proxies: many}]}\n"),
              HasSubstr("found 'many' for 'auth.tokens.max_proxies'"));
  EXPECT_THAT(server_mistakes("auth: {tokens: [{token: aaaaaaaaaaaaaaaa, target_mbps: 0}]}\n"), HasSubstr("above 0"));
}

TEST(Mistakes, AreCollectedInTheFilesOrderAndNoMoreThan20) {
  const auto loaded = parse_server("bind: x\ncrypto: y\nmux: z\nauth: {tokens: [aaaaaaaaaaaaaaaa]}\n", "s.yaml");
  ASSERT_FALSE(loaded);
  ASSERT_EQ(loaded.error().size(), 3U);
  EXPECT_THAT(loaded.error()[0].message, StartsWith("s.yaml:1:7: "));
  EXPECT_THAT(loaded.error()[1].message, StartsWith("s.yaml:2:9: "));
  EXPECT_THAT(loaded.error()[2].message, StartsWith("s.yaml:3:6: "));
  EXPECT_EQ(loaded.error()[0].kind, ErrorKind::config);
  std::string many = least_server;
  for (int i = 0; i < 100; ++i) many += fmt::format("wrong{}: 1\n", i);
  const auto flood = parse_server(many, "s.yaml");
  ASSERT_FALSE(flood);
  EXPECT_EQ(flood.error().size(), 20U);
}

TEST(Mistakes, InTheYamlItselfAreExplained) {
  EXPECT_THAT(server_mistakes(""), StartsWith("server.yaml: found an empty file"));
  EXPECT_THAT(server_mistakes("# only words\n"), HasSubstr("found an empty file"));
  EXPECT_THAT(server_mistakes("---\n"), HasSubstr("found an empty file"));
  EXPECT_THAT(server_mistakes("- a\n"), StartsWith("server.yaml:1:1: found a list, expected a map of keys"));
  EXPECT_THAT(server_mistakes("hello\n"), HasSubstr("found a value, expected a map of keys"));
  EXPECT_THAT(server_mistakes("a: b: c\n"), HasSubstr("server.yaml:1:5: found a mistake in the YAML"));
  EXPECT_THAT(server_mistakes("auth:\n\ttokens: [a]\n"), HasSubstr("found a tab in the indentation"));
  EXPECT_THAT(server_mistakes("auth: {tokens: [a\nbind: b:1\n"), HasSubstr("found a mistake in the YAML"));
  EXPECT_THAT(server_mistakes(least_server + "---\nbind: a:1\n"),
              HasSubstr("server.yaml:3:1: found a second YAML document"));
  EXPECT_THAT(server_mistakes("? [a]\n: b\n"), HasSubstr("found a list as a key"));
  EXPECT_THAT(server_mistakes(std::string("a: \0b\n", 6)), HasSubstr("found a zero byte at offset 3"));
}

TEST(Mistakes, HostileYamlIsRefusedInBoundedTimeAndMemory) {
  EXPECT_THAT(server_mistakes(std::string(100'000, '[')), HasSubstr("nested hundreds of levels deep"));
  std::string nested;
  for (int i = 0; i < 100'000; ++i) nested += "? ";
  EXPECT_THAT(server_mistakes(nested), HasSubstr("nested hundreds of levels deep"));
  EXPECT_THAT(server_mistakes(std::string((1u << 20) + 1, '#')), HasSubstr("at most 1048576 bytes"));
  // Nine lists of nine aliases each, nine levels deep: 9^9 values if anyone followed them.
  std::string bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n";
  for (char c = 'b'; c <= 'i'; ++c) {
    bomb += fmt::format("{}: &{} [", c, c);
    for (int i = 0; i < 9; ++i) bomb += fmt::format("*{},", static_cast<char>(c - 1));
    bomb += "]\n";
  }
  EXPECT_THAT(server_mistakes(bomb + "auth: {tokens: *i}\n"), HasSubstr("unknown key"));
  EXPECT_NE(server_mistakes("&a auth: &b {tokens: *b}\n"), "");
  EXPECT_NE(server_mistakes("brutal: &a {enabled: *a}\n"), "");
}

TEST(Mistakes, BinaryRubbishIsAMistakeNotACrash) {
  std::uint32_t state = 1;
  for (int round = 0; round < 300; ++round) {
    std::string rubbish;
    for (int i = 0; i < 200; ++i) {
      state = state * 1664525U + 1013904223U;
      rubbish += static_cast<char>(1 + (state >> 24) % 255);
    }
    EXPECT_NE(server_mistakes(rubbish), "") << round;
    EXPECT_NE(client_mistakes(rubbish), "") << round;
  }
}

TEST(Mistakes, EveryCutOfAGoodFileIsEitherGoodOrExplained) {
  const std::string yaml =
      "bind: 0.0.0.0:6000\nauth:\n  tokens: [{token: 'your-secret-token', ports: [1, 2-3]}, \"${HOME}\"]\nbrutal: "
      "{enabled: true, target_mbps: 100}\n";
  for (std::size_t n = 0; n <= yaml.size(); ++n) {
    const auto loaded = parse_server(yaml.substr(0, n), "s.yaml");
    if (loaded) continue;
    ASSERT_FALSE(loaded.error().empty()) << n;
    for (const Error& error : loaded.error()) EXPECT_THAT(error.message, StartsWith("s.yaml:"));
  }
}

TEST(Mistakes, QuotedTextIsCutAndHasNoControlCharacters) {
  const std::string mistakes = server_mistakes(least_server + "bind: \"" + std::string(5000, 'x') + "\"\n");
  EXPECT_LT(mistakes.size(), 300U);
  EXPECT_THAT(server_mistakes(least_server + "\"a\\x1bb\": 1\n"), Not(HasSubstr("\x1b")));
  EXPECT_THAT(server_mistakes(least_server + "bind: \"a\\nb\"\n"),
              HasSubstr("found a control character (a line break?) in 'bind'"));
}

}  // namespace
}  // namespace qtrp::config
