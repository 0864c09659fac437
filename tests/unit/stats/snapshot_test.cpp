#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "qtrp/session/session.h"
#include "qtrp/stats/version.h"
#include "sample.h"

namespace qtrp::stats {
namespace {

using nlohmann::json;

TEST(StatsJson, HasTheDocumentedKeysWithTheirFigures) {
  const json j = json::parse(to_json(sample()));
  EXPECT_EQ(j["role"], "server");
  EXPECT_EQ(j["version"], version());
  EXPECT_EQ(j["uptime_seconds"], 90);
  EXPECT_EQ(j["active_clients"], 1);
  EXPECT_EQ(j["active_proxies"], 1);  // of two, one is not open
  EXPECT_EQ(j["active_connections"], 3);
  EXPECT_EQ(j["total_connections"], 4);
  EXPECT_EQ(j["bytes_in"], 18'446'744'073'709'551'615U);
  EXPECT_EQ(j["bytes_out"], 2);
  EXPECT_EQ(j["bandwidth"]["in_mbps"], 1.235);
  EXPECT_EQ(j["bandwidth"]["out_mbps"], 250);
  const json& client = j["clients"].at(0);
  EXPECT_EQ(client["name"], "kitchen");
  EXPECT_EQ(client["token"], "office");
  EXPECT_EQ(client["connected_seconds"], 60);
  EXPECT_EQ(client["bytes_in"], 5);
  const json& ssh = j["proxies"].at(0);
  EXPECT_EQ(ssh["name"], "ssh");
  EXPECT_EQ(ssh["port"], 2222);
  EXPECT_EQ(ssh["open"], true);
  EXPECT_EQ(ssh["total_connections"], 12);
  EXPECT_FALSE(ssh.contains("problem"));
  EXPECT_EQ(j["proxies"].at(1)["problem"], "port_in_use");
  EXPECT_EQ(j["proxies"].at(1)["local_addr"], "127.0.0.1:80");
  const json& tunnel = j["tunnels"].at(0);
  EXPECT_EQ(tunnel["transport"], "net");
  EXPECT_EQ(tunnel["cipher"], "tls TLS_AES_128_GCM_SHA256");
  EXPECT_EQ(tunnel["mux"], "smux");
  EXPECT_EQ(tunnel["congestion"], "brutal (bpf)");
  EXPECT_EQ(tunnel["target_mbps"], 100);
  EXPECT_EQ(tunnel["ack_rate"], 0.91);
  EXPECT_EQ(tunnel["rtt_ms"], 20.5);
  EXPECT_EQ(tunnel["retransmitted_bytes"], 15);
}

TEST(StatsJson, OfNothingIsStillWhole) {
  const json j = json::parse(to_json({}));
  EXPECT_EQ(j["active_clients"], 0);
  EXPECT_EQ(j["clients"], json::array());
  EXPECT_EQ(j["proxies"], json::array());
  EXPECT_EQ(j["tunnels"], json::array());
  EXPECT_EQ(j["bandwidth"]["in_mbps"], 0);
}

TEST(StatsJson, NamesOfPeersCannotBreakIt) {
  Snapshot s = sample();
  s.clients[0].name = "a\"b\\c\n\xff\xc3\x28\x01";
  const json j = json::parse(to_json(s));
  EXPECT_EQ(j["clients"].at(0)["name"], "a\"b\\c\n\xef\xbf\xbd\xef\xbf\xbd(\x01");
}

TEST(StatsJson, TheListsComeAlone) {
  const Snapshot s = sample();
  EXPECT_EQ(json::parse(clients_json(s)), json::parse(to_json(s))["clients"]);
  EXPECT_EQ(json::parse(proxies_json(s)), json::parse(to_json(s))["proxies"]);
  EXPECT_EQ(json::parse(tunnels_json(s)), json::parse(to_json(s))["tunnels"]);
}

TEST(TunnelFigures, TakeOverASessionsInTheirOwnUnits) {
  session::SessionStats from;
  from.wire_bytes_in = 1;
  from.wire_bytes_out = 2;
  from.rtt = std::chrono::microseconds(20'500);
  from.retransmitted_bytes = 3;
  from.lost_packets = 4;
  from.rate_bps = 110'000'000;
  from.target_bps = 100'000'000;
  from.ack_rate = 0.5;
  from.congestion = "bbr";
  from.cipher = "chacha20";
  from.transport = "epoll";
  from.mux = "yamux";
  TunnelFigures t;
  t.set_session(from);
  EXPECT_DOUBLE_EQ(t.rtt_ms, 20.5);
  EXPECT_DOUBLE_EQ(t.rate_mbps, 110);
  EXPECT_DOUBLE_EQ(t.target_mbps, 100);
  EXPECT_EQ(t.ack_rate, 0.5);
  EXPECT_EQ(t.wire_bytes_in, 1U);
  EXPECT_EQ(t.wire_bytes_out, 2U);
  EXPECT_EQ(t.retransmitted_bytes, 3U);
  EXPECT_EQ(t.lost_packets, 4U);
  EXPECT_EQ(t.congestion + t.cipher + t.transport + t.mux, "bbrchacha20epollyamux");
}

}  // namespace
}  // namespace qtrp::stats
