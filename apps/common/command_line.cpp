#include "common/command_line.h"

#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "qtrp/base/log.h"

namespace qtrp::app {

std::optional<CommandLine> parse(int argc, char** argv, const std::string& name, const std::string& description,
                                 int& exit_code) {
  CommandLine line;
  CLI::App app(description, name);
  app.set_version_flag("-V,--version", name + " " QTRP_VERSION);
  app.add_option("-c,--config", line.config, "Configuration file (YAML)")->required()->type_name("FILE");
  app.add_flag(
      "--check", line.check,
      "Check the configuration, print what is in effect (without secrets) and exit: 0 if it is right, 2 if not");
  int verbose = 0;
  bool quiet = false;
  auto* v = app.add_flag("-v,--verbose", verbose, "Log every connection as well; twice: everything");
  app.add_flag("-q,--quiet", quiet, "Log warnings and errors only")->excludes(v);
  app.footer("Exit codes: 0 ended as asked, 1 failed at run time, 2 wrong usage or configuration.");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    exit_code = app.exit(e) == 0 ? kOk : kUsage;
    return std::nullopt;
  }
  line.verbosity = quiet ? -1 : verbose;
  return line;
}

void print_mistakes(const std::vector<Error>& mistakes) {
  for (const Error& mistake : mistakes) std::fprintf(stderr, "%s\n", mistake.message.c_str());
}

void prepare(const CommandLine& line, const std::string& configured_level, const std::vector<std::string>& warnings) {
  using log::Level;
  Level level = Level::info;
  if (configured_level == "trace") level = Level::trace;
  if (configured_level == "debug") level = Level::debug;
  if (configured_level == "warn") level = Level::warn;
  if (configured_level == "error") level = Level::error;
  if (line.verbosity < 0) level = Level::warn;
  if (line.verbosity == 1) level = Level::debug;
  if (line.verbosity > 1) level = Level::trace;
  log::set_level(level);

  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
    files.rlim_cur = files.rlim_max;
    if (::setrlimit(RLIMIT_NOFILE, &files) != 0)
      log::warn("the limit of open files could not be raised to {}", files.rlim_max);
  }
  for (const std::string& warning : warnings) log::warn("{}", warning);
}

}  // namespace qtrp::app
