// What the two daemons share once the command line is read: loading the configuration, the log's level, descriptors,
// exit codes.
#pragma once

#include <fmt/format.h>
#include <sys/resource.h>

#include <cerrno>
#include <cstdio>
#include <exception>
#include <expected>
#include <filesystem>
#include <functional>
#include <string>
#include <system_error>
#include <vector>

#include "command_line.h"
#include "qtrp/base/error.h"
#include "qtrp/base/log.h"
#include "qtrp/config/reload.h"
#include "qtrp/stats/version.h"

namespace qtrp::apps {

/// Every connection is a descriptor or two, and the soft limit is 1024 nearly everywhere.
inline void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0)
    log::warn("the limit of open files stays at {}: {}", limit.rlim_cur, std::generic_category().message(errno));
}

/// The log's level: the file's, louder by each -v, warnings and errors only with -q.
inline log::Level log_level(const std::string& configured, int verbose, bool quiet) {
  if (quiet) return log::Level::warn;
  if (verbose >= 2 || configured == "trace") return log::Level::trace;
  if (verbose == 1 || configured == "debug") return log::Level::debug;
  if (configured == "warn") return log::Level::warn;
  return configured == "error" ? log::Level::error : log::Level::info;
}

/// Every mistake of a configuration, one a line; empty if there is none.
template <typename Config>
std::string mistakes_of(const config::Loaded<Config>& loaded) {
  std::string all;
  if (!loaded)
    for (const Error& mistake : loaded.error()) all += (all.empty() ? "" : "\n") + mistake.message;
  return all;
}

/// Where a daemon's configuration comes from: `load` reads it (again at each call), `name` is what the log calls it.
template <typename Config>
struct Source {
  std::string name;
  std::function<config::Loaded<Config>()> load;
  std::filesystem::path file{};  ///< a running daemon reads it anew; empty: there is none
};

/// A daemon: reads its configuration and tells every mistake in it, or works until a signal ends it.
template <typename Config>
int run_daemon(const CommandLine& line, const Source<Config>& source,
               Result<void> (*run)(const Config&, config::Source<Config>)) {
  const auto config = source.load();
  if (!config) {
    std::fprintf(stderr, "%s\n", mistakes_of(config).c_str());
    return exit_config;
  }
  if (line.check) {
    for (const std::string& warning : config->warnings) std::fprintf(stderr, "warning: %s\n", warning.c_str());
    return print(config::show(*config));
  }
  log::set_level(log_level(config->log.level, line.verbose, line.quiet));
  for (const std::string& warning : config->warnings) log::warn("{}", warning);
  raise_descriptor_limit();
  log::info("{} {}, {}", line.program().name, version(), source.name);
  const auto set_level = [&line](const config::Log& log) {
    log::set_level(log_level(log.level, line.verbose, line.quiet));
  };
  if (const auto done = run(*config, {.file = source.file, .load = source.load, .set_log_level = set_level}); !done) {
    log::error("{}", done.error().message);
    return done.error().kind == ErrorKind::config ? exit_config : exit_failure;
  }
  return exit_ok;
}

/// `body`, with what no one caught turned into a line and an exit code.
template <typename Body>
int guarded(const std::string& name, Body body) {
  try {
    return body();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", name.c_str(), error.what());
    return exit_failure;
  }
}

}  // namespace qtrp::apps
