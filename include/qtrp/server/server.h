// The server: accepts tunnels, authenticates clients, owns the public listeners of their proxies.
#pragma once

#include "qtrp/base/error.h"
#include "qtrp/config/reload.h"

namespace qtrp::server {

/// Runs `config` until SIGTERM or SIGINT: then no new connections, the running ones get `shutdown.grace`; a second
/// signal ends it at once. Blocks the calling thread, which handles the signals. An error is one of starting (a port
/// that is taken, an unusable certificate). SIGHUP, and `reload` through the control socket, read `source` anew.
Result<void> run(const config::ServerConfig& config, config::Source<config::ServerConfig> source = {});

}  // namespace qtrp::server
