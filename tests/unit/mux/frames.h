// Frames as a peer would put them on the wire, right or wrong, for tests that speak the protocol by hand.
#pragma once

#include <initializer_list>
#include <vector>

#include "qtrp/base/bytes.h"

namespace qtrp::mux::test {

using Wire = std::vector<std::byte>;

inline Wire operator+(Wire a, const Wire& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

inline Wire zeros(std::size_t n) {
  return Wire(n);
}

/// A smux frame of any content. `length` is what its header says.
inline Wire smux(std::uint8_t command, std::uint32_t stream, std::uint16_t length = 0, std::uint8_t version = 2) {
  Wire wire(8);
  wire[0] = std::byte{version};
  wire[1] = std::byte{command};
  store_le<std::uint16_t>(&wire[2], length);
  store_le<std::uint32_t>(&wire[4], stream);
  return wire;
}

inline Wire le32(std::uint32_t value) {
  Wire wire(4);
  store_le<std::uint32_t>(wire.data(), value);
  return wire;
}

inline Wire smux_data(std::uint32_t stream, std::uint16_t n) {
  return smux(2, stream, n) + zeros(n);
}
inline Wire smux_update(std::uint32_t stream, std::uint32_t consumed, std::uint32_t window) {
  return smux(4, stream, 8) + le32(consumed) + le32(window);
}

/// A yamux frame's header of any content.
inline Wire yamux(std::uint8_t type, std::uint16_t flags, std::uint32_t stream, std::uint32_t length = 0,
                  std::uint8_t version = 0) {
  Wire wire(12);
  wire[0] = std::byte{version};
  wire[1] = std::byte{type};
  store_be<std::uint16_t>(&wire[2], flags);
  store_be<std::uint32_t>(&wire[4], stream);
  store_be<std::uint32_t>(&wire[8], length);
  return wire;
}

enum SmuxCommand : std::uint8_t {
  kSyn = 0,
  kFin = 1,
  kPsh = 2,
  kNop = 3,
  kUpd = 4,
  kRst = 0x20,
  kLarge = 0x21,
  kYield = 0x22
};
enum YamuxType : std::uint8_t { kData = 0, kWindow = 1, kPing = 2, kGoAway = 3 };
enum YamuxFlag : std::uint16_t { kFlagSyn = 1, kFlagAck = 2, kFlagFin = 4, kFlagRst = 8 };

}  // namespace qtrp::mux::test
