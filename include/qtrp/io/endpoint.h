// Socket addresses and their text forms: "203.0.113.7:80", "[::1]:80", "name:80".
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "qtrp/base/error.h"

namespace qtrp::io {

/// A host (name or literal, without brackets) and a port, as a user writes them.
struct HostPort {
  std::string host;
  std::uint16_t port = 0;
  bool operator==(const HostPort&) const = default;
  std::string to_string() const;  ///< brackets around an IPv6 literal
};
/// "host:port" or "[v6]:port"; an empty host ("":8080 or ":8080") means every address and comes back as "::".
Result<HostPort> parse_host_port(std::string_view text);

/// An IPv4 or IPv6 socket address.
class Endpoint {
 public:
  Endpoint() = default;
  Endpoint(const sockaddr* address, socklen_t length);
  /// From a literal; no name is resolved.
  static Result<Endpoint> from_literal(std::string_view host, std::uint16_t port);

  const sockaddr* data() const { return reinterpret_cast<const sockaddr*>(&storage_); }
  sockaddr* data() { return reinterpret_cast<sockaddr*>(&storage_); }
  socklen_t size() const { return size_; }
  void set_size(socklen_t size) { size_ = size; }
  static constexpr socklen_t capacity() { return sizeof(sockaddr_in6); }
  int family() const { return data()->sa_family; }
  bool valid() const { return size_ > 0; }
  std::uint16_t port() const;
  void set_port(std::uint16_t port);
  bool is_loopback() const;
  std::string host() const;       ///< the literal without brackets; IPv4-mapped IPv6 is shown as IPv4
  std::string to_string() const;  ///< with port
  /// Whom to count when strangers are counted by address: the IPv4 address, or the /64 of an IPv6 one
  /// ("2001:db8::/64"), which is what one subscriber has at least.
  std::string source() const;
  bool operator==(const Endpoint& other) const;

 private:
  union {
    sockaddr_in v4;
    sockaddr_in6 v6;
  } storage_{};
  socklen_t size_ = 0;
};

}  // namespace qtrp::io
