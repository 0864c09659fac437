// Logging: one line an event to stderr, through spdlog, which only log.cpp knows. Lines name the tunnel and proxy they
// are about; a token, key or password never reaches a log call.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qtrp::log {

enum class Level { trace, debug, info, warn, error, off };

/// Sets the least level that is written. Any thread. Default: info.
void set_level(Level level);
bool enabled(Level level);
/// Writes one line. Control characters in `text` are escaped, since parts of it may come from a peer. Any thread.
void write(Level level, std::string_view text);

/// A warning or error of late.
struct Trouble {
  std::int64_t wall_ms = 0;  ///< since 1970, UTC
  Level level = Level::warn;
  std::string text;  ///< cut at 500 bytes
};
/// The last warnings and errors, 50 at most, oldest first; also those that the level keeps from being written. Any
/// thread.
std::vector<Trouble> recent_troubles();

template <typename... A>
void at(Level level, fmt::format_string<A...> format, A&&... arguments) {
  if (enabled(level) || level >= Level::warn) write(level, fmt::format(format, std::forward<A>(arguments)...));
}
template <typename... A>
void debug(fmt::format_string<A...> format, A&&... arguments) {
  at(Level::debug, format, std::forward<A>(arguments)...);
}
template <typename... A>
void info(fmt::format_string<A...> format, A&&... arguments) {
  at(Level::info, format, std::forward<A>(arguments)...);
}
template <typename... A>
void warn(fmt::format_string<A...> format, A&&... arguments) {
  at(Level::warn, format, std::forward<A>(arguments)...);
}
template <typename... A>
void error(fmt::format_string<A...> format, A&&... arguments) {
  at(Level::error, format, std::forward<A>(arguments)...);
}

}  // namespace qtrp::log
