#include "server/figures.h"

#include <algorithm>
#include <iterator>
#include <variant>

#include "qtrp/identity/identity.h"
#include "qtrp/stats/gather.h"
#include "server/peer.h"

namespace qtrp::server {
namespace {

constexpr Duration most_wait = std::chrono::seconds(2);

/// The tunnels of one loop, with the client each belongs to.
struct Tunnels {
  TimePoint now;
  std::vector<std::pair<std::shared_ptr<Group>, Peer::Figures>> tunnels;
};
/// The proxies of one client, from its home loop.
struct Proxies {
  std::shared_ptr<Group> group;
  std::vector<ProxyFigures> proxies;
};

std::chrono::seconds since(TimePoint then, TimePoint now) {
  return std::chrono::duration_cast<std::chrono::seconds>(now - then);
}

stats::ProxyFigures describe(const Group& group, const ProxyFigures& figures) {
  stats::ProxyFigures proxy;
  proxy.name = figures.name;
  proxy.client = group.name();
  proxy.type = figures.type;
  proxy.bind = figures.bind;
  proxy.remote_port = figures.port;
  proxy.totals = {.bytes_in = figures.retired_in,
                  .bytes_out = figures.retired_out,
                  .active_connections = 0,
                  .total_connections = figures.retired_total};
  return proxy;
}

void add(stats::Totals& to, const stats::Totals& more) {
  to.bytes_in += more.bytes_in;
  to.bytes_out += more.bytes_out;
  to.active_connections += more.active_connections;
  to.total_connections += more.total_connections;
}

/// One client with its proxies and tunnels, appended to the snapshot.
void add_client(stats::Snapshot& snapshot, const Group& group, const std::vector<ProxyFigures>& proxies,
                std::vector<std::pair<const Peer::Figures*, TimePoint>> tunnels) {
  std::ranges::sort(tunnels, {}, [](const auto& tunnel) { return tunnel.first->tunnel; });
  stats::ClientFigures client;
  client.name = group.name();
  client.instance = identity::to_hex(std::as_bytes(std::span(group.instance())));
  client.token = group.token()->config()->name;
  client.tunnels = tunnels.size();
  client.proxies = proxies.size();
  for (const ProxyFigures& figures : proxies) {
    stats::ProxyFigures proxy = describe(group, figures);
    for (const auto& [tunnel, now] : tunnels) {
      for (const auto& part : tunnel->proxies) {
        if (part.id == figures.id)
          add(proxy.totals, {.bytes_in = part.in,
                             .bytes_out = part.out,
                             .active_connections = part.active,
                             .total_connections = part.total});
      }
    }
    add(client.totals, proxy.totals);
    snapshot.proxies.push_back(std::move(proxy));
  }
  for (const auto& [figures, now] : tunnels) {
    stats::TunnelFigures tunnel;
    tunnel.client = group.name();
    tunnel.address = figures->address;
    tunnel.connected = since(figures->since, now);
    tunnel.connections = figures->connections;
    tunnel.set_session(figures->session);
    client.connected = std::max(client.connected, tunnel.connected);
    snapshot.tunnels.push_back(std::move(tunnel));
  }
  snapshot.clients.push_back(std::move(client));
}

}  // namespace

stats::Totals totals(const Workers& workers) {
  stats::Totals sum;
  for (const auto& worker : workers) {
    const stats::Counters& c = worker->totals();
    add(sum, {.bytes_in = c.bytes_in.load(std::memory_order_relaxed),
              .bytes_out = c.bytes_out.load(std::memory_order_relaxed),
              .active_connections = c.active.load(std::memory_order_relaxed),
              .total_connections = c.total.load(std::memory_order_relaxed)});
  }
  return sum;
}

stats::Snapshot snapshot(const Shared& shared, const Workers& workers) {
  stats::Gather<std::variant<Tunnels, Proxies>> gather;
  for (const auto& worker : workers) {
    worker->loop().post(gather.task([&worker = *worker] {
      Tunnels part{worker.loop().now(), {}};
      for (const auto& [peer, unused] : worker.peers())
        if (auto figures = peer->figures()) part.tunnels.emplace_back(peer->group(), std::move(*figures));
      return std::variant<Tunnels, Proxies>(std::move(part));
    }));
  }
  const auto groups = shared.registry.groups();
  for (const auto& group : groups)
    group->home().post(
        gather.task([group] { return std::variant<Tunnels, Proxies>(Proxies{group, group->figures()}); }));
  const auto parts = gather.wait(most_wait);

  stats::Snapshot snapshot;
  snapshot.role = "server";
  snapshot.totals = totals(workers);
  for (const auto& group : groups) {
    std::vector<ProxyFigures> proxies;
    std::vector<std::pair<const Peer::Figures*, TimePoint>> tunnels;
    for (const auto& part : parts) {
      if (const auto* of_client = std::get_if<Proxies>(&part)) {
        if (of_client->group == group) proxies = of_client->proxies;
      } else if (const auto* of_loop = std::get_if<Tunnels>(&part)) {
        for (const auto& [owner, figures] : of_loop->tunnels)
          if (owner == group) tunnels.emplace_back(&figures, of_loop->now);
      }
    }
    add_client(snapshot, *group, proxies, std::move(tunnels));
  }
  return snapshot;
}

stats::Connections connections(const Workers& workers) {
  stats::Gather<stats::Connections> gather;
  for (const auto& worker : workers) {
    worker->loop().post(gather.task([&worker = *worker] {
      stats::Connections part;
      for (const auto& [peer, unused] : worker.peers()) peer->list_connections(part);
      return part;
    }));
  }
  stats::Connections all;
  for (stats::Connections& part : gather.wait(most_wait)) all.add(std::move(part));
  return all;
}

bool close_connection(const Workers& workers, std::uint64_t number) {
  stats::Gather<bool> gather;
  for (const auto& worker : workers) {
    worker->loop().post(gather.task([&worker = *worker, number] {
      return std::ranges::any_of(worker.peers(),
                                 [number](const auto& entry) { return entry.first->close_connection(number); });
    }));
  }
  const std::vector<bool> closed = gather.wait(most_wait);
  return std::ranges::find(closed, true) != closed.end();
}

bool close_client(const Shared& shared, const std::string& instance) {
  bool found = false;
  for (const auto& group : shared.registry.groups()) {
    if (identity::to_hex(std::as_bytes(std::span(group->instance()))) != instance) continue;
    found = true;
    for (const auto& member : group->members()) {
      member->loop.post([member] {
        if (member->peer) member->peer->close_by_operator();
      });
    }
  }
  return found;
}

}  // namespace qtrp::server
