// The version of this binary, from the build system's one place.
#pragma once

#include <string_view>

namespace qtrp {

std::string_view version();  ///< "0.1.0"

}  // namespace qtrp
