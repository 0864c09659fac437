// Errors as values. Every fallible function returns Result<T>; the message says what happened, to whom, and what to do
// about it.
#pragma once

#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace qtrp {

/// What kind of failure an Error is, for callers that act on it; the text is for people.
enum class ErrorKind {
  system,    ///< a system call failed; `code` is errno
  config,    ///< the user's configuration is wrong
  protocol,  ///< the peer broke a rule of the wire format
  crypto,    ///< a record or handshake failed its check, or another crypto is spoken
  denied,    ///< authentication or permission refused
  limit,     ///< a configured bound was reached
  closed,    ///< the other side, or we, ended it in an orderly way
  timeout,
};

struct Error {
  ErrorKind kind = ErrorKind::system;
  std::string message;
  int code = 0;  ///< errno for `system`, else a code of the room that made it, else 0
};

template <typename T>
using Result = std::expected<T, Error>;

inline std::unexpected<Error> fail(ErrorKind kind, std::string message, int code = 0) {
  return std::unexpected(Error{kind, std::move(message), code});
}

/// "<what>: <strerror(code)>", kind system.
std::unexpected<Error> fail_errno(std::string_view what, int code);

}  // namespace qtrp
