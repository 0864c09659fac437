// The preface: the first 32 bytes that each end sends inside the record layer of a byte-stream tunnel, before the mux
// begins. It names what the end speaks and what it accepts, so that a mismatch ends with words instead of noise. QUIC
// tunnels have none. docs/protocol.md.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "qtrp/base/bytes.h"
#include "qtrp/base/error.h"

namespace qtrp::protocol {

inline constexpr std::uint8_t kVersion = 1;
inline constexpr std::size_t kPrefaceSize = 32;

/// Layout, big-endian: "QTRP", version u8, mux u8, flags u16, largest frame u32, initial stream window u32, 16 bytes of
/// zero (ignored).
struct Preface {
  enum Flags : std::uint16_t { extensions = 1 };  ///< bit 0: the mux extensions between our own ends
  std::uint8_t version = kVersion;
  std::uint8_t mux = 2;  ///< mux::Protocol's numbers: 1 smux v1, 2 smux v2, 3 yamux
  std::uint16_t flags = 0;
  std::uint32_t max_frame = 65535;   ///< most payload bytes in a frame that the sender of this preface accepts
  std::uint32_t initial_window = 0;  ///< its receive window for a new stream, bytes; 0: the library's own
};

std::array<std::byte, kPrefaceSize> encode(const Preface& preface);
/// `bytes` has kPrefaceSize bytes. Fails (protocol) if they are not a preface at all, saying what they look like; a
/// version or mux that we do not speak is no error here.
Result<Preface> decode_preface(Bytes bytes);
/// Fails (protocol), naming both sides' settings, unless the two can talk.
Result<void> match(const Preface& ours, const Preface& theirs);

}  // namespace qtrp::protocol
