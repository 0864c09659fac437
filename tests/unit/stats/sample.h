// One snapshot with something in every field.
#pragma once

#include "qtrp/stats/snapshot.h"

namespace qtrp::stats {

inline Snapshot sample() {
  Snapshot s;
  s.role = "server";
  s.uptime = std::chrono::seconds(90);
  s.in_mbps = 1.23456;
  s.out_mbps = 250;
  s.totals = {.bytes_in = 18'446'744'073'709'551'615U, .bytes_out = 2, .active_connections = 3, .total_connections = 4};
  s.clients.push_back({.name = "kitchen",
                       .instance = "00ff",
                       .token = "office",
                       .connected = std::chrono::seconds(60),
                       .tunnels = 1,
                       .proxies = 2,
                       .totals = {.bytes_in = 5, .bytes_out = 6, .active_connections = 7, .total_connections = 8}});
  s.proxies.push_back({.name = "ssh",
                       .client = "kitchen",
                       .type = "tcp",
                       .bind = "0.0.0.0",
                       .remote_port = 2222,
                       .local_addr = {},
                       .open = true,
                       .problem = {},
                       .totals = {.bytes_in = 9, .bytes_out = 10, .active_connections = 11, .total_connections = 12}});
  s.proxies.push_back({.name = "web",
                       .client = "kitchen",
                       .type = "tcp",
                       .bind = {},
                       .remote_port = 80,
                       .local_addr = "127.0.0.1:80",
                       .open = false,
                       .problem = "port_in_use",
                       .totals = {}});
  TunnelFigures t;
  t.client = "kitchen";
  t.address = "203.0.113.7:50312";
  t.connected = std::chrono::seconds(60);
  t.connections = 7;
  t.transport = "net";
  t.cipher = "tls TLS_AES_128_GCM_SHA256";
  t.mux = "smux";
  t.congestion = "brutal (bpf)";
  t.rtt_ms = 20.5;
  t.rate_mbps = 110;
  t.target_mbps = 100;
  t.ack_rate = 0.91;
  t.wire_bytes_in = 13;
  t.wire_bytes_out = 14;
  t.retransmitted_bytes = 15;
  t.lost_packets = 16;
  s.tunnels.push_back(t);
  return s;
}

}  // namespace qtrp::stats
