// The files of the dashboard, as they stand in src/stats/dashboard, built into the binary.
#pragma once

#include <string_view>

namespace qtrp::stats::dashboard {

extern const std::string_view page, style, script;

}  // namespace qtrp::stats::dashboard
