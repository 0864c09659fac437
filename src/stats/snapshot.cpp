// Snapshot to JSON.
#include "qtrp/stats/snapshot.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>

#include "qtrp/base/log.h"
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

Json connections_of(const Connections& connections) {
  std::vector<const ConnectionFigures*> newest_first;
  for (const ConnectionFigures& connection : connections.list) newest_first.push_back(&connection);
  std::ranges::sort(newest_first, std::greater(), [](const auto* connection) { return connection->number; });
  Json list = Json::array();
  for (const ConnectionFigures* connection : newest_first) {
    Json& json = list.emplace_back(
        Json{{"connection", connection->number}, {"user", connection->user}, {"client", connection->client}});
    if (!connection->instance.empty()) json["instance"] = connection->instance;
    json["proxy"] = connection->proxy;
    json["port"] = connection->port;
    if (!connection->local_addr.empty()) json["local_addr"] = connection->local_addr;
    json["seconds"] = rounded(std::chrono::duration<double>(connection->age).count());
    json["bytes_in"] = connection->bytes_in;
    json["bytes_out"] = connection->bytes_out;
  }
  return Json{{"connections", std::move(list)}, {"left_out", connections.left_out}};
}

Json troubles() {
  Json list = Json::array();
  for (const log::Trouble& trouble : log::recent_troubles()) {
    list.push_back(Json{{"time_ms", trouble.wall_ms},
                        {"level", trouble.level == log::Level::error ? "error" : "warning"},
                        {"text", trouble.text}});
  }
  return list;
}

// Names come from peers, so they may hold anything.
std::string text(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Json stats(const Snapshot& snapshot) {
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
  return json;
}

}  // namespace

void Connections::add(Connections&& more) {
  const std::size_t taken = std::min(more.list.size(), most - std::min(most, list.size()));
  left_out += more.left_out + (more.list.size() - taken);
  list.insert(list.end(), std::make_move_iterator(more.list.begin()),
              std::make_move_iterator(more.list.begin() + static_cast<std::ptrdiff_t>(taken)));
}

std::string to_json(const Snapshot& snapshot) {
  return text(stats(snapshot));
}
std::string connections_json(const Connections& connections) {
  return text(connections_of(connections));
}
std::string troubles_json() {
  return text(troubles());
}
std::string event_json(const Snapshot& snapshot, const Connections& connections) {
  Json json = connections_of(connections);
  json["stats"] = stats(snapshot);
  json["troubles"] = troubles();
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
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
