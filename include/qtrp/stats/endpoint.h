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
  std::function<Snapshot()> snapshot;  ///< everything but uptime and bandwidth
  std::function<Totals()> totals;      ///< cheap: called every second for the bandwidth
  std::function<bool()> ready;         ///< for /readyz; none: ready from the start
};

/// Starts the endpoint; null if the configuration turned it off. Paths: / (the dashboard), /stats, /metrics, /healthz,
/// /readyz, /api/clients, /api/proxies, /api/tunnels, /api/history.
Result<std::unique_ptr<HttpServer>> start_endpoint(const config::Stats& config, Sources sources);

}  // namespace qtrp::stats
