// What all tunnels of a daemon share: OpenSSL's SSL_CTX with our choices, the server's certificate, the client's
// checks.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sodium.h>
#ifdef __aarch64__
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "crypto/tls_layer.h"
#include "qtrp/crypto/tls.h"

namespace qtrp::crypto {
namespace {

struct FreeContext {
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};
struct FreeX509 {
  void operator()(X509* certificate) const { X509_free(certificate); }
};
struct FreeKey {
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
struct FreeBio {
  void operator()(BIO* bio) const { BIO_free(bio); }
};
using ContextPtr = std::unique_ptr<SSL_CTX, FreeContext>;
using BioPtr = std::unique_ptr<BIO, FreeBio>;

std::string openssl_reason() {
  const unsigned long code = ERR_peek_last_error();
  ERR_clear_error();
  const char* text = code == 0 ? nullptr : ERR_reason_error_string(code);
  return text == nullptr ? "no reason given" : text;
}

bool has_hardware_aes() {
#if defined(__x86_64__) || defined(__i386__)
  return __builtin_cpu_supports("aes") > 0 && __builtin_cpu_supports("pclmul") > 0;
#elif defined(__aarch64__)
  const unsigned long features = getauxval(AT_HWCAP);
  return (features & HWCAP_AES) != 0 && (features & HWCAP_PMULL) != 0;
#else
  return false;
#endif
}

bool is_address(const std::string& name) {
  in6_addr address;
  return inet_pton(AF_INET, name.c_str(), &address) == 1 || inet_pton(AF_INET6, name.c_str(), &address) == 1;
}

/// What both sides have in common.
Result<ContextPtr> make_context(const SSL_METHOD* method) {
  ERR_clear_error();
  ContextPtr context(SSL_CTX_new(method));
  // AES-128 before AES-256: at 128-bit security of X25519 and P-256 the larger key only costs.
  const char* const suites = has_hardware_aes()
                                 ? "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384"
                                 : "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384";
  if (!context || SSL_CTX_set_min_proto_version(context.get(), TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_max_proto_version(context.get(), TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_ciphersuites(context.get(), suites) != 1 || SSL_CTX_set1_groups_list(context.get(), "X25519") != 1) {
    return fail(ErrorKind::crypto, "OpenSSL cannot be set up for TLS 1.3: " + openssl_reason());
  }
  // The server decides, but a client that puts ChaCha20 first (no AES hardware) gets it.
  SSL_CTX_set_options(context.get(),
                      SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
  SSL_CTX_set_keylog_callback(context.get(), take_traffic_secret);
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
  return context;
}

class ServerContext final : public TlsContext {
 public:
  explicit ServerContext(ContextPtr context) : context_(std::move(context)) {}

  Result<std::unique_ptr<RecordLayer>> make() override {
    SslPtr ssl(SSL_new(context_.get()));
    if (!ssl) return fail(ErrorKind::crypto, "OpenSSL cannot make a connection: " + openssl_reason());
    return std::make_unique<TlsLayer>(std::move(ssl), true);
  }

 private:
  ContextPtr context_;
};

class ClientContext final : public TlsContext {
 public:
  ClientContext(ContextPtr context, const identity::ServerChecks& checks)
      : context_(std::move(context)), checks_(std::make_shared<const identity::ServerChecks>(checks)) {
    SSL_CTX_set_verify(context_.get(), SSL_VERIFY_PEER, nullptr);
    SSL_CTX_set_cert_verify_callback(context_.get(), verify, nullptr);
  }

  Result<std::unique_ptr<RecordLayer>> make() override {
    SslPtr ssl(SSL_new(context_.get()));
    if (!ssl || !set_name(ssl.get())) {
      return fail(ErrorKind::crypto, "OpenSSL cannot make a connection: " + openssl_reason());
    }
    return std::make_unique<TlsLayer>(std::move(ssl), false, checks_);
  }

 private:
  bool set_name(SSL* ssl) const {
    const std::string& name = checks_->server_name;
    if (name.empty()) return true;
    X509_VERIFY_PARAM* const parameters = SSL_get0_param(ssl);
    // RFC 6066, section 3: no literal addresses in SNI.
    if (is_address(name)) return X509_VERIFY_PARAM_set1_ip_asc(parameters, name.c_str()) == 1;
    X509_VERIFY_PARAM_set_hostflags(parameters, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set_tlsext_host_name(ssl, name.c_str()) == 1 &&
           X509_VERIFY_PARAM_set1_host(parameters, name.c_str(), name.size()) == 1;
  }

  /// OpenSSL asks this instead of its own verification. The signature over the handshake is OpenSSL's to check, always.
  static int verify(X509_STORE_CTX* store, void*) {
    auto* const ssl = static_cast<SSL*>(X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
    auto& notes = *static_cast<TlsNotes*>(SSL_get_app_data(ssl));
    const identity::ServerChecks& checks = *notes.checks;
    std::string& refusal = notes.refusal;
    if (!checks.ca_file.empty() && X509_verify_cert(store) != 1) {
      refusal = fmt::format("the server's certificate is not accepted: {} (tls.ca {}, name {})",
                            X509_verify_cert_error_string(X509_STORE_CTX_get_error(store)), checks.ca_file,
                            checks.server_name);
      return 0;
    }
    if (!checks.pins.empty() && !has_pin(X509_STORE_CTX_get0_cert(store), checks, refusal)) {
      X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REJECTED);  // becomes the alert bad_certificate
      return 0;
    }
    X509_STORE_CTX_set_error(store, X509_V_OK);
    return 1;
  }

  static bool has_pin(const X509* certificate, const identity::ServerChecks& checks, std::string& refusal) {
    std::array<std::byte, 32> digest;
    unsigned char* der = nullptr;
    const int size = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(certificate), &der);
    const bool hashed =
        size > 0 && EVP_Digest(der, static_cast<std::size_t>(size), reinterpret_cast<unsigned char*>(digest.data()),
                               nullptr, EVP_sha256(), nullptr) == 1;
    OPENSSL_free(der);
    if (!hashed) {
      refusal = "the server's public key cannot be hashed";
      return false;
    }
    for (const auto& pin : checks.pins) {
      if (sodium_memcmp(pin.data(), digest.data(), digest.size()) == 0) return true;
    }
    refusal = fmt::format("the server's key is not the pinned one: it has {}, tls.pin is {}",
                          identity::format_pin(digest), identity::format_pin(checks.pins.front()));
    if (checks.pins.size() > 1) refusal += fmt::format(" (or {} others)", checks.pins.size() - 1);
    refusal += identity::pin_advice;
    return false;
  }

  ContextPtr context_;
  std::shared_ptr<const identity::ServerChecks> checks_;
};

int no_password(char*, int, int, void*) {
  return -1;
}

/// The leaf, then the rest of the chain, from PEM in memory.
bool use_chain(SSL_CTX* context, std::string_view pem) {
  const BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  const std::unique_ptr<X509, FreeX509> leaf(PEM_read_bio_X509(bio.get(), nullptr, no_password, nullptr));
  if (!leaf || SSL_CTX_use_certificate(context, leaf.get()) != 1) return false;
  while (X509* const next = PEM_read_bio_X509(bio.get(), nullptr, no_password, nullptr)) {
    if (SSL_CTX_add0_chain_cert(context, next) != 1) {
      X509_free(next);
      return false;
    }
  }
  // The end of the file is the only good reason to stop.
  const bool ended = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  if (ended) ERR_clear_error();
  return ended;
}

bool use_key(SSL_CTX* context, std::string_view pem) {
  const BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  const std::unique_ptr<EVP_PKEY, FreeKey> key(PEM_read_bio_PrivateKey(bio.get(), nullptr, no_password, nullptr));
  return key && SSL_CTX_use_PrivateKey(context, key.get()) == 1 && SSL_CTX_check_private_key(context) == 1;
}

}  // namespace

Result<std::shared_ptr<TlsContext>> TlsContext::server(const identity::Certificate& certificate) {
  auto context = make_context(TLS_server_method());
  if (!context) return std::unexpected(std::move(context.error()));
  if (!use_chain(context->get(), certificate.certificate_pem) || !use_key(context->get(), certificate.key_pem)) {
    return fail(ErrorKind::config, "the TLS certificate or its key cannot be used: " + openssl_reason());
  }
  SSL_CTX_set_num_tickets(context->get(), 0);  // Tunnels are long: nothing to resume, nothing to keep.
  return std::make_shared<ServerContext>(std::move(*context));
}

Result<std::shared_ptr<TlsContext>> TlsContext::client(const identity::ServerChecks& checks) {
  auto context = make_context(TLS_client_method());
  if (!context) return std::unexpected(std::move(context.error()));
  if (!checks.ca_file.empty()) {
    if (checks.server_name.empty())
      return fail(ErrorKind::config, "tls.ca needs tls.server_name: the name to look for in the certificate");
    if (SSL_CTX_load_verify_file(context->get(), checks.ca_file.c_str()) != 1) {
      return fail(ErrorKind::config,
                  fmt::format("tls.ca: {} cannot be read as PEM certificates: {}", checks.ca_file, openssl_reason()));
    }
  }
  return std::make_shared<ClientContext>(std::move(*context), checks);
}

}  // namespace qtrp::crypto
