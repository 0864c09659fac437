#include "qtrp/io/endpoint.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <net/if.h>

#include <algorithm>
#include <charconv>
#include <cstring>

namespace qtrp::io {
namespace {

Result<std::uint16_t> parse_port(std::string_view text, std::string_view whole) {
  unsigned value = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (ec != std::errc() || end != text.data() + text.size() || text.empty() || value > 65535) {
    return fail(ErrorKind::config, fmt::format("'{}' does not end in a port from 0 to 65535", whole));
  }
  return static_cast<std::uint16_t>(value);
}

}  // namespace

std::string HostPort::to_string() const {
  return host.find(':') != std::string::npos ? fmt::format("[{}]:{}", host, port) : fmt::format("{}:{}", host, port);
}

Result<HostPort> parse_host_port(std::string_view text) {
  std::string_view host, port;
  if (!text.empty() && text.front() == '[') {
    const std::size_t close = text.find(']');
    if (close == std::string_view::npos || close + 1 >= text.size() || text[close + 1] != ':') {
      return fail(ErrorKind::config, fmt::format("'{}' is not of the form [address]:port", text));
    }
    host = text.substr(1, close - 1);
    port = text.substr(close + 2);
    if (!Endpoint::from_literal(host, 0))
      return fail(ErrorKind::config, fmt::format("'{}' is not an IPv6 address", host));
  } else {
    const std::size_t colon = text.rfind(':');
    if (colon == std::string_view::npos)
      return fail(ErrorKind::config, fmt::format("'{}' has no port, expected host:port", text));
    host = text.substr(0, colon);
    port = text.substr(colon + 1);
    if (host.find(':') != std::string_view::npos) {
      return fail(ErrorKind::config, fmt::format("'{}': write an IPv6 address in brackets, [address]:port", text));
    }
    const bool plain =
        std::all_of(host.begin(), host.end(), [](unsigned char c) { return c > 0x20 && c != '/' && c != 0x7f; });
    if (!plain || host.size() > 253) return fail(ErrorKind::config, fmt::format("'{}' is not a host name", host));
  }
  auto number = parse_port(port, text);
  if (!number) return std::unexpected(number.error());
  return HostPort{host.empty() ? "::" : std::string(host), *number};
}

Endpoint::Endpoint(const sockaddr* address, socklen_t length) : size_(std::min(length, capacity())) {
  std::memcpy(&storage_, address, size_);
}

Result<Endpoint> Endpoint::from_literal(std::string_view host, std::uint16_t port) {
  Endpoint made;
  std::string name(host);
  if (::inet_pton(AF_INET, name.c_str(), &made.storage_.v4.sin_addr) == 1) {
    made.storage_.v4.sin_family = AF_INET;
    made.storage_.v4.sin_port = htons(port);
    made.size_ = sizeof(sockaddr_in);
    return made;
  }
  std::uint32_t scope = 0;
  if (const std::size_t percent = name.find('%'); percent != std::string::npos) {
    scope = ::if_nametoindex(name.c_str() + percent + 1);
    if (scope == 0) return fail(ErrorKind::config, fmt::format("'{}': no such interface", host));
    name.resize(percent);
  }
  if (::inet_pton(AF_INET6, name.c_str(), &made.storage_.v6.sin6_addr) == 1) {
    made.storage_.v6.sin6_family = AF_INET6;
    made.storage_.v6.sin6_port = htons(port);
    made.storage_.v6.sin6_scope_id = scope;
    made.size_ = sizeof(sockaddr_in6);
    return made;
  }
  return fail(ErrorKind::config, fmt::format("'{}' is not an IP address", host));
}

std::uint16_t Endpoint::port() const {
  return ntohs(family() == AF_INET6 ? storage_.v6.sin6_port : storage_.v4.sin_port);
}

void Endpoint::set_port(std::uint16_t port) {
  (family() == AF_INET6 ? storage_.v6.sin6_port : storage_.v4.sin_port) = htons(port);
}

bool Endpoint::is_loopback() const {
  if (family() == AF_INET) return (ntohl(storage_.v4.sin_addr.s_addr) >> 24) == 127;
  const in6_addr& a = storage_.v6.sin6_addr;
  return IN6_IS_ADDR_LOOPBACK(&a) || (IN6_IS_ADDR_V4MAPPED(&a) && a.s6_addr[12] == 127);
}

std::string Endpoint::host() const {
  char text[INET6_ADDRSTRLEN] = "";
  if (family() == AF_INET) {
    ::inet_ntop(AF_INET, &storage_.v4.sin_addr, text, sizeof text);
    return text;
  }
  if (family() != AF_INET6) return "?";
  const in6_addr& a = storage_.v6.sin6_addr;
  if (IN6_IS_ADDR_V4MAPPED(&a)) {
    ::inet_ntop(AF_INET, &a.s6_addr[12], text, sizeof text);
    return text;
  }
  ::inet_ntop(AF_INET6, &a, text, sizeof text);
  if (storage_.v6.sin6_scope_id != 0) {
    char name[IF_NAMESIZE];
    if (::if_indextoname(storage_.v6.sin6_scope_id, name)) return fmt::format("{}%{}", text, name);
  }
  return text;
}

std::string Endpoint::to_string() const {
  return HostPort{host(), port()}.to_string();
}

std::string Endpoint::source() const {
  if (family() != AF_INET6 || IN6_IS_ADDR_V4MAPPED(&storage_.v6.sin6_addr)) return host();
  in6_addr network = storage_.v6.sin6_addr;
  std::memset(&network.s6_addr[8], 0, 8);
  char text[INET6_ADDRSTRLEN] = "";
  ::inet_ntop(AF_INET6, &network, text, sizeof text);
  return fmt::format("{}/64", text);
}

bool Endpoint::operator==(const Endpoint& other) const {
  if (family() != other.family() || port() != other.port()) return false;
  if (family() == AF_INET) return storage_.v4.sin_addr.s_addr == other.storage_.v4.sin_addr.s_addr;
  return std::memcmp(&storage_.v6.sin6_addr, &other.storage_.v6.sin6_addr, sizeof(in6_addr)) == 0 &&
         storage_.v6.sin6_scope_id == other.storage_.v6.sin6_scope_id;
}

}  // namespace qtrp::io
