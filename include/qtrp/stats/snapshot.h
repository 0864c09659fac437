// What a daemon tells about itself: one consistent picture, and its forms for programs (JSON of /stats, OpenMetrics of
// /metrics). "in" is from users to local services, "out" the other way; bytes are payload bytes.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace qtrp::stats {

struct Totals {
  std::uint64_t bytes_in = 0, bytes_out = 0;
  std::uint64_t active_connections = 0, total_connections = 0;
};

struct ClientFigures {
  std::string name;      ///< as the client calls itself
  std::string instance;  ///< its instance id, in hex
  std::string token;     ///< the name of the token it came with, never the token
  std::chrono::seconds connected{};
  std::uint64_t tunnels = 0, proxies = 0;
  Totals totals;
};

struct ProxyFigures {
  std::string name, client, type, bind;  ///< client: its name; bind: the address listened on
  std::uint16_t remote_port = 0;
  std::string local_addr;  ///< known to the client only
  bool open = true;
  std::string problem;  ///< why it is not open: "port_in_use", ...
  Totals totals;
};

struct TunnelFigures {
  std::string client, address;  ///< name of the client; the other end's address
  std::chrono::seconds connected{};
  std::uint64_t connections = 0;
  std::string transport, cipher, mux, congestion;
  double rtt_ms = 0, rate_mbps = 0;      ///< 0: unknown
  double target_mbps = 0, ack_rate = 0;  ///< Brutal's; 0: without
  std::uint64_t wire_bytes_in = 0, wire_bytes_out = 0, retransmitted_bytes = 0, lost_packets = 0;

  /// Takes over a session's figures (session::SessionStats; a template, since this room stands below that one).
  template <typename SessionStats>
  void set_session(const SessionStats& s) {
    transport = s.transport;
    cipher = s.cipher;
    mux = s.mux;
    congestion = s.congestion;
    rtt_ms = std::chrono::duration<double, std::milli>(s.rtt).count();
    rate_mbps = static_cast<double>(s.rate_bps) / 1e6;
    target_mbps = static_cast<double>(s.target_bps) / 1e6;
    ack_rate = s.ack_rate;
    wire_bytes_in = s.wire_bytes_in;
    wire_bytes_out = s.wire_bytes_out;
    retransmitted_bytes = s.retransmitted_bytes;
    lost_packets = s.lost_packets;
  }
};

struct ConnectionFigures {
  std::uint64_t number = 0;  ///< the server's, the same at both ends
  std::string user;          ///< "203.0.113.9:51234"
  std::string client, instance, proxy;
  std::uint16_t port = 0;  ///< the server's, that the user came to
  std::string local_addr;  ///< known to the client only
  std::chrono::milliseconds age{};
  std::uint64_t bytes_in = 0, bytes_out = 0;
};

/// User connections; of very many only some.
struct Connections {
  static constexpr std::size_t most = 1000;
  std::vector<ConnectionFigures> list;
  std::uint64_t left_out = 0;

  bool full() const { return list.size() >= most; }
  /// Takes over as many as there is room for.
  void add(Connections&& more);
};

struct Snapshot {
  std::string role;                  ///< "server" or "client"
  std::string server;                ///< client: the server's address as configured
  std::chrono::seconds uptime{};     ///< filled in by the endpoint
  double in_mbps = 0, out_mbps = 0;  ///< over the last seconds; filled in by the endpoint
  Totals totals;
  std::vector<ClientFigures> clients;
  std::vector<ProxyFigures> proxies;
  std::vector<TunnelFigures> tunnels;
};

/// The body of /stats (docs/configuration.md lists the keys). Names that are no UTF-8 have their wrong bytes replaced.
std::string to_json(const Snapshot& snapshot);
/// The same lists alone, for /api/clients, /api/proxies and /api/tunnels.
std::string clients_json(const Snapshot& snapshot);
std::string proxies_json(const Snapshot& snapshot);
std::string tunnels_json(const Snapshot& snapshot);
std::string connections_json(const Connections& connections);
/// The warnings and errors of late.
std::string troubles_json();
/// {"stats", "connections", "troubles"} in one line, for the dashboard's stream.
std::string event_json(const Snapshot& snapshot, const Connections& connections);
/// The body of /metrics: OpenMetrics 1.0 text.
std::string to_openmetrics(const Snapshot& snapshot);

}  // namespace qtrp::stats
