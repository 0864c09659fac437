// The Noise layer, handshake and records, both roles, with a man in the middle.
#include "layer_pair.h"
#include "qtrp/crypto/noise.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace qtrp;
  static const auto keys = [] {
    fuzz::use_counted_randomness();
    return std::make_shared<const std::vector<crypto::NoiseKey>>(
        std::vector{crypto::derive_noise_key("another"), crypto::derive_noise_key("ours")});
  }();
  fuzz::random_counter = 0;
  fuzz::Link link(crypto::make_noise_client(keys->back()), crypto::make_noise_server(keys));
  link.run(fuzz::Input(std::as_bytes(std::span(data, size))));
  return 0;
}
