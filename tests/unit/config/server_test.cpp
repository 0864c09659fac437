#include "texts.h"

namespace qtrp::config {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(ServerConfig, TheSeedsFileWorksAsItStands) {
  const ServerConfig c = server(
      "bind: 0.0.0.0:6000\n"
      "transport: net        # net|epoll|quic\n"
      "crypto: tls           # tls|chacha20|none\n"
      "auth:\n"
      "  tokens: [your-secret-token]\n"
      "brutal: {enabled: true, target_mbps: 100}\n");
  EXPECT_EQ(c.bind, (io::HostPort{"0.0.0.0", 6000}));
  EXPECT_EQ(c.transport, Transport::net);
  EXPECT_EQ(c.crypto, Crypto::tls);
  ASSERT_EQ(c.tokens.size(), 1U);
  EXPECT_EQ(c.tokens[0].token, "your-secret-token");
  EXPECT_EQ(c.tokens[0].name, "token-1");
  EXPECT_TRUE(c.brutal.enabled);
  EXPECT_EQ(c.brutal.target_mbps, 100);
  EXPECT_THAT(c.warnings, IsEmpty());
}

TEST(ServerConfig, TheLeastFileHasTheDocumentedDefaults) {
  const ServerConfig c = server(least_server);
  EXPECT_EQ(c.bind, (io::HostPort{"::", 6000}));
  EXPECT_EQ(c.transport, Transport::net);
  EXPECT_EQ(c.crypto, Crypto::tls);
  EXPECT_EQ(c.mux, Mux::smux);
  EXPECT_FALSE(c.brutal.enabled);
  EXPECT_TRUE(c.stats.enabled);
  EXPECT_EQ(c.stats.listen, (io::HostPort{"127.0.0.1", 7500}));
  EXPECT_EQ(c.keepalive_interval, 30s);
  EXPECT_EQ(c.shutdown_grace, 5s);
  EXPECT_EQ(c.connect_timeout, 10s);
  EXPECT_EQ(c.workers, 0U);
  EXPECT_EQ(c.log.level, "info");
  EXPECT_EQ(c.quic.congestion, "bbr");
  EXPECT_EQ(c.quic.masquerade, "404");
  EXPECT_EQ(c.tcp.congestion, "");
  EXPECT_EQ(c.tcp.buffer, 0U);
  EXPECT_TRUE(allows(c.ports, 1) && allows(c.ports, 65535));
}

TEST(ServerConfig, EveryKeyIsRead) {
  const ServerConfig c = server(
      "bind: '[::1]:0'\n"
      "transport: epoll\n"
      "crypto: chacha20\n"
      "mux: yamux\n"
      "chacha20: {psk: a-pre-shared-key-of-some-length}\n"
      "brutal: {enabled: no, target_mbps: 12.5, mode: pacer}\n"
      "tcp: {congestion: cubic, buffer: 4MiB}\n"
      "stats: {listen: '0.0.0.0:7501', token: another-secret-for-stats, allow: [192.0.2.0/24, '2001:db8::/32']}\n"
      "log: {level: debug}\n"
      "workers: 3\n"
      "keepalive: {interval: 15}\n"
      "shutdown: {grace: 500ms}\n"
      "connect_timeout: 3s\n"
      "ports: [1000-2000, 3000]\n"
      "auth:\n"
      "  tokens:\n"
      "    - a-token-of-16-or-more\n"
      "    - {token: another-token-of-16, name: office, ports: 8000-8005, max_proxies: 3, max_connections: 0, "
      "target_mbps: 50}\n");
  EXPECT_EQ(c.bind, (io::HostPort{"::1", 0}));
  EXPECT_EQ(c.transport, Transport::epoll);
  EXPECT_EQ(c.crypto, Crypto::chacha20);
  EXPECT_EQ(c.mux, Mux::yamux);
  EXPECT_EQ(c.chacha20_psk, "a-pre-shared-key-of-some-length");
  EXPECT_FALSE(c.brutal.enabled);
  EXPECT_EQ(c.brutal.target_mbps, 12.5);
  EXPECT_EQ(c.brutal.mode, "pacer");
  EXPECT_EQ(c.tcp.congestion, "cubic");
  EXPECT_EQ(c.tcp.buffer, 4U << 20);
  EXPECT_EQ(c.stats.listen, (io::HostPort{"0.0.0.0", 7501}));
  EXPECT_EQ(c.stats.token, "another-secret-for-stats");
  EXPECT_THAT(c.stats.allow, ElementsAre("192.0.2.0/24", "2001:db8::/32"));
  EXPECT_EQ(c.log.level, "debug");
  EXPECT_EQ(c.workers, 3U);
  EXPECT_EQ(c.keepalive_interval, 15s);
  EXPECT_EQ(c.shutdown_grace, 500ms);
  EXPECT_EQ(c.connect_timeout, 3s);
  EXPECT_TRUE(allows(c.ports, 3000) && allows(c.ports, 1500) && !allows(c.ports, 2001));
  ASSERT_EQ(c.tokens.size(), 2U);
  EXPECT_EQ(c.tokens[0].name, "token-1");
  EXPECT_FALSE(c.tokens[0].max_proxies.has_value());
  EXPECT_EQ(c.tokens[1].name, "office");
  EXPECT_TRUE(allows(c.tokens[1].ports, 8005) && !allows(c.tokens[1].ports, 8006));
  EXPECT_EQ(c.tokens[1].max_proxies, 3U);
  EXPECT_EQ(c.tokens[1].max_connections, 0U);
  EXPECT_EQ(c.tokens[1].target_mbps, 50.0);
  EXPECT_THAT(c.warnings, IsEmpty());
}

TEST(ServerConfig, GnetIsTheSeedsNameForEpoll) {
  EXPECT_EQ(server(least_server + "transport: gnet\n").transport, Transport::epoll);
}

TEST(ServerConfig, AnEngineThatIsNotBuiltInIsRefusedByName) {
  EXPECT_TRUE(available(Transport::net));
  for (const Transport t : {Transport::net, Transport::epoll, Transport::quic}) {
    const std::string mistakes = server_mistakes(least_server + "transport: " + std::string(to_string(t)) + "\n");
    if (available(t)) {
      EXPECT_EQ(mistakes, "");
    } else {
      EXPECT_THAT(mistakes, HasSubstr("server.yaml:2:12: transport '" + std::string(to_string(t)) +
                                      "' is not built into this binary"));
    }
  }
}

TEST(ServerConfig, QuicGoesWithTlsOnly) {
  EXPECT_THAT(server_mistakes(least_server + "transport: quic\ncrypto: none\n"),
              HasSubstr("server.yaml:3:9: found crypto 'none' with transport 'quic'"));
  EXPECT_THAT(server_mistakes(least_server + "transport: quic\ncrypto: chacha20\n"),
              HasSubstr("QUIC is always encrypted"));
  EXPECT_THAT(server_mistakes(least_server + "transport: quic\ncrypto: tls\n"),
              testing::Not(HasSubstr("QUIC is always encrypted")));
}

TEST(ServerConfig, StatsCanBeTurnedOff) {
  EXPECT_FALSE(server(least_server + "stats: false\n").stats.enabled);
  EXPECT_TRUE(server(least_server + "stats: true\n").stats.enabled);
}

TEST(ServerConfig, StatsBeyondLoopbackWantAToken) {
  EXPECT_THAT(
      server_mistakes(least_server + "stats: {listen: 0.0.0.0:7500}\n"),
      HasSubstr(
          "server.yaml:2:17: found stats.listen on 0.0.0.0:7500, which others can reach, expected a stats.token"));
  EXPECT_THAT(server_mistakes(least_server + "stats: {listen: ':7500'}\n"), HasSubstr("expected a stats.token"));
  EXPECT_EQ(server_mistakes(least_server + "stats: {listen: 'localhost:7500'}\n"), "");
  EXPECT_EQ(server_mistakes(least_server + "stats: {listen: '[::1]:7500'}\n"), "");
}

TEST(ServerConfig, CryptoNoneSaysWhatItMeans) {
  EXPECT_THAT(server(least_server + "crypto: none\n").warnings,
              ElementsAre(testing::AllOf(HasSubstr("anyone on the path"), HasSubstr("read"), HasSubstr("forge"))));
}

TEST(ServerConfig, ShortTokensGetAWarningThatNamesThemWithoutShowingThem) {
  const auto c = server("auth: {tokens: [fifteen-letters, sixteen-letters-]}\n");
  ASSERT_EQ(c.warnings.size(), 1U);
  EXPECT_THAT(c.warnings[0], HasSubstr("token 'token-1' has fewer than 16 characters"));
  EXPECT_THAT(c.warnings[0], testing::Not(HasSubstr("fifteen")));
}

TEST(ServerConfig, KeysThatHaveNoEffectWithTheOthersAreNamed) {
  EXPECT_THAT(server(least_server + "quic: {congestion: reno}\n").warnings,
              ElementsAre(HasSubstr("server.yaml:2: 'quic' has no effect")));
  EXPECT_THAT(server(least_server + "chacha20: {psk: a-pre-shared-key-of-some-length}\n").warnings,
              ElementsAre(HasSubstr("'chacha20' has no effect")));
}

TEST(ServerConfig, ShowLoadsAgainAsTheSameConfiguration) {
  for (const char* more : {"", "crypto: chacha20\nchacha20: {psk: some-secret-pre-shared-key}\nmux: yamux\n",
                           "bind: '[::1]:0'\nstats: {listen: '[::]:1', token: the-stats-token-is-secret, allow: "
                           "[192.0.2.0/24]}\nports: [1-5, 9]\n",
                           "stats: false\nconnect_timeout: 1500ms\nstate_dir: 'a dir: \"with\" $${odd} ü'\ntcp: "
                           "{congestion: bbr, buffer: 1MiB}\n"}) {
    const ServerConfig first =
        server(std::string(
                   "auth: {tokens: [{token: the-token-is-secret, name: 'a: b', max_proxies: 2, target_mbps: 1.5}]}\n") +
               more);
    const std::string shown = show(first);
    const ServerConfig again = server(shown);
    EXPECT_EQ(show(again), shown);
    EXPECT_EQ(again.state_dir, first.state_dir);
    EXPECT_EQ(again.tokens[0].name, "a: b");
    EXPECT_THAT(shown, testing::Not(HasSubstr("secret"))) << shown;
    EXPECT_THAT(shown, HasSubstr("***"));
  }
}

}  // namespace
}  // namespace qtrp::config
