#include "qtrp/base/log.h"

#include <fmt/format.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <string>

namespace qtrp::log {
namespace {

spdlog::level::level_enum native(Level level) {
  switch (level) {
    case Level::trace: return spdlog::level::trace;
    case Level::debug: return spdlog::level::debug;
    case Level::info: return spdlog::level::info;
    case Level::warn: return spdlog::level::warn;
    case Level::error: return spdlog::level::err;
    case Level::off: break;
  }
  return spdlog::level::off;
}

spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    auto made = std::make_shared<spdlog::logger>("qtrp", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
    made->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %^%-5l%$ %v");
    made->flush_on(spdlog::level::trace);
    return made;
  }();
  return *instance;
}

}  // namespace

void set_level(Level level) {
  logger().set_level(native(level));
}

bool enabled(Level level) {
  return logger().should_log(native(level));
}

void write(Level level, std::string_view text) {
  std::string clean;
  clean.reserve(text.size());
  for (const char c : text) {
    if (const auto u = static_cast<unsigned char>(c); u < 0x20 || u == 0x7f) {
      clean += fmt::format("\\x{:02x}", u);
    } else {
      clean += c;
    }
  }
  logger().log(native(level), "{}", clean);
}

}  // namespace qtrp::log
