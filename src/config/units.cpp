#include "units.h"

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <vector>

namespace qtrp::config {
namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
bool is_hex(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/// The number at the front, and the unit behind it.
std::pair<std::string_view, std::string_view> split_unit(std::string_view text) {
  const auto end = std::ranges::find_if_not(text, [](char c) { return is_digit(c) || c == '.'; });
  const auto length = static_cast<std::size_t>(end - text.begin());
  return {text.substr(0, length), text.substr(length)};
}

/// The family of an IP literal and how many bits it has; {0, 0} if it is none.
std::pair<int, unsigned> ip_family(std::string_view text) {
  std::array<char, 64> zero_terminated{};
  if (text.empty() || text.size() >= zero_terminated.size()) return {0, 0};
  std::ranges::copy(text, zero_terminated.begin());
  in6_addr address{};
  if (::inet_pton(AF_INET, zero_terminated.data(), &address) == 1) return {AF_INET, 32};
  if (::inet_pton(AF_INET6, zero_terminated.data(), &address) == 1) return {AF_INET6, 128};
  return {0, 0};
}

}  // namespace

std::optional<std::uint64_t> parse_integer(std::string_view text) {
  std::uint64_t value = 0;
  if (text.empty() || !std::ranges::all_of(text, is_digit)) return std::nullopt;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{}) return std::nullopt;
  return value;
}

std::optional<double> parse_number(std::string_view text) {
  if (text.empty() || text.size() > 32 || !is_digit(text.front()) || !is_digit(text.back())) return std::nullopt;
  if (!std::ranges::all_of(text, [](char c) { return is_digit(c) || c == '.'; })) return std::nullopt;
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<std::chrono::milliseconds> parse_duration(std::string_view text) {
  const auto [number, unit] = split_unit(text);
  const auto value = parse_number(number);
  if (!value) return std::nullopt;
  double scale = 0;
  if (unit == "ms")
    scale = 1;
  else if (unit.empty() || unit == "s")
    scale = 1e3;
  else if (unit == "m")
    scale = 60e3;
  else if (unit == "h")
    scale = 3600e3;
  else
    return std::nullopt;
  const double milliseconds = *value * scale;
  if (milliseconds > 1e15) return std::nullopt;
  return std::chrono::milliseconds(std::llround(milliseconds));
}

std::optional<std::uint64_t> parse_size(std::string_view text) {
  const auto [number, unit] = split_unit(text);
  struct Unit {
    std::string_view name;
    std::uint64_t bytes;
  };
  static constexpr std::array<Unit, 9> units{{{"", 1},
                                              {"B", 1},
                                              {"KiB", 1ULL << 10},
                                              {"MiB", 1ULL << 20},
                                              {"GiB", 1ULL << 30},
                                              {"kB", 1'000},
                                              {"KB", 1'000},
                                              {"MB", 1'000'000},
                                              {"GB", 1'000'000'000}}};
  const auto found = std::ranges::find(units, unit, &Unit::name);
  const auto value = parse_integer(number);
  if (found == units.end() || !value) return std::nullopt;
  if (*value > std::numeric_limits<std::uint64_t>::max() / found->bytes) return std::nullopt;
  return *value * found->bytes;
}

std::optional<bool> parse_bool(std::string_view text) {
  for (const std::string_view word : {"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"})
    if (text == word) return true;
  for (const std::string_view word : {"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"})
    if (text == word) return false;
  return std::nullopt;
}

std::optional<PortRange> parse_port_range(std::string_view text) {
  const auto port = [](std::string_view digits) -> std::optional<std::uint16_t> {
    const auto value = parse_integer(digits);
    if (!value || *value < 1 || *value > 65535) return std::nullopt;
    return static_cast<std::uint16_t>(*value);
  };
  const auto dash = text.find('-');
  const auto first = port(text.substr(0, dash));
  const auto last = dash == std::string_view::npos ? first : port(text.substr(dash + 1));
  if (!first || !last || *first > *last) return std::nullopt;
  return PortRange{*first, *last};
}

bool is_ip_literal(std::string_view text) {
  return ip_family(text).first != 0;
}

bool is_loopback_literal(std::string_view text) {
  const auto family = ip_family(text).first;
  if (family == AF_INET) return text.starts_with("127.");
  if (family != AF_INET6) return false;
  in6_addr address{};
  return ::inet_pton(AF_INET6, std::string(text).c_str(), &address) == 1 && IN6_IS_ADDR_LOOPBACK(&address);
}

bool is_network(std::string_view text) {
  const auto slash = text.find('/');
  const auto [family, bits] = ip_family(text.substr(0, slash));
  if (family == 0) return false;
  if (slash == std::string_view::npos) return true;
  const auto length = parse_integer(text.substr(slash + 1));
  return length && *length <= bits;
}

bool is_pin(std::string_view text) {
  if (text.starts_with("sha256//")) {
    text.remove_prefix(8);
    return text.size() == 44 && text.back() == '=' && std::ranges::all_of(text.substr(0, 43), [](char c) {
             return is_letter(c) || is_digit(c) || c == '+' || c == '/';
           });
  }
  if (text.starts_with("sha256:")) text.remove_prefix(7);
  return text.size() == 64 && std::ranges::all_of(text, is_hex);
}

bool is_host(std::string_view text) {
  if (is_ip_literal(text.substr(0, text.find('%')))) return true;
  if (text.empty() || text.size() > 253 || text.front() == '-' || text.front() == '.') return false;
  if (text.find("..") != std::string_view::npos) return false;
  return std::ranges::all_of(text,
                             [](char c) { return is_letter(c) || is_digit(c) || c == '-' || c == '.' || c == '_'; });
}

std::size_t edit_distance(std::string_view a, std::string_view b) {
  // Optimal string alignment: three rows of the usual table.
  std::vector<std::size_t> before(b.size() + 1), above(b.size() + 1), row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) above[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = above[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({above[j] + 1, row[j - 1] + 1, replaced});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = std::min(row[j], before[j - 2] + 1);
    }
    before.swap(above);
    above.swap(row);
  }
  return above[b.size()];
}

std::string_view nearest(std::string_view typed, std::span<const std::string_view> words) {
  std::string_view best;
  if (typed.size() > 64) return best;
  // One change in three letters, at least one: "tok" may be "token", "x" is nothing.
  std::size_t least = std::max<std::size_t>(1, typed.size() / 3) + 1;
  for (const std::string_view word : words) {
    const std::size_t distance = edit_distance(typed, word);
    if (distance < least && distance < word.size()) {
      least = distance;
      best = word;
    }
  }
  return best;
}

}  // namespace qtrp::config
