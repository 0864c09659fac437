// qtrp-server: command line, configuration, run, exit code. Everything else is in the library.
#include <cstdio>

#include "common/command_line.h"
#include "qtrp/base/log.h"
#include "qtrp/config/config.h"
#include "qtrp/server/server.h"

int main(int argc, char** argv) {
  using namespace qtrp;
  int exit_code = app::kOk;
  const auto line = app::parse(
      argc, argv, "qtrp-server",
      "QTRP server: accepts tunnels from clients behind NAT and opens their services as ports of this machine.",
      exit_code);
  if (!line) return exit_code;
  const auto config = config::load_server(line->config);
  if (!config) {
    app::print_mistakes(config.error());
    return app::kUsage;
  }
  if (line->check) {
    std::fputs(config::show(*config).c_str(), stdout);
    return app::kOk;
  }
  app::prepare(*line, config->log.level, config->warnings);
  if (const auto ran = server::run(*config); !ran) {
    log::error("{}", ran.error().message);
    return ran.error().kind == ErrorKind::config ? app::kUsage : app::kRunTimeFailure;
  }
  return app::kOk;
}
