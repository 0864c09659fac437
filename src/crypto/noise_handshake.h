// The handshake Noise_NNpsk0_25519_ChaChaPoly_BLAKE2b (noiseprotocol.org, revision 34):
//   -> psk, e
//   <- e, ee
// Messages without lengths or hints; those belong to noise.cpp. Ephemeral keys and prologue can be given, for test
// vectors.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "crypto/aead.h"
#include "crypto/secret.h"
#include "qtrp/base/bytes.h"
#include "qtrp/base/error.h"

namespace qtrp::crypto {

inline constexpr std::size_t kKeyBytes = 32;   ///< X25519 keys (DHLEN) and cipher keys
inline constexpr std::size_t kHashBytes = 64;  ///< HASHLEN of BLAKE2b
/// Bytes that a handshake message has beyond its payload: the ephemeral key and a tag.
inline constexpr std::size_t kHandshakeOverhead = kKeyBytes + kTagBytes;

/// Noise's SymmetricState: the chaining key, the transcript's hash and, once there is a key, its cipher's number.
class NoiseSymmetricState {
 public:
  NoiseSymmetricState();
  void mix_key(Bytes input);
  void mix_hash(Bytes data);
  void mix_key_and_hash(Bytes input);
  /// Appends ciphertext and tag of `plain` to `message`.
  Result<void> encrypt_and_hash(Bytes plain, std::vector<std::byte>& message);
  /// Appends the plaintext of `cipher` (with its tag) to `payload`.
  Result<void> decrypt_and_hash(Bytes cipher, std::vector<std::byte>& payload);
  /// The two transport keys: initiator's to responder, responder's to initiator.
  std::pair<Secret<kKeyBytes>, Secret<kKeyBytes>> split() const;
  const std::array<std::byte, kHashBytes>& hash() const { return hash_; }

 private:
  Secret<kHashBytes> chaining_key_;
  std::array<std::byte, kHashBytes> hash_{};
  Secret<kKeyBytes> key_;
  std::uint64_t nonce_ = 0;
};

class NoiseHandshake {
 public:
  enum class Role { initiator, responder };
  /// `ephemeral`: the private key to use instead of a random one (tests only).
  NoiseHandshake(Role role, Bytes prologue, std::span<const std::byte, kKeyBytes> psk,
                 std::optional<Secret<kKeyBytes>> ephemeral = std::nullopt);

  /// The initiator writes first and then reads; the responder reads first and then writes. Each once.
  Result<std::vector<std::byte>> write(Bytes payload);
  Result<std::vector<std::byte>> read(Bytes message);

  bool finished() const { return messages_ == 2; }
  struct Ciphers {
    ChaChaPoly send;
    ChaChaPoly receive;
  };
  /// Only when finished.
  Result<Ciphers> split() const;
  const std::array<std::byte, kHashBytes>& hash() const { return state_.hash(); }

 private:
  Result<void> mix_ee();

  Role role_;
  int messages_ = 0;  ///< written and read so far
  NoiseSymmetricState state_;
  Secret<kKeyBytes> psk_;
  Secret<kKeyBytes> ephemeral_;
  std::array<std::byte, kKeyBytes> peer_ephemeral_{};
};

}  // namespace qtrp::crypto
