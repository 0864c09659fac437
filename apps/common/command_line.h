// The command line that both daemons share: options, exit codes, and what must be set before anything else.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "qtrp/base/error.h"

namespace qtrp::app {

inline constexpr int kOk = 0, kRunTimeFailure = 1, kUsage = 2;

struct CommandLine {
  std::string config;
  bool check = false;
  int verbosity = 0;  ///< -v: 1, -vv: 2, -q: -1
};

/// Parses; where the program should end at once (--help, --version, a mistake) it has printed what there is to say and
/// returns the exit code in `exit_code`.
std::optional<CommandLine> parse(int argc, char** argv, const std::string& name, const std::string& description,
                                 int& exit_code);

/// Prints the mistakes of a configuration, one line each, to stderr.
void print_mistakes(const std::vector<Error>& mistakes);

/// Raises RLIMIT_NOFILE to the hard limit, sets the log level (from the configuration, unless -v or -q says otherwise)
/// and logs the configuration's warnings.
void prepare(const CommandLine& line, const std::string& configured_level, const std::vector<std::string>& warnings);

}  // namespace qtrp::app
