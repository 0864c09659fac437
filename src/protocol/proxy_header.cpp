#include "qtrp/protocol/proxy_header.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <optional>
#include <string>

#include "qtrp/base/bytes.h"

namespace qtrp::protocol {
namespace {

// Section 2.2: the signature, then version 2 with command PROXY, then the family with STREAM.
constexpr std::array<unsigned char, 12> kSignature{0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d,
                                                   0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a};
constexpr unsigned char kVersionCommand = 0x21;
constexpr unsigned char kUnspecified = 0x00, kTcp4 = 0x11, kTcp6 = 0x21;

constexpr std::array<unsigned char, 12> kMapped{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

struct Address {
  std::array<unsigned char, 16> bytes{};  // IPv4 is mapped: its 4 bytes stand last
  bool v4 = false;
  std::uint16_t port = 0;

  // The bytes in the family of the header.
  Bytes in(bool as_v4) const { return std::as_bytes(std::span(bytes)).subspan(as_v4 ? 12 : 0); }
  std::string text(bool as_v4) const {
    char out[INET6_ADDRSTRLEN] = "";
    ::inet_ntop(as_v4 ? AF_INET : AF_INET6, in(as_v4).data(), out, sizeof out);
    return out;
  }
};

std::optional<Address> parse(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return std::nullopt;
  Address out;
  const std::string_view digits = text.substr(colon + 1);
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), out.port);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  std::string_view host = text.substr(0, colon);
  const bool brackets = host.starts_with('[') && host.ends_with(']');
  if (brackets) host = host.substr(1, host.size() - 2);
  const std::string literal(host.substr(0, host.find('%')));
  if (!brackets && ::inet_pton(AF_INET, literal.c_str(), out.bytes.data() + 12) == 1) {
    std::ranges::copy(kMapped, out.bytes.begin());
    out.v4 = true;
    return out;
  }
  if (!brackets || ::inet_pton(AF_INET6, literal.c_str(), out.bytes.data()) != 1) return std::nullopt;
  out.v4 = std::equal(kMapped.begin(), kMapped.end(), out.bytes.begin());
  return out;
}

std::vector<std::byte> to_vector(Bytes bytes) {
  return {bytes.begin(), bytes.end()};
}

std::vector<std::byte> text_header(const std::optional<Address>& user, const std::optional<Address>& to) {
  if (!user || !to) return to_vector(as_bytes("PROXY UNKNOWN\r\n"));
  const bool v4 = user->v4 && to->v4;
  return to_vector(as_bytes(fmt::format("PROXY {} {} {} {} {}\r\n", v4 ? "TCP4" : "TCP6", user->text(v4), to->text(v4),
                                        user->port, to->port)));
}

std::vector<std::byte> binary_header(const std::optional<Address>& user, const std::optional<Address>& to) {
  std::vector<std::byte> out = to_vector(std::as_bytes(std::span(kSignature)));
  const auto append = [&](Bytes bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); };
  const auto append_number = [&](std::uint16_t number) {
    std::array<std::byte, 2> bytes;
    store_be(bytes.data(), number);
    append(bytes);
  };
  out.push_back(std::byte{kVersionCommand});
  if (!user || !to) {
    out.push_back(std::byte{kUnspecified});
    append_number(0);
    return out;
  }
  const bool v4 = user->v4 && to->v4;
  out.push_back(std::byte{v4 ? kTcp4 : kTcp6});
  append_number(v4 ? 12 : 36);
  append(user->in(v4));
  append(to->in(v4));
  append_number(user->port);
  append_number(to->port);
  return out;
}

}  // namespace

std::vector<std::byte> encode_proxy_header(ProxyHeader version, std::string_view user, std::string_view to) {
  const auto source = parse(user), destination = parse(to);
  return version == ProxyHeader::v1 ? text_header(source, destination) : binary_header(source, destination);
}

}  // namespace qtrp::protocol
