// The client: dials the server, proves who it is, registers proxies, and connects their users to the local services.
// Reconnects for ever.
#pragma once

#include "qtrp/base/error.h"
#include "qtrp/config/reload.h"

namespace qtrp::client {

/// Runs until SIGTERM or SIGINT: then no new connections, the running ones get `shutdown.grace`; a second signal ends
/// it at once. Blocks the calling thread, which handles the signals. An error is one of starting; losing the server is
/// not one.
/// SIGHUP, and `reload` through the control socket, read `source` anew.
Result<void> run(const config::ClientConfig& config, config::Source<config::ClientConfig> source = {});

}  // namespace qtrp::client
