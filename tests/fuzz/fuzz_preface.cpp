// The preface: 32 arbitrary bytes from the peer against our own.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>

#include "qtrp/protocol/preface.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace qtrp;
  const auto require = [](bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "does not hold: %s\n", what);
    std::abort();
  };
  std::array<std::byte, protocol::kPrefaceSize> bytes{};
  std::ranges::copy(std::as_bytes(std::span(data, std::min(size, bytes.size()))), bytes.begin());
  const auto theirs = protocol::decode_preface(bytes);
  if (!theirs) {
    require(!theirs.error().message.empty(), "a refusal says why");
    return 0;
  }
  const auto again = protocol::decode_preface(protocol::encode(*theirs));
  require(again && again->version == theirs->version && again->mux == theirs->mux && again->flags == theirs->flags &&
              again->max_frame == theirs->max_frame && again->initial_window == theirs->initial_window,
          "a preface survives our encoding");
  for (const std::uint8_t mux : {1, 2, 3}) {
    protocol::Preface ours;
    ours.mux = mux;
    const auto here = protocol::match(ours, *theirs), there = protocol::match(*theirs, ours);
    // But for one that accepts no frames at all, which only the other end can hold against it.
    require(here.has_value() == there.has_value() || theirs->max_frame == 0, "both ends come to the same verdict");
    require(!here || (theirs->version == ours.version && theirs->mux == ours.mux), "only equals match");
  }
  return 0;
}
