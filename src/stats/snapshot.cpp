// Snapshot to JSON.
#include "qtrp/stats/snapshot.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "qtrp/stats/version.h"

namespace qtrp::stats {
namespace {

using Json = nlohmann::ordered_json;

/// Three decimals: figures, not noise.
double rounded(double value) {
  return std::round(value * 1000) / 1000;
}

void add_totals(Json& json, const Totals& totals) {
  json["active_connections"] = totals.active_connections;
  json["total_connections"] = totals.total_connections;
  json["bytes_in"] = totals.bytes_in;
  json["bytes_out"] = totals.bytes_out;
}

Json clients(const Snapshot& snapshot) {
  Json list = Json::array();
  for (const ClientFigures& client : snapshot.clients) {
    Json& json = list.emplace_back(Json{{"name", client.name},
                                        {"instance", client.instance},
                                        {"token", client.token},
                                        {"connected_seconds", client.connected.count()},
                                        {"tunnels", client.tunnels},
                                        {"proxies", client.proxies}});
    add_totals(json, client.totals);
  }
  return list;
}

Json proxies(const Snapshot& snapshot) {
  Json list = Json::array();
  for (const ProxyFigures& proxy : snapshot.proxies) {
    Json& json = list.emplace_back(Json{{"name", proxy.name}, {"client", proxy.client}, {"type", proxy.type}});
    if (!proxy.bind.empty()) json["bind"] = proxy.bind;
    json["port"] = proxy.remote_port;
    if (!proxy.local_addr.empty()) json["local_addr"] = proxy.local_addr;
    json["open"] = proxy.open;
    if (!proxy.problem.empty()) json["problem"] = proxy.problem;
    add_totals(json, proxy.totals);
  }
  return list;
}

Json tunnels(const Snapshot& snapshot) {
  Json list = Json::array();
  for (const TunnelFigures& tunnel : snapshot.tunnels) {
    list.push_back(Json{{"client", tunnel.client},
                        {"address", tunnel.address},
                        {"connected_seconds", tunnel.connected.count()},
                        {"active_connections", tunnel.connections},
                        {"transport", tunnel.transport},
                        {"cipher", tunnel.cipher},
                        {"mux", tunnel.mux},
                        {"congestion", tunnel.congestion},
                        {"rtt_ms", rounded(tunnel.rtt_ms)},
                        {"rate_mbps", rounded(tunnel.rate_mbps)},
                        {"target_mbps", rounded(tunnel.target_mbps)},
                        {"ack_rate", rounded(tunnel.ack_rate)},
                        {"wire_bytes_in", tunnel.wire_bytes_in},
                        {"wire_bytes_out", tunnel.wire_bytes_out},
                        {"retransmitted_bytes", tunnel.retransmitted_bytes},
                        {"lost_packets", tunnel.lost_packets}});
  }
  return list;
}

// Names come from peers, so they may hold anything.
std::string text(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

std::string to_json(const Snapshot& snapshot) {
  Json json{{"role", snapshot.role}, {"version", version()}, {"uptime_seconds", snapshot.uptime.count()}};
  if (!snapshot.server.empty()) json["server"] = snapshot.server;
  json["active_clients"] = snapshot.clients.size();
  json["active_proxies"] =
      std::ranges::count_if(snapshot.proxies, [](const ProxyFigures& proxy) { return proxy.open; });
  add_totals(json, snapshot.totals);
  json["bandwidth"] = Json{{"in_mbps", rounded(snapshot.in_mbps)}, {"out_mbps", rounded(snapshot.out_mbps)}};
  json["clients"] = clients(snapshot);
  json["proxies"] = proxies(snapshot);
  json["tunnels"] = tunnels(snapshot);
  return text(json);
}

std::string clients_json(const Snapshot& snapshot) {
  return text(clients(snapshot));
}
std::string proxies_json(const Snapshot& snapshot) {
  return text(proxies(snapshot));
}
std::string tunnels_json(const Snapshot& snapshot) {
  return text(tunnels(snapshot));
}

}  // namespace qtrp::stats
