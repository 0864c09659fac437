#include "qtrp/base/error.h"

#include <fmt/format.h>

#include <cstring>
#include <string_view>

namespace qtrp {

std::unexpected<Error> fail_errno(std::string_view what, int code) {
  char buffer[128];
  // The GNU variant: thread-safe, may answer with a static string.
  const char* text = ::strerror_r(code, buffer, sizeof buffer);
  return std::unexpected(Error{ErrorKind::system, fmt::format("{}: {}", what, text), code});
}

}  // namespace qtrp
