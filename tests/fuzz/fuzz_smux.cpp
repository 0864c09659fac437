// Arbitrary bytes at our smux, versions 1 and 2, with and without extensions.
#include "mux_owner.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return qtrp::mux::fuzz::parse({qtrp::mux::Protocol::smux2, qtrp::mux::Protocol::smux1}, data, size);
}
