// qtrp-server: the public side. Reads its configuration and hands over to the server room.
#include "daemon.h"
#include "qtrp/server/server.h"

int main(int argc, char** argv) {
  using namespace qtrp;
  static constexpr apps::Program program{
      "qtrp-server", "qtrp-server accepts tunnels of qtrp-client and opens public ports for the services behind them.",
      "server.yaml",
      "The least server.yaml:\n"
      "  bind: 0.0.0.0:6000\n"
      "  auth: {tokens: [a-long-random-text]}\n"
      "\n"
      "Figures: curl http://127.0.0.1:7500/stats     Signals: TERM or INT ends it (running connections get "
      "shutdown.grace)\n"
      "Exit codes: 0 ended as asked, 1 failure at run time, 2 mistake in the configuration or on the command line"};
  return apps::guarded(program.name, [&] {
    return apps::run_daemon<config::ServerConfig>(argc, argv, program, config::load_server, server::run);
  });
}
