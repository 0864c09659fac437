// qtrp-client: the side behind NAT. Reads its configuration and hands over to the client room.
#include "daemon.h"
#include "qtrp/client/client.h"

int main(int argc, char** argv) {
  using namespace qtrp;
  static constexpr apps::Program program{
      "qtrp-client", "qtrp-client dials a qtrp-server and exposes local services as ports of it.", "client.yaml",
      "The least client.yaml:\n"
      "  server: vps.example.com:6000\n"
      "  token: a-long-random-text\n"
      "  proxies: [{remote_port: 2222, local_addr: 127.0.0.1:22}]\n"
      "\n"
      "Signals: TERM or INT ends it (running connections get shutdown.grace)\n"
      "Exit codes: 0 ended as asked, 1 failure at run time, 2 mistake in the configuration or on the command line"};
  return apps::guarded(program.name, [&] {
    return apps::run_daemon<config::ClientConfig>(argc, argv, program, config::load_client, client::run);
  });
}
