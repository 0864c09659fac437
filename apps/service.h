// The commands `install` and `uninstall`, alike for both daemons.
#pragma once

#include <functional>

#include "command_line.h"
#include "qtrp/setup/install.h"

namespace qtrp::apps {

/// Adds both commands and gives the first, for options of the caller's own. `configure` fills in the configuration
/// (config, config_from, companions, check) when `install` runs; what it returns, if not empty, goes to standard error
/// and ends it.
CLI::App& add_service_commands(CommandLine& line, setup::Role role,
                               std::function<std::string(setup::ServiceRequest&)> configure);

}  // namespace qtrp::apps
