#include "qtrp/protocol/preface.h"

#include <fmt/format.h>

#include <cstring>

namespace qtrp::protocol {
namespace {

std::string mux_name(std::uint8_t mux) {
  switch (mux) {
    case 1: return "smux version 1";
    case 2: return "smux";
    case 3: return "yamux";
    default: return fmt::format("unknown mux {}", mux);
  }
}

}  // namespace

std::array<std::byte, kPrefaceSize> encode(const Preface& preface) {
  std::array<std::byte, kPrefaceSize> out{};
  std::memcpy(out.data(), "QTRP", 4);
  out[4] = std::byte{preface.version};
  out[5] = std::byte{preface.mux};
  store_be<std::uint16_t>(&out[6], preface.flags);
  store_be<std::uint32_t>(&out[8], preface.max_frame);
  store_be<std::uint32_t>(&out[12], preface.initial_window);
  return out;
}

Result<Preface> decode_preface(Bytes bytes) {
  const std::string_view text = as_text(bytes);
  if (bytes.size() != kPrefaceSize || !text.starts_with("QTRP")) {
    std::string hint = "not a QTRP peer";
    if (bytes.size() >= 3 && bytes[0] == std::byte{22} && bytes[1] == std::byte{3})
      hint += " (it speaks TLS: crypto: tls on its side?)";
    if (text.starts_with("GET ") || text.starts_with("POST") || text.starts_with("HEAD")) hint += " (it speaks HTTP)";
    if (text.starts_with("SSH-")) hint += " (it speaks SSH)";
    return fail(ErrorKind::protocol, hint);
  }
  Preface preface;
  preface.version = static_cast<std::uint8_t>(bytes[4]);
  preface.mux = static_cast<std::uint8_t>(bytes[5]);
  preface.flags = load_be<std::uint16_t>(&bytes[6]);
  preface.max_frame = load_be<std::uint32_t>(&bytes[8]);
  preface.initial_window = load_be<std::uint32_t>(&bytes[12]);
  return preface;
}

Result<void> match(const Preface& ours, const Preface& theirs) {
  if (ours.version != theirs.version) {
    return fail(ErrorKind::protocol, fmt::format("protocol version differs: {} here, {} there; update the older side",
                                                 ours.version, theirs.version));
  }
  if (ours.mux != theirs.mux) {
    return fail(ErrorKind::protocol, fmt::format("mux differs: '{}' here, '{}' there; set the same `mux` on both sides",
                                                 mux_name(ours.mux), mux_name(theirs.mux)));
  }
  if (theirs.max_frame == 0) return fail(ErrorKind::protocol, "the peer accepts no frames at all (largest frame 0)");
  return {};
}

}  // namespace qtrp::protocol
