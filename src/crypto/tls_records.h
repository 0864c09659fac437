// The record protection of TLS 1.3 (RFC 8446, section 5) for one direction, after the handshake: keys from a traffic
// secret, records from one buffer into another, key updates. The ciphers are OpenSSL's; its own record code would copy
// every byte twice more.
#pragma once

#include <openssl/evp.h>

#include <array>
#include <cstdint>
#include <memory>

#include "crypto/secret.h"
#include "qtrp/base/bytes.h"
#include "qtrp/base/error.h"

namespace qtrp::crypto {

inline constexpr std::size_t kRecordHeader = 5;            ///< type, legacy version, length
inline constexpr std::size_t kRecordPlain = 16384;         ///< most plaintext bytes of a record (section 5.1)
inline constexpr std::size_t kRecordLength = 16384 + 256;  ///< most bytes behind a header (section 5.2)
inline constexpr std::size_t kRecordTag = 16;              ///< of every suite that is offered
/// What a record has beyond its plaintext: the header, the inner content type and the tag.
inline constexpr std::size_t kRecordOverhead = kRecordHeader + 1 + kRecordTag;

enum class ContentType : std::uint8_t { change_cipher_spec = 20, alert = 21, handshake = 22, application_data = 23 };

/// The hash and the AEAD of a TLS 1.3 cipher suite.
struct TlsSuite {
  const EVP_MD* hash = nullptr;
  const EVP_CIPHER* aead = nullptr;

  /// By IANA's number, e.g. 0x1301; an error for a suite that is not one of the three with a 16-byte tag.
  static Result<TlsSuite> find(std::uint16_t number);
  std::size_t secret_bytes() const { return static_cast<std::size_t>(EVP_MD_get_size(hash)); }
};

class TlsRecords {
 public:
  /// `secret`: client_ or server_application_traffic_secret_0, secret_bytes() long. One object seals or opens, never
  /// both.
  static Result<TlsRecords> create(const TlsSuite& suite, Bytes secret, bool seals);

  /// Writes one record of plain.size() + kRecordOverhead bytes at `to`, which must not overlap. `plain` has at most
  /// kRecordPlain bytes and one byte of memory behind it that is used and put back.
  Result<void> seal(ContentType type, MutableBytes plain, std::byte* to);

  struct Inner {
    ContentType type = ContentType::application_data;
    std::size_t size = 0;  ///< bytes of content, without padding
  };
  /// Opens a whole record (header first) to `to`: either apart from it, with room for record.size() - kRecordHeader -
  /// kRecordTag bytes, or exactly record.data() + kRecordHeader.
  Result<Inner> open(MutableBytes record, std::byte* to);

  /// Goes to the next key (section 7.2).
  Result<void> update();
  /// Records since the key was new.
  std::uint64_t records() const { return sequence_; }

 private:
  static constexpr std::size_t kNonceBytes = 12;
  struct Free {
    void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
  };

  TlsRecords(const TlsSuite& suite, bool seals) : suite_(suite), seals_(seals) {}
  /// Key and nonce of the secret into the context.
  Result<void> set_key();
  /// Gives the context the record's nonce and its additional data, the header.
  bool begin(Bytes header, const std::byte* tag);

  TlsSuite suite_;
  bool seals_;
  std::unique_ptr<EVP_CIPHER_CTX, Free> context_;
  Secret<EVP_MAX_MD_SIZE> secret_;
  Secret<kNonceBytes> nonce_;
  std::uint64_t sequence_ = 0;
};

}  // namespace qtrp::crypto
