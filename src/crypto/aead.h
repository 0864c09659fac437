// ChaCha20-Poly1305 as Noise's CipherState: one key, a counter as nonce, a kept OpenSSL context, everything in place.
#pragma once

#include <openssl/evp.h>

#include <array>
#include <cstdint>
#include <memory>

#include "qtrp/base/bytes.h"
#include "qtrp/base/error.h"

namespace qtrp::crypto {

inline constexpr std::size_t kTagBytes = 16;

/// One direction. Not thread-safe.
class ChaChaPoly {
 public:
  /// `encrypts`: this object seals, otherwise it opens. The context keeps its own copy of the key and wipes it at its
  /// end.
  static Result<ChaChaPoly> create(std::span<const std::byte, 32> key, bool encrypts);

  /// Encrypts `text` in place and writes the 16-byte tag. `additional` is authenticated only.
  Result<void> seal(MutableBytes text, std::span<std::byte, kTagBytes> tag, Bytes additional = {});
  /// Checks and decrypts `text` in place; an error (kind crypto) if the tag does not fit, `text` is then garbage.
  Result<void> open(MutableBytes text, std::span<const std::byte, kTagBytes> tag, Bytes additional = {});

  /// The next message's number; messages are numbered from 0. 2^64-1 is never used (Noise, section 5.1).
  std::uint64_t nonce() const { return nonce_; }
  void set_nonce(std::uint64_t nonce) { nonce_ = nonce; }

 private:
  struct Free {
    void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
  };
  explicit ChaChaPoly(EVP_CIPHER_CTX* context) : context_(context) {}
  /// Sets the message's nonce in the context and moves on.
  Result<void> next_nonce();

  std::unique_ptr<EVP_CIPHER_CTX, Free> context_;
  std::uint64_t nonce_ = 0;
};

}  // namespace qtrp::crypto
