// The layout of yamux frames (github.com/hashicorp/yamux, spec.md).
#include "mux/frame.h"

namespace qtrp::mux::yamux {
namespace {

Frame bad(const char* error) {
  Frame frame;
  frame.type = Frame::Type::bad;
  frame.error = error;
  return frame;
}

}  // namespace

Frame decode(const std::byte* header, bool extensions) {
  if (std::to_integer<std::uint8_t>(header[0]) != 0) return bad("wrong yamux version");
  const auto flags = load_be<std::uint16_t>(header + 2);
  const auto length = load_be<std::uint32_t>(header + 8);
  Frame frame;
  frame.stream = load_be<std::uint32_t>(header + 4);
  frame.open = (flags & kSyn) != 0;
  frame.accept = (flags & kAck) != 0;
  switch (std::to_integer<std::uint8_t>(header[1])) {
    case kData:
      frame.type = Frame::Type::data;
      frame.length = length;
      break;
    case kWindowUpdate:
      frame.type = Frame::Type::credit;
      frame.value = length;
      break;
    case kPing:
      // SYN asks, ACK answers; the stream id is the session's.
      if (frame.open == frame.accept) return bad("yamux ping that neither asks nor answers");
      frame.type = frame.open ? Frame::Type::ping : Frame::Type::pong;
      frame.open = frame.accept = false;
      frame.value = length;
      return frame;
    case kGoAway:
      frame.type = Frame::Type::leave;
      frame.open = frame.accept = false;
      frame.value = length;
      return frame;
    case kYield:
      if (!extensions) return bad("unknown yamux type");
      frame.type = Frame::Type::yield;
      frame.open = frame.accept = false;
      frame.value = length;
      return frame;
    default: return bad("unknown yamux type");
  }
  frame.finish = (flags & kFin) != 0;
  frame.reset = (flags & kRst) != 0;
  return frame;
}

std::size_t encode(const Frame& frame, std::byte* to) {
  Type type = kWindowUpdate;
  std::uint32_t length = frame.value;
  auto flags = static_cast<std::uint16_t>((frame.open ? kSyn : 0) | (frame.accept ? kAck : 0) |
                                          (frame.finish ? kFin : 0) | (frame.reset ? kRst : 0));
  switch (frame.type) {
    case Frame::Type::data:
      type = kData;
      length = frame.length;
      break;
    case Frame::Type::ping:
      type = kPing;
      flags = kSyn;
      break;
    case Frame::Type::pong:
      type = kPing;
      flags = kAck;
      break;
    case Frame::Type::leave: type = kGoAway; break;
    case Frame::Type::yield: type = kYield; break;
    default: break;
  }
  to[0] = std::byte{0};
  to[1] = std::byte{type};
  store_be<std::uint16_t>(to + 2, flags);
  store_be<std::uint32_t>(to + 4, frame.stream);
  store_be<std::uint32_t>(to + 8, length);
  return kHeader;
}

}  // namespace qtrp::mux::yamux
