// The client's figures for its statistics endpoint, gathered from the loops that own them.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "client/link.h"
#include "qtrp/io/loop.h"
#include "qtrp/stats/snapshot.h"

namespace qtrp::client {

/// A loop and the links on it.
using LinksOfLoop = std::pair<io::Loop*, std::vector<Link*>>;

/// Sums over the links; any thread, at once.
stats::Totals totals(const std::vector<LinksOfLoop>& loops);
/// Everything /stats shows. Any thread but the loops'; waits for them, two seconds at most.
stats::Snapshot snapshot(const Settings& settings, const std::vector<LinksOfLoop>& loops);
/// The users' connections, likewise.
stats::Connections connections(const std::vector<LinksOfLoop>& loops);
/// Ends a user's connection, likewise; false if there is none of that number.
bool close_connection(const std::vector<LinksOfLoop>& loops, std::uint64_t number);

}  // namespace qtrp::client
