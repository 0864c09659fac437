// The server's figures for its statistics endpoint, gathered from the loops that own them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "qtrp/stats/snapshot.h"
#include "server/worker.h"

namespace qtrp::server {

using Workers = std::vector<std::unique_ptr<Worker>>;

/// Sums over the loops; any thread, at once.
stats::Totals totals(const Workers& workers);
/// Everything /stats shows. Any thread but the loops'; waits for them, two seconds at most.
stats::Snapshot snapshot(const Shared& shared, const Workers& workers);
/// The users' connections, likewise.
stats::Connections connections(const Workers& workers);
/// Ends a user's connection, likewise; false if there is none of that number.
bool close_connection(const Workers& workers, std::uint64_t number);
/// Ends the tunnels of the client with this instance id (hex); false if there is none. Any thread.
bool close_client(const Shared& shared, const std::string& instance);

}  // namespace qtrp::server
