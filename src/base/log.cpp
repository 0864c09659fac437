#include "qtrp/base/log.h"

#include <fmt/format.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

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

constexpr std::size_t kMostTroubles = 50, kMostText = 500;

struct Troubles {
  std::mutex mutex;
  std::deque<Trouble> list;
};
Troubles& troubles() {
  static Troubles instance;
  return instance;
}

void remember(Level level, std::string_view text) {
  const auto now =
      std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch());
  Trouble trouble{now.count(), level, std::string(text.substr(0, kMostText))};
  const std::lock_guard lock(troubles().mutex);
  troubles().list.push_back(std::move(trouble));
  if (troubles().list.size() > kMostTroubles) troubles().list.pop_front();
}

}  // namespace

std::vector<Trouble> recent_troubles() {
  const std::lock_guard lock(troubles().mutex);
  return {troubles().list.begin(), troubles().list.end()};
}

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
  if (level == Level::warn || level == Level::error) remember(level, clean);
  logger().log(native(level), "{}", clean);
}

}  // namespace qtrp::log
