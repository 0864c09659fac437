#include "client/figures.h"

#include <algorithm>

#include "qtrp/stats/gather.h"

namespace qtrp::client {
namespace {

constexpr Duration most_wait = std::chrono::seconds(2);

struct Part {
  TimePoint now;
  std::vector<Link::Figures> links;
};

}  // namespace

stats::Totals totals(const std::vector<LinksOfLoop>& loops) {
  stats::Totals sum;
  for (const auto& [loop, links] : loops) {
    for (const Link* link : links) {
      const stats::Counters& c = link->totals();
      sum.bytes_in += c.bytes_in.load(std::memory_order_relaxed);
      sum.bytes_out += c.bytes_out.load(std::memory_order_relaxed);
      sum.active_connections += c.active.load(std::memory_order_relaxed);
      sum.total_connections += c.total.load(std::memory_order_relaxed);
    }
  }
  return sum;
}

stats::Snapshot snapshot(const Settings& settings, const std::vector<LinksOfLoop>& loops) {
  stats::Gather<Part> gather;
  for (const auto& [loop, links] : loops) {
    loop->post(gather.task([&loop = *loop, &links = links] {
      Part part{loop.now(), {}};
      for (const Link* link : links) part.links.push_back(link->figures());
      return part;
    }));
  }
  const std::vector<Part> parts = gather.wait(most_wait);

  stats::Snapshot snapshot;
  snapshot.role = "client";
  const config::ClientConfig& config = settings.config;
  snapshot.server = config.server.to_string();
  snapshot.totals = totals(loops);
  std::map<std::uint32_t, stats::ProxyFigures> proxies;
  for (const auto& [id, configured] : settings.proxies) {
    stats::ProxyFigures& proxy = proxies[id];
    proxy.name = configured->name;
    proxy.client = config.name;
    proxy.type = configured->type;
    proxy.bind = configured->bind;
    proxy.remote_port = configured->remote_port;
    proxy.local_addr = configured->local.to_string();
    proxy.open = false;
  }
  for (const Part& part : parts) {
    for (const Link::Figures& link : part.links) {
      for (const Link::ProxyFigures& figures : link.proxies) {
        const auto it = proxies.find(figures.id);
        if (it == proxies.end()) continue;
        stats::ProxyFigures& proxy = it->second;
        if (figures.port != 0) {
          proxy.open = true;
          proxy.remote_port = figures.port;
          proxy.problem.clear();
        } else if (!proxy.open) {
          proxy.problem = figures.code;
        }
        proxy.totals.bytes_in += figures.in;
        proxy.totals.bytes_out += figures.out;
        proxy.totals.active_connections += figures.active;
        proxy.totals.total_connections += figures.total;
      }
      if (!link.connected) continue;
      stats::TunnelFigures& tunnel = snapshot.tunnels.emplace_back();
      tunnel.client = config.name;
      tunnel.address = link.server;
      tunnel.connected = std::chrono::duration_cast<std::chrono::seconds>(part.now - link.since);
      tunnel.connections = link.connections;
      tunnel.set_session(link.session);
    }
  }
  for (auto& [id, proxy] : proxies) snapshot.proxies.push_back(std::move(proxy));
  return snapshot;
}

stats::Connections connections(const std::vector<LinksOfLoop>& loops) {
  stats::Gather<stats::Connections> gather;
  for (const auto& [loop, links] : loops) {
    loop->post(gather.task([&links = links] {
      stats::Connections part;
      for (const Link* link : links) link->list_connections(part);
      return part;
    }));
  }
  stats::Connections all;
  for (stats::Connections& part : gather.wait(most_wait)) all.add(std::move(part));
  return all;
}

bool close_connection(const std::vector<LinksOfLoop>& loops, std::uint64_t number) {
  stats::Gather<bool> gather;
  for (const auto& [loop, links] : loops) {
    loop->post(gather.task([&links = links, number] {
      return std::ranges::any_of(links, [number](Link* link) { return link->close_connection(number); });
    }));
  }
  const std::vector<bool> closed = gather.wait(most_wait);
  return std::ranges::find(closed, true) != closed.end();
}

}  // namespace qtrp::client
