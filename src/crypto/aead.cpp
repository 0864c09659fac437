// ChaCha20-Poly1305 through OpenSSL's EVP; its contexts are made once a direction, not once a record.
#include "crypto/aead.h"

#include <openssl/err.h>

#include <limits>

namespace qtrp::crypto {
namespace {

/// Fetched once: an implicit fetch on every initialisation costs more than a small record.
const EVP_CIPHER* chacha20_poly1305() {
  static const EVP_CIPHER* const cipher = EVP_CIPHER_fetch(nullptr, "ChaCha20-Poly1305", nullptr);
  return cipher;
}

unsigned char* raw(std::byte* bytes) {
  return reinterpret_cast<unsigned char*>(bytes);
}
const unsigned char* raw(const std::byte* bytes) {
  return reinterpret_cast<const unsigned char*>(bytes);
}

std::unexpected<Error> failed() {
  ERR_clear_error();
  return fail(ErrorKind::crypto, "ChaCha20-Poly1305 failed in OpenSSL");
}

}  // namespace

Result<ChaChaPoly> ChaChaPoly::create(std::span<const std::byte, 32> key, bool encrypts) {
  ChaChaPoly made(EVP_CIPHER_CTX_new());
  if (!made.context_ || chacha20_poly1305() == nullptr ||
      EVP_CipherInit_ex2(made.context_.get(), chacha20_poly1305(), raw(key.data()), nullptr, encrypts ? 1 : 0,
                         nullptr) != 1) {
    return failed();
  }
  return made;
}

Result<void> ChaChaPoly::next_nonce() {
  if (nonce_ == std::numeric_limits<std::uint64_t>::max()) {
    return fail(ErrorKind::limit, "the tunnel's key has sealed all the messages it may; connect anew");
  }
  std::array<std::byte, 12> iv{};  // Noise, section 12.2: 32 zero bits, then the counter, little-endian
  store_le<std::uint64_t>(iv.data() + 4, nonce_);
  if (EVP_CipherInit_ex2(context_.get(), nullptr, nullptr, raw(iv.data()), -1, nullptr) != 1) return failed();
  ++nonce_;
  return {};
}

Result<void> ChaChaPoly::seal(MutableBytes text, std::span<std::byte, kTagBytes> tag, Bytes additional) {
  if (auto set = next_nonce(); !set) return set;
  EVP_CIPHER_CTX* const context = context_.get();
  int done = 0;
  if (!additional.empty() &&
      EVP_EncryptUpdate(context, nullptr, &done, raw(additional.data()), static_cast<int>(additional.size())) != 1) {
    return failed();
  }
  if (!text.empty() &&
      EVP_EncryptUpdate(context, raw(text.data()), &done, raw(text.data()), static_cast<int>(text.size())) != 1) {
    return failed();
  }
  if (EVP_EncryptFinal_ex(context, raw(tag.data()), &done) != 1 ||
      EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, kTagBytes, tag.data()) != 1) {
    return failed();
  }
  return {};
}

Result<void> ChaChaPoly::open(MutableBytes text, std::span<const std::byte, kTagBytes> tag, Bytes additional) {
  if (auto set = next_nonce(); !set) return set;
  EVP_CIPHER_CTX* const context = context_.get();
  int done = 0;
  // OpenSSL only reads the tag here; its interface is one for reading and writing.
  if (EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, kTagBytes, const_cast<std::byte*>(tag.data())) != 1)
    return failed();
  if (!additional.empty() &&
      EVP_DecryptUpdate(context, nullptr, &done, raw(additional.data()), static_cast<int>(additional.size())) != 1) {
    return failed();
  }
  if (!text.empty() &&
      EVP_DecryptUpdate(context, raw(text.data()), &done, raw(text.data()), static_cast<int>(text.size())) != 1) {
    return failed();
  }
  unsigned char none[kTagBytes];
  if (EVP_DecryptFinal_ex(context, none, &done) != 1) {
    ERR_clear_error();
    return fail(ErrorKind::crypto, "a record does not authenticate");
  }
  return {};
}

}  // namespace qtrp::crypto
