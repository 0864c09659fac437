// The server's figures for its statistics endpoint, gathered from the loops that own them.
#pragma once

#include <memory>
#include <vector>

#include "qtrp/stats/snapshot.h"
#include "server/worker.h"

namespace qtrp::server {

using Workers = std::vector<std::unique_ptr<Worker>>;

/// Sums over the loops; any thread, at once.
stats::Totals totals(const Workers& workers);
/// Everything /stats shows. Any thread but the loops'; waits for them, two seconds at most.
stats::Snapshot snapshot(const Shared& shared, const Workers& workers);

}  // namespace qtrp::server
