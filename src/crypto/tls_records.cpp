// TLS 1.3 record protection on OpenSSL's EVP, contexts kept.
#include "crypto/tls_records.h"

#include <fmt/format.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

#include <vector>

namespace qtrp::crypto {
namespace {

constexpr std::size_t kKeyBytesMost = 32;

unsigned char* raw(std::byte* bytes) {
  return reinterpret_cast<unsigned char*>(bytes);
}
const unsigned char* raw(const std::byte* bytes) {
  return reinterpret_cast<const unsigned char*>(bytes);
}

std::unexpected<Error> failed(std::string_view what) {
  ERR_clear_error();
  return fail(ErrorKind::crypto, fmt::format("{} failed in OpenSSL", what));
}

/// HKDF-Expand-Label (section 7.1) with an empty context.
bool expand_label(const EVP_MD* hash, Bytes secret, std::string_view label, MutableBytes out) {
  constexpr std::string_view kPrefix = "tls13 ";
  std::vector<std::byte> info;
  info.push_back(static_cast<std::byte>(out.size() >> 8));
  info.push_back(static_cast<std::byte>(out.size()));
  info.push_back(static_cast<std::byte>(kPrefix.size() + label.size()));
  for (const std::string_view part : {kPrefix, label})
    info.insert(info.end(), as_bytes(part).begin(), as_bytes(part).end());
  info.push_back(std::byte{0});

  static EVP_KDF* const hkdf = EVP_KDF_fetch(nullptr, "HKDF", nullptr);
  EVP_KDF_CTX* const context = EVP_KDF_CTX_new(hkdf);
  int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY;
  // OpenSSL's parameters are not const but only read here.
  const std::array<OSSL_PARAM, 5> parameters{
      OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode),
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, const_cast<char*>(EVP_MD_get0_name(hash)), 0),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, const_cast<std::byte*>(secret.data()), secret.size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info.data(), info.size()), OSSL_PARAM_construct_end()};
  const bool derived =
      context != nullptr && EVP_KDF_derive(context, raw(out.data()), out.size(), parameters.data()) == 1;
  EVP_KDF_CTX_free(context);
  return derived;
}

}  // namespace

Result<TlsSuite> TlsSuite::find(std::uint16_t number) {
  // Fetched once for all tunnels; RFC 8446, appendix B.4.
  static const EVP_CIPHER* const aes_128 = EVP_CIPHER_fetch(nullptr, "AES-128-GCM", nullptr);
  static const EVP_CIPHER* const aes_256 = EVP_CIPHER_fetch(nullptr, "AES-256-GCM", nullptr);
  static const EVP_CIPHER* const chacha20 = EVP_CIPHER_fetch(nullptr, "ChaCha20-Poly1305", nullptr);
  static const EVP_MD* const sha256 = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  static const EVP_MD* const sha384 = EVP_MD_fetch(nullptr, "SHA384", nullptr);
  TlsSuite suite;
  if (number == 0x1301) suite = {sha256, aes_128};
  if (number == 0x1302) suite = {sha384, aes_256};
  if (number == 0x1303) suite = {sha256, chacha20};
  if (suite.hash == nullptr || suite.aead == nullptr)
    return failed(fmt::format("finding the TLS suite {:#06x}", number));
  return suite;
}

Result<TlsRecords> TlsRecords::create(const TlsSuite& suite, Bytes secret, bool seals) {
  TlsRecords records(suite, seals);
  records.context_.reset(EVP_CIPHER_CTX_new());
  if (!records.context_ || secret.size() != suite.secret_bytes()) return failed("making a TLS key");
  std::ranges::copy(secret, records.secret_.data());
  if (auto set = records.set_key(); !set) return std::unexpected(std::move(set.error()));
  return records;
}

Result<void> TlsRecords::set_key() {
  const Bytes secret = secret_.span().first(suite_.secret_bytes());
  Secret<kKeyBytesMost> key;
  const auto length = static_cast<std::size_t>(EVP_CIPHER_get_key_length(suite_.aead));
  if (!expand_label(suite_.hash, secret, "key", key.span().first(length)) ||
      !expand_label(suite_.hash, secret, "iv", nonce_.span()) ||
      EVP_CipherInit_ex2(context_.get(), suite_.aead, raw(key.data()), nullptr, seals_ ? 1 : 0, nullptr) != 1) {
    return failed("making a TLS key");
  }
  sequence_ = 0;
  return {};
}

