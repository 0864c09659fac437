// The statistics endpoint of a daemon: /stats and its relatives over HTTP, as the configuration's `stats` says.
#pragma once

#include <functional>
#include <memory>

#include "qtrp/base/error.h"
#include "qtrp/config/config.h"
#include "qtrp/stats/http_server.h"
#include "qtrp/stats/snapshot.h"

namespace qtrp::stats {

/// Where the figures come from. All are called on the endpoint's thread; each must answer in bounded time.
struct Sources {
  std::function<Snapshot()> snapshot;          ///< everything but uptime and bandwidth
  std::function<Totals()> totals;              ///< cheap: called every second for the bandwidth
  std::function<bool()> ready;                 ///< for /readyz; none: ready from the start
  std::function<Connections()> connections{};  ///< none: an empty list
  /// Closes the user connection of that number; false if there is none.
  std::function<bool(std::uint64_t number)> close_connection{};
  /// Closes every tunnel of the client with this instance id (hex); false if there is none. None: there are no clients
  /// here.
  std::function<bool(const std::string& instance)> close_client{};
};

/// Starts the endpoint; null if the configuration turned it off. Paths: / (the dashboard), /stats, /metrics, /healthz,
/// /readyz, /api/clients, /api/proxies, /api/tunnels, /api/connections, /api/history, /api/troubles, /api/events; and
/// by POST with the token: /api/connections/close, /api/clients/close.
Result<std::unique_ptr<HttpServer>> start_endpoint(const config::Stats& config, Sources sources);
/// The certificate of stats.tls, read from its files; nothing without.
Result<std::optional<HttpServer::Certificate>> read_certificate(const config::Stats& config);

}  // namespace qtrp::stats
