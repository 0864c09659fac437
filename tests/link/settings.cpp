#include "settings.h"

#include <cstdlib>
#include <map>
#include <sstream>

namespace qtrp::testlink {
namespace {

using Units = std::map<std::string_view, double>;
const Units kTime{{"", 1e6}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}};  // to ns
const Units kRate{{"", 1e6}, {"k", 1e3}, {"M", 1e6}, {"G", 1e9}};    // to bit/s
const Units kPercent{{"", 0.01}, {"%", 0.01}};
const Units kBytes{{"B", 1}, {"kB", 1e3}, {"MB", 1e6}};

Result<double> number(const std::string& text, const Units& units) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  const auto unit = units.find(std::string_view(end));
  if (end == text.c_str() || unit == units.end() || !(value >= 0) || value > 1e12) {
    return fail(ErrorKind::config, "bad value '" + text + "'");
  }
  return value * unit->second;
}

Result<void> apply_one(const std::string& name, const std::string& value, LinkParameters& to) {
  const auto set = [&value](auto& field, const Units& units) -> Result<void> {
    const auto parsed = number(value, units);
    if (!parsed) return std::unexpected(parsed.error());
    using Field = std::remove_reference_t<decltype(field)>;
    if constexpr (std::is_same_v<Field, Duration>) {
      field = Duration(static_cast<std::int64_t>(*parsed));
    } else {
      field = static_cast<Field>(*parsed);
    }
    return {};
  };
  if (name == "delay") return set(to.delay, kTime);
  if (name == "reorder_by") return set(to.reorder_by, kTime);
  if (name == "rate") return set(to.rate_bps, kRate);
  if (name == "loss") return set(to.loss, kPercent);
  if (name == "reorder") return set(to.reorder, kPercent);
  if (name == "duplicate") return set(to.duplicate, kPercent);
  if (name == "corrupt") return set(to.corrupt, kPercent);
  if (name == "queue") {
    if (value.ends_with('B')) return set(to.queue_bytes, kBytes);
    to.queue_bytes = 0;
    return set(to.queue_time, kTime);
  }
  if (!value.empty()) return fail(ErrorKind::config, "unknown setting '" + name + "'");
  if (name == "down") {
    to.down = true;
  } else if (name == "stall") {
    to.stalled = true;
  } else if (name == "up") {
    to.down = to.stalled = false;
  } else {
    return fail(ErrorKind::config, "unknown setting '" + name + "'");
  }
  return {};
}

}  // namespace

Result<void> apply(std::string_view setting, LinkParameters& a_to_b, LinkParameters& b_to_a) {
  std::string text(setting);
  for (char& c : text) {
    if (c == '=') c = ' ';
  }
  std::istringstream words(text);
  std::string name, value, rest;
  words >> name;
  const bool only_a = name == "a>b", only_b = name == "b>a";
  if (only_a || only_b) {
    name.clear();
    words >> name;
  }
  words >> value >> rest;
  if (!rest.empty()) return fail(ErrorKind::config, "more than one value in '" + std::string(setting) + "'");
  LinkParameters a = a_to_b, b = b_to_a;
  if (!only_b) {
    if (auto done = apply_one(name, value, a); !done) return done;
  }
  if (!only_a) {
    if (auto done = apply_one(name, value, b); !done) return done;
  }
  a_to_b = a;
  b_to_a = b;
  return {};
}

}  // namespace qtrp::testlink
