#include <fmt/format.h>

#include "texts.h"

namespace qtrp::config {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

std::string with_proxy(const std::string& proxy) {
  return "server: a:1\ntoken: a-token-of-16-or-more\nproxies:\n  - " + proxy + "\n";
}

TEST(ClientConfig, TheSeedsFileWorksAsItStands) {
  const ClientConfig c = client(
      "server: vps.example.com:6000\n"
      "transport: net\n"
      "crypto: tls\n"
      "token: your-secret-token\n"
      "proxies:\n"
      "  - {remote_port: 2222, local_addr: 127.0.0.1:22}\n"
      "  - {remote_port: 8000-8005, local_addr: 127.0.0.1:8000}\n"
      "brutal: {enabled: true, target_mbps: 100}\n");
  EXPECT_EQ(c.server, (io::HostPort{"vps.example.com", 6000}));
  EXPECT_EQ(c.token, "your-secret-token");
  ASSERT_EQ(c.proxies.size(), 7U);
  EXPECT_EQ(c.proxies[0].remote_port, 2222);
  EXPECT_EQ(c.proxies[0].local, (io::HostPort{"127.0.0.1", 22}));
  EXPECT_EQ(c.proxies[0].name, "2222");
  EXPECT_EQ(c.proxies[0].type, "tcp");
  EXPECT_EQ(c.proxies[0].bind, "");
  for (std::uint16_t i = 0; i < 6; ++i) {
    EXPECT_EQ(c.proxies[1U + i].remote_port, 8000 + i);
    EXPECT_EQ(c.proxies[1U + i].local, (io::HostPort{"127.0.0.1", static_cast<std::uint16_t>(8000 + i)}));
  }
  EXPECT_EQ(c.tunnel_count(), 2U);
  EXPECT_EQ(c.pool, 0U);
  EXPECT_FALSE(c.name.empty());
  EXPECT_THAT(c.warnings, IsEmpty());
}

TEST(ClientConfig, BrutalOverTcpBringsASecondTunnelUnlessANumberIsNamed) {
  const std::string least =
      "server: a:1\ntoken: a-token-of-16-or-more\nproxies: [{remote_port: 1, local_addr: 'h:1'}]\n";
  const std::string brutal = "brutal: {enabled: true, target_mbps: 100}\n";
  EXPECT_EQ(client(least).tunnel_count(), 1U);
  EXPECT_EQ(client(least + brutal).tunnel_count(), 2U);
  EXPECT_EQ(client(least + "brutal: {enabled: false, target_mbps: 100}\n").tunnel_count(), 1U);
  EXPECT_EQ(client(least + brutal + "tunnels: 1\n").tunnel_count(), 1U);
  EXPECT_EQ(client(least + brutal + "tunnels: 3\n").tunnel_count(), 3U);
  if (available(Transport::epoll)) {
    EXPECT_EQ(client(least + brutal + "transport: epoll\n").tunnel_count(), 2U);
  }
  if (available(Transport::quic)) {
    EXPECT_EQ(client(least + brutal + "transport: quic\n").tunnel_count(), 1U);
  }
  EXPECT_THAT(show(client(least + brutal)), HasSubstr("\ntunnels: 2\n"));
}

TEST(ClientConfig, EveryKeyOfItsOwnIsRead) {
  const std::string pin(64, '0');
  const ClientConfig c = client(
      "server: '[2001:db8::1]:6000'\n"
      "token: a-token-of-16-or-more\n"
      "name: kitchen\n"
      "tunnels: 4\n"
      "pool: 2\n"
      "stats: {listen: 127.0.0.1:0}\n"
      "tls: {pin: [" +
      pin + ", 'sha256:" + pin +
      "'], server_name: vps.example.com}\n"
      "proxies:\n"
      "  - {remote_port: 0, local_addr: 'db.lan:5432', name: db, bind: 127.0.0.1, type: tcp}\n"
      "  - {remote_port: 0, local_addr: '[::1]:80', bind: '[::1]'}\n");
  EXPECT_EQ(c.server, (io::HostPort{"2001:db8::1", 6000}));
  EXPECT_EQ(c.name, "kitchen");
  EXPECT_EQ(c.tunnel_count(), 4U);
  EXPECT_EQ(c.pool, 2U);
  EXPECT_TRUE(c.stats.enabled);
  EXPECT_EQ(c.stats.listen.port, 0);
  EXPECT_THAT(c.tls.pins, ElementsAre(pin, "sha256:" + pin));
  EXPECT_EQ(c.tls.server_name, "vps.example.com");
  ASSERT_EQ(c.proxies.size(), 2U);
  EXPECT_EQ(c.proxies[0].name, "db");
  EXPECT_EQ(c.proxies[0].bind, "127.0.0.1");
  EXPECT_EQ(c.proxies[0].local, (io::HostPort{"db.lan", 5432}));
  EXPECT_EQ(c.proxies[1].name, "auto-1");
  EXPECT_EQ(c.proxies[1].bind, "::1");
  EXPECT_EQ(c.proxies[1].local, (io::HostPort{"::1", 80}));
}

TEST(ClientConfig, StatsAreOffUnlessAskedForSoThatBothDaemonsFitOnOneMachine) {
  EXPECT_FALSE(client(least_client).stats.enabled);
  EXPECT_TRUE(client(least_client + "stats: true\n").stats.enabled);
  EXPECT_EQ(client(least_client + "stats: true\n").stats.listen, (io::HostPort{"127.0.0.1", 7500}));
}

TEST(ClientConfig, ARangeCountsUpFromTheLocalPortAndNamesItsMembers) {
  const auto c = client(with_proxy("{remote_port: 8000-8002, local_addr: 'h:9000', name: web}"));
  ASSERT_EQ(c.proxies.size(), 3U);
  EXPECT_EQ(c.proxies[2].remote_port, 8002);
  EXPECT_EQ(c.proxies[2].local.port, 9002);
  EXPECT_EQ(c.proxies[2].name, "web-8002");
}

TEST(ClientConfig, ARangeMayEndAtTheLastPortAndNotBeyond) {
  EXPECT_EQ(client(with_proxy("{remote_port: 65530-65535, local_addr: 'h:65530'}")).proxies.size(), 6U);
  EXPECT_THAT(client_mistakes(with_proxy("{remote_port: 8000-8006, local_addr: 'h:65530'}")),
              HasSubstr("client.yaml:4:42: found 7 ports counted up from local port 65530, which ends at 65536, "
                        "expected at most 65535"));
}

TEST(ClientConfig, TheSameRemotePortTwiceIsRefusedUnlessTheBindAddressDiffers) {
  const std::string first = "{remote_port: 80, local_addr: 'h:1'}";
  EXPECT_THAT(client_mistakes(with_proxy(first + "\n  - " + first)),
              HasSubstr("client.yaml:5:19: found remote port 80 a second time, expected it once (it is in line 4)"));
  EXPECT_THAT(client_mistakes(with_proxy(first + "\n  - {remote_port: 79-81, local_addr: 'h:1'}")),
              HasSubstr("remote port 80 a second time"));
  const auto c = client(with_proxy(
      "{remote_port: 80, local_addr: 'h:1', bind: 127.0.0.1}\n  - {remote_port: 80, local_addr: 'h:1', bind: '::1'}"));
  ASSERT_EQ(c.proxies.size(), 2U);
  EXPECT_EQ(c.proxies[0].name, "80");
  EXPECT_EQ(c.proxies[1].name, "[::1]:80");
  EXPECT_EQ(
      client(with_proxy("{remote_port: 0, local_addr: 'h:1'}\n  - {remote_port: 0, local_addr: 'h:1'}")).proxies.size(),
      2U);
}

TEST(ClientConfig, ProxyNamesDiffer) {
  EXPECT_THAT(client_mistakes(with_proxy(
                  "{remote_port: 1, local_addr: 'h:1', name: a}\n  - {remote_port: 2, local_addr: 'h:1', name: a}")),
              HasSubstr("found the proxy name 'a' a second time"));
}

TEST(ClientConfig, WrongProxiesSayWhatIsWrongWithThem) {
  EXPECT_THAT(client_mistakes(with_proxy("{local_addr: 'h:1'}")),
              HasSubstr("client.yaml:4:5: found a proxy without 'remote_port'"));
  EXPECT_THAT(client_mistakes(with_proxy("{remote_port: 1}")), HasSubstr("without 'local_addr'"));
  EXPECT_THAT(client_mistakes(with_proxy("{remote_port: 70000, local_addr: 'h:1'}")),
              HasSubstr("client.yaml:4:19: found '70000' for 'proxies.remote_port'"));
  EXPECT_THAT(client_mistakes(with_proxy("{remote_port: 8005-8000, local_addr: 'h:1'}")), HasSubstr("the lower first"));
  EXPECT_THAT(client_mistakes(with_proxy("{remote_port: 0-5, local_addr: 'h:1'}")), HasSubstr("found '0-5'"));
  EXPECT_THAT(client_mistakes(with_proxy("{remote_port: -1, local_addr: 'h:1'}")), HasSubstr("found '-1'"));
  EXPECT_THAT(client_mistakes(with_proxy("{remote_port: 1, local_addr: 'h:0'}")), HasSubstr("port from 1 to 65535"));
  EXPECT_THAT(client_mistakes(with_proxy("{remote_port: 1, local_addr: 22}")),
              HasSubstr("found '22' for 'proxies.local_addr', expected host:port"));
  EXPECT_THAT(client_mistakes(with_proxy("{remote_port: 1, local_addr: 'h:1', bind: localhost}")),
              HasSubstr("expected an IPv4 or IPv6 address"));
  EXPECT_THAT(client_mistakes(with_proxy("{remote_port: 1, local_addr: 'h:1', type: udp}")),
              HasSubstr("found 'udp' for 'proxies.type', expected one of tcp"));
  EXPECT_THAT(client_mistakes(with_proxy("2222")), HasSubstr("found '2222' for 'proxies', expected a map"));
  EXPECT_THAT(client_mistakes("server: a:1\ntoken: a-token-of-16-or-more\nproxies: []\n"),
              HasSubstr("client.yaml:3:10: found an empty list of proxies"));
}

TEST(ClientConfig, TheProxyProtocolIsChosenForEachProxy) {
  const auto c = client(with_proxy(
      "{remote_port: 80-81, local_addr: 'h:80', proxy_protocol: v1}\n"
      "  - {remote_port: 443, local_addr: 'h:443', proxy_protocol: v2}\n  - {remote_port: 22, local_addr: 'h:22'}"));
  ASSERT_EQ(c.proxies.size(), 4U);
  EXPECT_EQ(c.proxies[0].proxy_protocol, "v1");
  EXPECT_EQ(c.proxies[1].proxy_protocol, "v1");
  EXPECT_EQ(c.proxies[2].proxy_protocol, "v2");
  EXPECT_EQ(c.proxies[3].proxy_protocol, "");
  EXPECT_EQ(client(show(c)).proxies[2].proxy_protocol, "v2");
  EXPECT_THAT(client_mistakes(with_proxy("{remote_port: 1, local_addr: 'h:1', proxy_protocol: true}")),
              HasSubstr("found 'true' for 'proxies.proxy_protocol', expected one of v1, v2"));
}

TEST(ClientConfig, MillionsOfPortsAreRefusedBeforeTheyFillTheMemory) {
  std::string yaml = "server: a:1\ntoken: a-token-of-16-or-more\nproxies:\n";
  for (int i = 0; i < 1000; ++i)
    yaml += fmt::format("  - {{remote_port: 1-65535, local_addr: 'h:1', bind: 10.0.{}.{}, name: p{}}}\n", i / 250,
                        i % 250, i);
  EXPECT_THAT(client_mistakes(yaml), HasSubstr("more than 65536 ports"));
}

TEST(ClientConfig, AddressesNeedAHostAndAPort) {
  const auto with_server = [](const std::string& server) {
    return client_mistakes(
        "token: a-token-of-16-or-more\nproxies: [{remote_port: 1, local_addr: 'h:1'}]\nserver: " + server + "\n");
  };
  EXPECT_EQ(with_server("localhost:1"), "");
  EXPECT_EQ(with_server("'[::1]:1'"), "");
  EXPECT_THAT(with_server("vps.example.com"),
              HasSubstr("client.yaml:3:9: found 'vps.example.com' for 'server', expected host:port"));
  EXPECT_THAT(with_server("':6000'"), HasSubstr("with a host before the colon"));
  EXPECT_THAT(with_server("a:0"), HasSubstr("port from 1 to 65535"));
  EXPECT_THAT(with_server("a:65536"), HasSubstr("expected host:port"));
  EXPECT_THAT(with_server("'a b:1'"), HasSubstr("expected host:port"));
  EXPECT_THAT(with_server("a..b:1"), HasSubstr("with a valid host name"));
  EXPECT_THAT(with_server("https://a:1"), HasSubstr("found 'https://a:1'"));
  EXPECT_THAT(with_server("[::1]"), HasSubstr("an IPv6 address needs quotes"));
  EXPECT_THAT(with_server("[::1]:6000"), HasSubstr("client.yaml:3:14: found an IPv6 address without quotes"));
}

TEST(ClientConfig, WhatIsMissingIsNamed) {
  const std::string mistakes = client_mistakes("crypto: tls\n");
  EXPECT_THAT(mistakes, HasSubstr("client.yaml: found no 'server'"));
  EXPECT_THAT(mistakes, HasSubstr("client.yaml: found no 'token'"));
  EXPECT_THAT(mistakes, HasSubstr("client.yaml: found no 'proxies'"));
}

TEST(ClientConfig, ShowLoadsAgainAsTheSameConfiguration) {
  const ClientConfig first =
      client(least_client + "tls: {pin: " + std::string(64, 'a') +
             ", server_name: b}\nstats: {listen: '[::1]:7', token: keep-me-hidden-please}\nname: 'null'\n");
  const std::string shown = show(first);
  EXPECT_EQ(show(client(shown)), shown);
  EXPECT_EQ(client(shown).name, "null");
  EXPECT_THAT(shown, Not(HasSubstr("a-token-of")));
  EXPECT_THAT(shown, Not(HasSubstr("hidden")));
}

}  // namespace
}  // namespace qtrp::config
