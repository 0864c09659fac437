// qtrp-client: command line, configuration, run, exit code. Everything else is in the library.
#include <cstdio>

#include "common/command_line.h"
#include "qtrp/base/log.h"
#include "qtrp/client/client.h"
#include "qtrp/config/config.h"

int main(int argc, char** argv) {
  using namespace qtrp;
  int exit_code = app::kOk;
  const auto line = app::parse(argc, argv, "qtrp-client",
                               "QTRP client: exposes local services as ports of a qtrp-server.", exit_code);
  if (!line) return exit_code;
  const auto config = config::load_client(line->config);
  if (!config) {
    app::print_mistakes(config.error());
    return app::kUsage;
  }
  if (line->check) {
    std::fputs(config::show(*config).c_str(), stdout);
    return app::kOk;
  }
  app::prepare(*line, config->log.level, config->warnings);
  if (const auto ran = client::run(*config); !ran) {
    log::error("{}", ran.error().message);
    return ran.error().kind == ErrorKind::config ? app::kUsage : app::kRunTimeFailure;
  }
  return app::kOk;
}
