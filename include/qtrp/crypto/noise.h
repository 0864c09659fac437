// Record layer of `crypto: chacha20`: Noise_NNpsk0_25519_ChaChaPoly_BLAKE2b (noiseprotocol.org, revision 34), each
// message behind a 2-byte big-endian length. Before the client's first message stand 8 bytes that tell the server which
// key it was made with: BLAKE2b-64(ephemeral public key) keyed by the key's `hint` half.
#pragma once

#include <array>
#include <memory>
#include <string_view>
#include <vector>

#include "qtrp/crypto/record_layer.h"

namespace qtrp::crypto {

struct NoiseKey {
  std::array<std::byte, 32> psk;
  std::array<std::byte, 32> hint;
};
/// From a token or from chacha20.psk: both halves by keyed BLAKE2b under different personalisations ("qtrp-psk",
/// "qtrp-hint").
NoiseKey derive_noise_key(std::string_view secret);

std::unique_ptr<RecordLayer> make_noise_client(const NoiseKey& key);
std::unique_ptr<RecordLayer> make_noise_server(std::shared_ptr<const std::vector<NoiseKey>> keys);

}  // namespace qtrp::crypto
