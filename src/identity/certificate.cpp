// The server's certificate: the user's own, or ECDSA P-256 made on first start and kept.
#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <cerrno>

#include "identity/state_file.h"
#include "qtrp/base/file.h"
#include "qtrp/base/file_mode.h"
#include "qtrp/base/log.h"
#include "qtrp/identity/identity.h"

namespace qtrp::identity {
namespace {

template <auto F>
struct Free {
  template <typename T>
  void operator()(T* object) const {
    F(object);
  }
};
using Key = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>>;
using X509Ptr = std::unique_ptr<X509, Free<X509_free>>;
using BioPtr = std::unique_ptr<BIO, Free<BIO_free>>;

constexpr std::size_t kLongestFile = 1 << 20;
constexpr long kYears20 = 60L * 60 * 24 * 7305;  // seconds
constexpr long kOneDay = 60L * 60 * 24;

/// The oldest entry of OpenSSL's error queue, which is emptied.
std::string openssl_reason() {
  const unsigned long code = ERR_get_error();
  ERR_clear_error();
  const char* text = code == 0 ? nullptr : ERR_reason_error_string(code);
  return text == nullptr ? "no reason given" : text;
}

BioPtr memory_bio(std::string_view pem) {
  return BioPtr(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

/// Never asks on the terminal: an encrypted key is an error.
int no_password(char*, int, int, void*) {
  return -1;
}

Key read_key(std::string_view pem) {
  const BioPtr bio = memory_bio(pem);
  return Key(PEM_read_bio_PrivateKey(bio.get(), nullptr, no_password, nullptr));
}

X509Ptr read_leaf(std::string_view pem) {
  const BioPtr bio = memory_bio(pem);
  return X509Ptr(PEM_read_bio_X509(bio.get(), nullptr, no_password, nullptr));
}

std::string text_of(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  return {data, static_cast<std::size_t>(size)};
}

Result<std::string> pin_of(const X509* certificate) {
  std::array<std::byte, 32> digest;
  unsigned char* der = nullptr;
  const int size = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(certificate), &der);
  if (size <= 0) return fail(ErrorKind::config, "the certificate's public key cannot be encoded: " + openssl_reason());
  const int hashed = EVP_Digest(der, static_cast<std::size_t>(size), reinterpret_cast<unsigned char*>(digest.data()),
                                nullptr, EVP_sha256(), nullptr);
  OPENSSL_free(der);
  if (hashed != 1) return fail(ErrorKind::crypto, "SHA-256 failed: " + openssl_reason());
  return format_pin(digest);
}

/// Checks that both parts can be read and belong together. The names are for messages only.
Result<Certificate> assemble(std::string certificate_pem, std::string key_pem, const std::string& certificate_name,
                             const std::string& key_name) {
  ERR_clear_error();
  const X509Ptr leaf = read_leaf(certificate_pem);
  if (!leaf)
    return fail(ErrorKind::config, fmt::format("{} holds no PEM certificate: {}", certificate_name, openssl_reason()));
  const Key key = read_key(key_pem);
  if (!key) {
    return fail(ErrorKind::config,
                fmt::format("{} holds no unencrypted PEM private key: {}", key_name, openssl_reason()));
  }
  if (X509_check_private_key(leaf.get(), key.get()) != 1) {
    ERR_clear_error();
    return fail(ErrorKind::config,
                fmt::format("the key in {} does not belong to the certificate in {}", key_name, certificate_name));
  }
  auto pin = pin_of(leaf.get());
  if (!pin) return std::unexpected(std::move(pin.error()));
  return Certificate{std::move(certificate_pem), std::move(key_pem), std::move(*pin), true};
}

Result<std::string> make_key_pem() {
  const Key key(EVP_EC_gen("P-256"));
  const BioPtr bio(BIO_new(BIO_s_secmem()));
  if (!key || !bio || PEM_write_bio_PKCS8PrivateKey(bio.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr) != 1) {
    return fail(ErrorKind::crypto, "making a P-256 key failed: " + openssl_reason());
  }
  return text_of(bio.get());
}

bool add_extension(X509* certificate, int nid, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, certificate, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, nid, value);
  const bool added = extension != nullptr && X509_add_ext(certificate, extension, -1) == 1;
  X509_EXTENSION_free(extension);
  return added;
}

Result<std::string> make_certificate_pem(std::string_view key_pem) {
  const Key key = read_key(key_pem);
  if (!key) return fail(ErrorKind::config, "the kept key cannot be read: " + openssl_reason());
  const X509Ptr certificate(X509_new());
  const BioPtr bio(BIO_new(BIO_s_mem()));
  std::array<std::byte, 16> serial;  // RFC 5280, section 4.1.2.2: positive, at most 20 bytes
  random_bytes(serial);
  serial[0] = (serial[0] & std::byte{0x7f}) | std::byte{0x40};
  BIGNUM* number = BN_bin2bn(reinterpret_cast<const unsigned char*>(serial.data()), serial.size(), nullptr);
  X509_NAME* name = certificate ? X509_get_subject_name(certificate.get()) : nullptr;
  // It starts a day early: clocks differ.
  const bool made =
      certificate && bio && number != nullptr && X509_set_version(certificate.get(), X509_VERSION_3) == 1 &&
      BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate.get())) != nullptr &&
      X509_gmtime_adj(X509_getm_notBefore(certificate.get()), -kOneDay) != nullptr &&
      X509_gmtime_adj(X509_getm_notAfter(certificate.get()), kYears20) != nullptr &&
      X509_set_pubkey(certificate.get(), key.get()) == 1 &&
      X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>("qtrp"), -1, -1, 0) ==
          1 &&
      X509_set_issuer_name(certificate.get(), name) == 1 &&
      add_extension(certificate.get(), NID_basic_constraints, "critical,CA:FALSE") &&
      add_extension(certificate.get(), NID_key_usage, "critical,digitalSignature") &&
      add_extension(certificate.get(), NID_ext_key_usage, "serverAuth") &&
      add_extension(certificate.get(), NID_subject_alt_name, "DNS:qtrp") &&
      X509_sign(certificate.get(), key.get(), EVP_sha256()) != 0 &&
      PEM_write_bio_X509(bio.get(), certificate.get()) == 1;
  BN_free(number);
  if (!made) return fail(ErrorKind::crypto, "making the certificate failed: " + openssl_reason());
  return text_of(bio.get());
}