Result<void> TlsRecords::update() {
  Secret<EVP_MAX_MD_SIZE> next;
  const std::size_t size = suite_.secret_bytes();
  if (!expand_label(suite_.hash, secret_.span().first(size), "traffic upd", next.span().first(size))) {
    return failed("updating a TLS key");
  }
  secret_ = next;
  return set_key();
}

bool TlsRecords::begin(Bytes header, const std::byte* tag) {
  // Section 5.3: the sequence number, big-endian and padded on the left, XORed into the nonce of the key.
  std::array<std::byte, kNonceBytes> nonce;
  std::ranges::copy(nonce_.span(), nonce.begin());
  std::byte* const low = nonce.data() + kNonceBytes - sizeof sequence_;
  store_be(low, load_be<std::uint64_t>(low) ^ sequence_);
  ++sequence_;
  int done = 0;
  return EVP_CipherInit_ex2(context_.get(), nullptr, nullptr, raw(nonce.data()), -1, nullptr) == 1 &&
         (tag == nullptr ||
          EVP_CIPHER_CTX_ctrl(context_.get(), EVP_CTRL_AEAD_SET_TAG, kRecordTag, const_cast<std::byte*>(tag)) == 1) &&
         EVP_CipherUpdate(context_.get(), nullptr, &done, raw(header.data()), static_cast<int>(header.size())) == 1;
}

Result<void> TlsRecords::seal(ContentType type, MutableBytes plain, std::byte* to) {
  const std::size_t inner = plain.size() + 1;
  to[0] = static_cast<std::byte>(ContentType::application_data);
  store_be<std::uint16_t>(to + 1, 0x0303);
  store_be(to + 3, static_cast<std::uint16_t>(inner + kRecordTag));
  std::byte* const text = to + kRecordHeader;
  // The content type is the plaintext's last byte: one pass over both is much cheaper than a second for one byte.
  std::byte& behind = plain.data()[plain.size()];
  const std::byte kept = behind;
  behind = static_cast<std::byte>(type);
  int done = 0;
  const bool sealed =
      begin({to, kRecordHeader}, nullptr) &&
      EVP_EncryptUpdate(context_.get(), raw(text), &done, raw(plain.data()), static_cast<int>(inner)) == 1 &&
      EVP_EncryptFinal_ex(context_.get(), raw(text) + inner, &done) == 1 &&
      EVP_CIPHER_CTX_ctrl(context_.get(), EVP_CTRL_AEAD_GET_TAG, kRecordTag, text + inner) == 1;
  behind = kept;
  if (!sealed) return failed("sealing a TLS record");
  return {};
}

Result<TlsRecords::Inner> TlsRecords::open(MutableBytes record, std::byte* to) {
  if (record.size() < kRecordOverhead) return fail(ErrorKind::crypto, "a TLS record is too short");
  const Bytes text = record.subspan(kRecordHeader, record.size() - kRecordHeader - kRecordTag);
  unsigned char last[kRecordTag];
  int done = 0;
  if (!begin(record.first(kRecordHeader), record.data() + record.size() - kRecordTag) ||
      EVP_DecryptUpdate(context_.get(), raw(to), &done, raw(text.data()), static_cast<int>(text.size())) != 1 ||
      EVP_DecryptFinal_ex(context_.get(), last, &done) != 1) {
    ERR_clear_error();
    return fail(ErrorKind::crypto, "a TLS record does not authenticate");
  }
  // Section 5.4: zeros behind the content type are padding.
  std::size_t size = text.size();
  while (size > 0 && to[size - 1] == std::byte{0}) --size;
  if (size == 0) return fail(ErrorKind::protocol, "a TLS record has no content type");
  if (size - 1 > kRecordPlain) return fail(ErrorKind::protocol, "a TLS record has more than 16384 bytes");
  return Inner{static_cast<ContentType>(to[size - 1]), size - 1};
}

}  // namespace qtrp::crypto
