// A frame of either protocol in one form, and the two codecs that read and write it. A codec is pure layout: what a
// frame means, and whether it is allowed where it came, is decided in receive.cpp. docs/protocol-mux.md has the same
// tables.
#pragma once

#include <cstddef>
#include <cstdint>

#include "qtrp/base/bytes.h"
#include "qtrp/mux/mux.h"

namespace qtrp::mux {

struct Frame {
  enum class Type : std::uint8_t {
    none,    ///< only its flags count (smux SYN, FIN, RST)
    data,    ///< `length` bytes of body follow
    limit,   ///< smux UPD: `value` bytes consumed so far (modulo 2^32), `second` window beyond them
    credit,  ///< yamux window update: `value` more bytes
    yield,   ///< ours: the sender keeps only `value` bytes of the credit it has
    ping,    ///< yamux: `value` to be echoed
    pong,    ///< yamux: `value` echoed
    nop,     ///< smux keep-alive
    leave,   ///< yamux go away, `value` is the reason
    bad,     ///< breaks the layout: `error` says how
  };
  Type type = Type::none;
  bool open = false;    ///< SYN
  bool accept = false;  ///< yamux ACK
  bool finish = false;  ///< FIN, after the body
  bool reset = false;   ///< RST, `value` is the code where the layout has one
  std::uint32_t stream = 0;
  std::uint32_t length = 0;
  std::uint32_t value = 0;
  std::uint32_t second = 0;
  const char* error = nullptr;
};

namespace smux {

// Version 1 and 2: version(1) command(1) length(2) stream(4), little endian.
constexpr std::size_t kHeader = 8;
constexpr std::size_t kLargeHeader = 12;
constexpr std::uint32_t kMaxBody = 65535;
constexpr std::uint32_t kInitialWindow = 262144;
enum Command : std::uint8_t {
  kSyn = 0,
  kFin = 1,
  kPsh = 2,
  kNop = 3,
  kUpd = 4,  // version 2: consumed(4) window(4)
  // Between our own ends, after negotiation:
  kRst = 0x20,    // code(4)
  kLarge = 0x21,  // length(4), then the body
  kYield = 0x22,  // kept(4)
};

/// Bytes of header that the frame has in all, judged by its first kHeader bytes (8, 12 or 16).
std::size_t header_size(const std::byte* header, bool extensions);
/// Reads a whole header. `extensions`: whether commands of our own are known.
Frame decode(const std::byte* header, std::uint8_t version, bool extensions);
/// Writes a frame's header and returns its size. Type and flags choose the command, so only one of them may be set.
/// `large`: data takes the large frame whatever its length.
std::size_t encode(const Frame& frame, std::uint8_t version, bool large, std::byte* to);

}  // namespace smux

namespace yamux {

// version(1) type(1) flags(2) stream(4) length(4), big endian (spec.md).
constexpr std::size_t kHeader = 12;
constexpr std::uint32_t kInitialWindow = 262144;
constexpr std::size_t kBacklog = 256;  ///< opens that may be unacknowledged (the library's AcceptBacklog)
enum Type : std::uint8_t {
  kData = 0,
  kWindowUpdate = 1,
  kPing = 2,
  kGoAway = 3,
  kYield = 0x20,  // between our own ends, after negotiation; the length says what is kept
};
enum Flag : std::uint16_t { kSyn = 1, kAck = 2, kFin = 4, kRst = 8 };
enum Reason : std::uint32_t { kNormal = 0, kProtocolError = 1, kInternalError = 2 };

Frame decode(const std::byte* header, bool extensions);
std::size_t encode(const Frame& frame, std::byte* to);

}  // namespace yamux

/// Either codec, as Options chose.
class Codec {
 public:
  Codec(Protocol protocol, bool extensions) : protocol_(protocol), extensions_(extensions) {}

  std::size_t least_header() const { return protocol_ == Protocol::yamux ? yamux::kHeader : smux::kHeader; }
  std::size_t header_size(const std::byte* header) const {
    return protocol_ == Protocol::yamux ? yamux::kHeader : smux::header_size(header, extensions_);
  }
  Frame decode(const std::byte* header) const {
    return protocol_ == Protocol::yamux ? yamux::decode(header, extensions_)
                                        : smux::decode(header, version(), extensions_);
  }
  std::size_t encode(const Frame& frame, std::byte* to, bool large = false) const {
    return protocol_ == Protocol::yamux ? yamux::encode(frame, to) : smux::encode(frame, version(), large, to);
  }
  /// Header of a data frame with up to `max` bytes of body.
  std::size_t data_header(std::size_t max) const {
    if (protocol_ == Protocol::yamux) return yamux::kHeader;
    return max > smux::kMaxBody ? smux::kLargeHeader : smux::kHeader;
  }

 private:
  std::uint8_t version() const { return protocol_ == Protocol::smux1 ? 1 : 2; }

  Protocol protocol_;
  bool extensions_;
};

}  // namespace qtrp::mux
