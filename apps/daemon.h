// What the two executables share: the command line, loading the configuration, the log's level, descriptors, exit
// codes.
#pragma once

#include <fmt/format.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <expected>
#include <filesystem>
#include <string>
#include <vector>

#include "qtrp/base/error.h"
#include "qtrp/base/log.h"
#include "qtrp/config/config.h"
#include "qtrp/stats/version.h"

namespace qtrp::apps {

inline constexpr int exit_ok = 0;
inline constexpr int exit_failure = 1;  ///< a failure at run time
inline constexpr int exit_config = 2;   ///< a mistake in the configuration or on the command line

/// Every connection is a descriptor or two, and the soft limit is 1024 nearly everywhere.
inline void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0)
    log::warn("the limit of open files stays at {}: {}", limit.rlim_cur, std::strerror(errno));
}

/// The log's level: the file's, louder by each -v, warnings and errors only with -q.
inline log::Level log_level(const std::string& configured, int verbose, bool quiet) {
  if (quiet) return log::Level::warn;
  if (verbose >= 2 || configured == "trace") return log::Level::trace;
  if (verbose == 1 || configured == "debug") return log::Level::debug;
  if (configured == "warn") return log::Level::warn;
  return configured == "error" ? log::Level::error : log::Level::info;
}

struct Program {
  const char* name;
  const char* purpose;
  const char* default_file;
  const char* footer;
};

/// Main of a daemon: `load` gives its configuration or every mistake in it, `run` works until a signal ends it.
template <typename Config>
int run_daemon(int argc, char** argv, const Program& program,
               config::Loaded<Config> (*load)(const std::filesystem::path&), Result<void> (*run)(const Config&)) {
  CLI::App app{program.purpose, program.name};
  app.footer(program.footer);
  std::string file = program.default_file;
  bool check = false, quiet = false;
  int verbose = 0;
  app.add_option("-c,--config", file, "The configuration file (YAML)")->type_name("FILE")->capture_default_str();
  app.add_flag("--check", check,
               "Check the configuration, print all of it that is in effect (without secrets), and exit: 0 good, 2 not");
  CLI::Option* louder = app.add_flag("-v,--verbose", verbose, "Log more: -v debug, -vv trace; beats log.level");
  app.add_flag("-q,--quiet", quiet, "Log warnings and errors only; beats log.level")->excludes(louder);
  app.set_version_flag("-V,--version", fmt::format("{} {}", program.name, version()), "Print the version and exit");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? exit_ok : exit_config;
  }

  const auto config = load(file);
  if (!config) {
    for (const Error& mistake : config.error()) std::fprintf(stderr, "%s\n", mistake.message.c_str());
    return exit_config;
  }
  if (check) {
    for (const std::string& warning : config->warnings) std::fprintf(stderr, "warning: %s\n", warning.c_str());
    const std::string shown = config::show(*config);
    return std::fwrite(shown.data(), 1, shown.size(), stdout) == shown.size() && std::fflush(stdout) == 0
               ? exit_ok
               : exit_failure;
  }
  log::set_level(log_level(config->log.level, verbose, quiet));
  for (const std::string& warning : config->warnings) log::warn("{}", warning);
  raise_descriptor_limit();
  log::info("{} {}, {}", program.name, version(), file);
  if (const auto done = run(*config); !done) {
    log::error("{}", done.error().message);
    return done.error().kind == ErrorKind::config ? exit_config : exit_failure;
  }
  return exit_ok;
}

/// `body`, with what no one caught turned into a line and an exit code.
template <typename Body>
int guarded(const char* name, Body body) {
  try {
    return body();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what());
    return exit_failure;
  }
}

}  // namespace qtrp::apps