/// The file's content, else what `make` gives, stored there; another process's file wins over ours.
template <typename Make>
Result<std::string> read_or_make(const std::filesystem::path& path, Make make) {
  for (int round = 0; round < 2; ++round) {
    auto content = read_file(path, kLongestFile);
    if (!content) return std::unexpected(std::move(content.error()));
    if (*content) return std::move(**content);
    auto made = make();
    if (!made) return made;
    const auto created = create_file(path, *made);
    if (!created) return std::unexpected(created.error());
    if (*created) return made;
  }
  return fail(ErrorKind::system, path.string() + " comes and goes");
}

/// As ssh does: a key that every user of the machine can read is used no more. A group's access gets a warning.
Result<void> check_key_mode(const std::filesystem::path& key) {
  const FileMode found = file_mode(key);
  if (found.exposure == Exposure::everybody) {
    return fail(
        ErrorKind::config,
        fmt::format("{0} can be read by every user of this machine (mode {1:04o}), so it is not used: chmod 600 "
                    "it, or delete it and its certificate for a new key (clients with a pin need the new pin)",
                    key.string(), found.mode));
  }
  if (found.exposure == Exposure::group)
    log::warn("{} can be read by a group (mode {:04o}); chmod 600 it", key.string(), found.mode);
  return {};
}

Result<Certificate> keep_in(const std::filesystem::path& directory) {
  if (auto made = make_directory(directory); !made) return std::unexpected(std::move(made.error()));
  const std::filesystem::path key_path = directory / "server.key";
  const std::filesystem::path certificate_path = directory / "server.crt";
  std::error_code ignored;
  if (std::filesystem::exists(certificate_path, ignored) && !std::filesystem::exists(key_path, ignored)) {
    return fail(ErrorKind::config,
                fmt::format("{} is there but its key {} is not: put it back, or delete the certificate to get "
                            "a new one (its pin changes)",
                            certificate_path.string(), key_path.string()));
  }
  auto key = read_or_make(key_path, make_key_pem);
  if (!key) return std::unexpected(std::move(key.error()));
  if (auto closed = check_key_mode(key_path); !closed) return std::unexpected(std::move(closed.error()));
  // A key without a certificate (a start that was cut short) gets one, so the pin stays.
  auto certificate = read_or_make(certificate_path, [&] { return make_certificate_pem(*key); });
  if (!certificate) return std::unexpected(std::move(certificate.error()));
  return assemble(std::move(*certificate), std::move(*key), certificate_path.string(), key_path.string());
}

Result<Certificate> make_in_memory() {
  auto key = make_key_pem();
  if (!key) return std::unexpected(std::move(key.error()));
  auto certificate = make_certificate_pem(*key);
  if (!certificate) return std::unexpected(std::move(certificate.error()));
  auto assembled = assemble(std::move(*certificate), std::move(*key), "the new certificate", "the new key");
  if (assembled) assembled->kept = false;
  return assembled;
}

}  // namespace

Result<Certificate> load_certificate(const std::filesystem::path& certificate, const std::filesystem::path& key) {
  auto certificate_pem = read_file(certificate, kLongestFile);
  if (!certificate_pem) return std::unexpected(std::move(certificate_pem.error()));
  if (!*certificate_pem) return fail_errno("opening " + certificate.string(), ENOENT);
  auto key_pem = read_file(key, kLongestFile);
  if (!key_pem) return std::unexpected(std::move(key_pem.error()));
  if (!*key_pem) return fail_errno("opening " + key.string(), ENOENT);
  return assemble(std::move(**certificate_pem), std::move(**key_pem), certificate.string(), key.string());
}

Result<Certificate> keep_certificate(const std::optional<std::filesystem::path>& directory) {
  std::string reason = "no state directory is known (set state_dir)";
  if (directory) {
    auto kept = keep_in(*directory);
    // Only where nothing can be kept: a damaged file is the user's to repair, since a new key would break his clients'
    // pins.
    if (kept || kept.error().kind != ErrorKind::system) return kept;
    reason = std::move(kept.error().message);
  }
  log::warn("the certificate is not kept, its pin changes with every start: {}", reason);
  return make_in_memory();
}

}  // namespace qtrp::identity
