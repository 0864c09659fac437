// Under what address this machine is most likely reached: the best of its interfaces' addresses.
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <unistd.h>

#include <array>

#include "qtrp/io/endpoint.h"
#include "qtrp/setup/init.h"

namespace qtrp::setup {
namespace {

/// How well an address serves: 3 global IPv4, 2 global IPv6, 1 private IPv4, 0 not at all.
int rank(const io::Endpoint& address) {
  if (address.family() == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(address.data());
    const std::uint32_t a = ntohl(v4->sin_addr.s_addr);
    const auto in = [a](std::uint32_t network, unsigned bits) {
      return (a >> (32 - bits)) == (network >> (32 - bits));
    };
    if (in(0x7f000000, 8) || in(0xa9fe0000, 16) || in(0, 8)) return 0;  // loopback, link-local, "this"
    // RFC 1918, and RFC 6598's shared space of carriers.
    return in(0x0a000000, 8) || in(0xac100000, 12) || in(0xc0a80000, 16) || in(0x64400000, 10) ? 1 : 3;
  }
  if (address.family() != AF_INET6) return 0;
  const auto* v6 = reinterpret_cast<const sockaddr_in6*>(address.data());
  return (v6->sin6_addr.s6_addr[0] & 0xe0) == 0x20 ? 2 : 0;  // 2000::/3, RFC 4291
}

}  // namespace

OwnAddress own_address() {
  int best = 0;
  OwnAddress found;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) == 0) {
    for (const ifaddrs* i = list; i != nullptr; i = i->ifa_next) {
      if (i->ifa_addr == nullptr || (i->ifa_flags & IFF_UP) == 0 || (i->ifa_flags & IFF_LOOPBACK) != 0) continue;
      const int family = i->ifa_addr->sa_family;
      if (family != AF_INET && family != AF_INET6) continue;
      const io::Endpoint address(i->ifa_addr, family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
      if (const int serves = rank(address); serves > best) {
        best = serves;
        found = {address.host(), serves > 1};
      }
    }
    ::freeifaddrs(list);
  }
  if (best > 0) return found;
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) == 0 && name.front() != '\0') return {name.data(), false};
  return {"localhost", false};
}

}  // namespace qtrp::setup
