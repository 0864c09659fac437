// Two record layers joined in memory, with control over how the wire's bytes are split, for every test of the room.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "qtrp/crypto/record_layer.h"

namespace qtrp::crypto {

using Buffer = std::vector<std::byte>;

inline Buffer random_buffer(std::mt19937_64& random, std::size_t size) {
  Buffer buffer(size);
  for (std::byte& byte : buffer) byte = static_cast<std::byte>(random());
  return buffer;
}

/// Seals a plaintext of at most max_plain bytes: a copy of the wire bytes, what the layer had to send before included.
inline Result<Buffer> seal(RecordLayer& layer, Bytes plain) {
  const Rooms rooms = layer.rooms();
  Buffer wire(layer.output().begin(), layer.output().end());
  layer.clear_output();
  Buffer buffer(rooms.head + plain.size() + rooms.tail);
  std::ranges::copy(plain, buffer.begin() + static_cast<std::ptrdiff_t>(rooms.head));
  const auto sealed = layer.seal(buffer);
  if (!sealed) return std::unexpected(sealed.error());
  wire.insert(wire.end(), sealed->begin(), sealed->end());
  return wire;
}

/// One end: the layer, the wire bytes it has been given and not used, and the plaintext it gave.
struct End {
  std::unique_ptr<RecordLayer> layer;
  Buffer kept{};
  Buffer plain{};

  Buffer take_output() {
    Buffer out(layer->output().begin(), layer->output().end());
    layer->clear_output();
    return out;
  }

  /// Gives the layer `wire` behind what is kept and takes all the plaintext there is. Every call gets a copy of its own
  /// size on the heap, so that AddressSanitizer sees a byte too far.
  Result<void> give(Bytes wire) {
    kept.insert(kept.end(), wire.begin(), wire.end());
    for (;;) {
      Buffer exact(kept);
      const auto opened = layer->open(exact);
      if (!opened) return std::unexpected(opened.error());
      EXPECT_LE(opened->consumed, exact.size());
      plain.insert(plain.end(), opened->plain.begin(), opened->plain.end());
      kept.erase(kept.begin(), kept.begin() + static_cast<std::ptrdiff_t>(opened->consumed));
      if (opened->consumed == 0 && opened->plain.empty()) break;
    }
    EXPECT_LE(kept.size(), 65537U);
    return {};
  }
};

/// How many of the bytes that are left the receiver gets next.
using Split = std::function<std::size_t(std::size_t left)>;
inline Split whole() {
  return [](std::size_t left) { return left; };
}
inline Split one_by_one() {
  return [](std::size_t) { return std::size_t{1}; };
}
inline Split randomly(std::mt19937_64& random) {
  return [&random](std::size_t left) {
    const std::size_t most = std::size_t{1} << (random() % 18);
    return std::min<std::size_t>(left, 1 + random() % most);
  };
}

inline Result<void> give(End& end, Bytes wire, const Split& split) {
  while (!wire.empty()) {
    const std::size_t piece = split(wire.size());
    if (auto given = end.give(wire.first(piece)); !given) return given;
    wire = wire.subspan(piece);
  }
  return {};
}

/// Runs both handshakes to their end; an error of either side is returned.
inline Result<void> shake_hands(End& client, End& server, const Split& split = whole()) {
  if (auto started = client.layer->start(); !started) return started;
  if (auto started = server.layer->start(); !started) return started;
  for (;;) {
    const Buffer up = client.take_output();
    if (auto given = give(server, up, split); !given) return given;
    const Buffer down = server.take_output();
    if (auto given = give(client, down, split); !given) return given;
    if (up.empty() && down.empty()) return {};
  }
}

}  // namespace qtrp::crypto
