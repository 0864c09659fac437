// Tunnels over QUIC: one UDP socket a worker, and what the configuration says to them.
#pragma once

#include <memory>
#include <vector>

#include "qtrp/base/error.h"
#include "qtrp/config/config.h"
#include "qtrp/identity/identity.h"
#include "qtrp/io/endpoint.h"
#include "server/stats_page.h"

namespace qtrp::server {

class Worker;

/// Binds the port once for every worker and begins to listen. Before the workers' threads are started. Gives the
/// address, with the port that the kernel chose for port 0. `page`, if any, is what visitors see under /stats; it
/// outlives the workers' loops.
Result<io::Endpoint> listen_quic(const std::vector<std::unique_ptr<Worker>>& workers, const io::Endpoint& bind,
                                 const config::ServerConfig& config, const identity::Certificate& certificate,
                                 const StatsPage* page);

}  // namespace qtrp::server
