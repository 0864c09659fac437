// Arbitrary bytes at our yamux.
#include "mux_owner.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return qtrp::mux::fuzz::parse({qtrp::mux::Protocol::yamux}, data, size);
}
