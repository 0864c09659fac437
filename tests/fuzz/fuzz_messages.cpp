// Control messages: a stream of them in pieces, and the bodies of Auth and AuthResp. How the bytes are split changes
// nothing, and what was understood is understood again after our own encoding.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "qtrp/protocol/messages.h"

namespace {

using namespace qtrp;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

struct Read {
  std::vector<protocol::Message> messages;
  bool failed = false;
};

/// All messages of `bytes`, which arrive `step` at a time.
Read read_all(Bytes bytes, std::size_t step) {
  Read read;
  protocol::MessageReader reader;
  while (!bytes.empty() && !read.failed) {
    Bytes piece = bytes.first(std::min(step, bytes.size()));
    bytes = bytes.subspan(piece.size());
    while (!piece.empty()) {
      const std::size_t before = piece.size();
      auto message = reader.next(piece);
      require(piece.size() <= before, "input shrinks");
      if (!message) {
        read.failed = true;
        break;
      }
      if (!*message) {
        require(piece.empty(), "more bytes are asked for when all are used up");
        break;
      }
      require(piece.size() < before, "a message has bytes");
      read.messages.push_back(std::move(**message));
    }
  }
  return read;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) return 0;
  const std::size_t step = data[0] + 1U;
  const Bytes bytes = std::as_bytes(std::span(data + 1, size - 1));
  const Read whole = read_all(bytes, bytes.size());
  const Read pieces = read_all(bytes, step);
  require(whole.failed == pieces.failed && whole.messages == pieces.messages, "pieces give what the whole gives");
  for (const protocol::Message& message : whole.messages) {
    if (std::holds_alternative<protocol::Unknown>(message)) continue;  // its other keys are not kept
    const auto encoded = protocol::encode(message);
    const auto again = protocol::decode(Bytes(encoded).subspan(4));
    require(again && *again == message, "a message survives our encoding");
  }
  if (const auto body = protocol::decode_auth_body(bytes)) {
    const auto again = protocol::decode_auth_body(protocol::encode_body(*body));
    require(again && *again == *body, "an Auth body survives our encoding");
  }
  if (const auto body = protocol::decode_auth_resp_body(bytes)) {
    const auto again = protocol::decode_auth_resp_body(protocol::encode_body(*body));
    require(again && *again == *body, "an AuthResp body survives our encoding");
  }
  return 0;
}
