// The layout of smux frames, versions 1 and 2, and of our own commands.
#include "mux/frame.h"

namespace qtrp::mux::smux {
namespace {

Frame bad(const char* error) {
  Frame frame;
  frame.type = Frame::Type::bad;
  frame.error = error;
  return frame;
}

}  // namespace

std::size_t header_size(const std::byte* header, bool extensions) {
  switch (std::to_integer<std::uint8_t>(header[1])) {
    case kUpd: return kHeader + 8;
    case kRst:
    case kLarge:
    case kYield: return extensions ? kHeader + 4 : kHeader;
    default: return kHeader;
  }
}

Frame decode(const std::byte* header, std::uint8_t version, bool extensions) {
  if (std::to_integer<std::uint8_t>(header[0]) != version) return bad("wrong smux version");
  const auto command = std::to_integer<std::uint8_t>(header[1]);
  const auto length = load_le<std::uint16_t>(header + 2);
  Frame frame;
  frame.stream = load_le<std::uint32_t>(header + 4);
  switch (command) {
    case kPsh:
      frame.type = Frame::Type::data;
      frame.length = length;
      return frame;
    case kSyn:
      if (length != 0) return bad("smux SYN with a body");
      frame.open = true;
      return frame;
    case kFin:
      if (length != 0) return bad("smux FIN with a body");
      frame.finish = true;
      return frame;
    case kNop:
      if (length != 0) return bad("smux NOP with a body");
      frame.type = Frame::Type::nop;
      return frame;
    case kUpd:
      if (version != 2) return bad("smux UPD in version 1");
      if (length != 8) return bad("smux UPD of a wrong length");
      frame.type = Frame::Type::limit;
      frame.value = load_le<std::uint32_t>(header + 8);
      frame.second = load_le<std::uint32_t>(header + 12);
      return frame;
    default: break;
  }
  if (!extensions || (command != kRst && command != kLarge && command != kYield)) return bad("unknown smux command");
  if (length != 4) return bad("extended smux command of a wrong length");
  const auto argument = load_le<std::uint32_t>(header + 8);
  if (command == kLarge) {
    frame.type = Frame::Type::data;
    frame.length = argument;
    return frame;
  }
  frame.value = argument;
  if (command == kRst) {
    frame.reset = true;
  } else {
    frame.type = Frame::Type::yield;
  }
  return frame;
}

std::size_t encode(const Frame& frame, std::uint8_t version, bool large, std::byte* to) {
  Command command = kNop;
  std::uint16_t length = 0;
  std::size_t size = kHeader;
  switch (frame.type) {
    case Frame::Type::data:
      if (large) {
        command = kLarge;
        length = 4;
        size = kLargeHeader;
        store_le<std::uint32_t>(to + 8, frame.length);
      } else {
        command = kPsh;
        length = static_cast<std::uint16_t>(frame.length);
      }
      break;
    case Frame::Type::limit:
      command = kUpd;
      length = 8;
      size = kHeader + 8;
      store_le<std::uint32_t>(to + 8, frame.value);
      store_le<std::uint32_t>(to + 12, frame.second);
      break;
    case Frame::Type::yield:
      command = kYield;
      length = 4;
      size = kHeader + 4;
      store_le<std::uint32_t>(to + 8, frame.value);
      break;
    default:
      if (frame.open) {
        command = kSyn;
      } else if (frame.finish) {
        command = kFin;
      } else if (frame.reset) {
        command = kRst;
        length = 4;
        size = kHeader + 4;
        store_le<std::uint32_t>(to + 8, frame.value);
      }
      break;
  }
  to[0] = std::byte{version};
  to[1] = std::byte{command};
  store_le<std::uint16_t>(to + 2, length);
  store_le<std::uint32_t>(to + 4, frame.stream);
  return size;
}

}  // namespace qtrp::mux::smux
