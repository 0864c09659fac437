// Text to values: the small notations of the configuration (durations, sizes, ports, networks, pins) and spelling
// suggestions. Pure functions; nothing means that the text is not of that notation, the caller says where it stands.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "qtrp/config/config.h"

namespace qtrp::config {

/// Decimal digits only: no sign, no spaces, no exponent.
std::optional<std::uint64_t> parse_integer(std::string_view text);
/// Digits with at most one decimal point; no sign, no exponent.
std::optional<double> parse_number(std::string_view text);
/// "30s", "500ms", "2m", "1h", "1.5s"; a plain number is seconds.
std::optional<std::chrono::milliseconds> parse_duration(std::string_view text);
/// Bytes: "65536", "64KiB", "4MiB", "1GiB" (powers of 1024), "64kB", "4MB", "1GB" (powers of 1000).
std::optional<std::uint64_t> parse_size(std::string_view text);
/// true/false, yes/no, on/off (YAML 1.1), in small letters, capitals, or with a capital first letter.
std::optional<bool> parse_bool(std::string_view text);
/// "22" or "8000-8005"; ports 1 to 65535, the first not above the last.
std::optional<PortRange> parse_port_range(std::string_view text);
/// An IPv4 or IPv6 literal, without brackets or zone.
bool is_ip_literal(std::string_view text);
/// A literal of 127.0.0.0/8 or ::1.
bool is_loopback_literal(std::string_view text);
/// "192.0.2.0/24", "2001:db8::/32", or a single address.
bool is_network(std::string_view text);
/// "sha256:<64 hex digits>", the bare digits, or "sha256//<44 characters of base64>".
bool is_pin(std::string_view text);
/// Characters and lengths of a host name (RFC 1123, with underscores) or of an IP literal with optional zone.
bool is_host(std::string_view text);

/// Changes of one letter (inserted, dropped, replaced, or swapped with its neighbour) that lead from one word to the
/// other.
std::size_t edit_distance(std::string_view a, std::string_view b);
/// The word that `typed` was probably meant to be; empty if none is near.
std::string_view nearest(std::string_view typed, std::span<const std::string_view> words);

}  // namespace qtrp::config
