// The PROXY protocol's header: tells a local service the user's real address, in front of the user's bytes. After "The
// PROXY protocol, Versions 1 & 2" by HAProxy (proxy-protocol.txt), sections 2.1 and 2.2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace qtrp::protocol {

enum class ProxyHeader : std::uint8_t {
  v1,  ///< a line of text, 107 bytes at most
  v2,  ///< binary: 16 bytes, then addresses and ports
};

/// The header for a TCP connection from `user` to `to`, both "address:port" as NewConn has them. IPv4 in IPv6
/// (::ffff:0:0/96) counts as IPv4, a zone is left out; of two families IPv4 is written as IPv4 in IPv6. What is no
/// address gives the header for an unknown source, which services take for "ask the socket".
std::vector<std::byte> encode_proxy_header(ProxyHeader version, std::string_view user, std::string_view to);

}  // namespace qtrp::protocol
