// GnuTLS sessions for QUIC: TLS 1.3 only, ALPN "h3", no tickets (there is no 0-RTT: the proof needs the exporter of the
// full handshake).
#include "tls.h"

#include <fmt/format.h>
#include <gnutls/abstract.h>
#include <gnutls/crypto.h>
#include <gnutls/x509.h>
#include <ngtcp2/ngtcp2_crypto.h>
#include <ngtcp2/ngtcp2_crypto_gnutls.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

namespace qtrp::quic {
namespace {

constexpr const char* kPriority =
    "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-128-GCM:+AES-256-GCM:+CHACHA20-POLY1305:-GROUP-ALL:+GROUP-X25519:+"
    "GROUP-SECP256R1:"
    "+GROUP-SECP384R1:%DISABLE_TLS13_COMPAT_MODE";

std::unexpected<Error> gnutls_failed(ErrorKind kind, std::string_view what, int code) {
  return fail(kind, fmt::format("{}: {}", what, gnutls_strerror(code)));
}

gnutls_datum_t datum(std::string_view text) {
  return {reinterpret_cast<unsigned char*>(const_cast<char*>(text.data())), static_cast<unsigned>(text.size())};
}

}  // namespace

TlsContext::~TlsContext() {
  if (credentials_) gnutls_certificate_free_credentials(credentials_);
  if (priority_) gnutls_priority_deinit(priority_);
}

Result<std::unique_ptr<TlsContext>> TlsContext::server(const identity::Certificate& identity) {
  std::unique_ptr<TlsContext> context(new TlsContext(true));
  if (int rv = gnutls_priority_init(&context->priority_, kPriority, nullptr); rv != 0)
    return gnutls_failed(ErrorKind::crypto, "TLS set-up", rv);
  if (int rv = gnutls_certificate_allocate_credentials(&context->credentials_); rv != 0)
    return gnutls_failed(ErrorKind::crypto, "TLS set-up", rv);
  gnutls_datum_t certificate = datum(identity.certificate_pem), key = datum(identity.key_pem);
  if (int rv = gnutls_certificate_set_x509_key_mem(context->credentials_, &certificate, &key, GNUTLS_X509_FMT_PEM);
      rv < 0)
    return gnutls_failed(ErrorKind::config, "the certificate and its key cannot be used", rv);
  return context;
}

Result<std::unique_ptr<TlsContext>> TlsContext::client(identity::ServerChecks checks) {
  std::unique_ptr<TlsContext> context(new TlsContext(false));
  if (int rv = gnutls_priority_init(&context->priority_, kPriority, nullptr); rv != 0)
    return gnutls_failed(ErrorKind::crypto, "TLS set-up", rv);
  if (int rv = gnutls_certificate_allocate_credentials(&context->credentials_); rv != 0)
    return gnutls_failed(ErrorKind::crypto, "TLS set-up", rv);
  if (!checks.ca_file.empty()) {
    int count =
        gnutls_certificate_set_x509_trust_file(context->credentials_, checks.ca_file.c_str(), GNUTLS_X509_FMT_PEM);
    if (count < 0) return gnutls_failed(ErrorKind::config, fmt::format("tls.ca: {}", checks.ca_file), count);
    if (count == 0) return fail(ErrorKind::config, fmt::format("tls.ca: {} holds no certificate", checks.ca_file));
  }
  context->checks_ = std::move(checks);
  return context;
}

Result<std::unique_ptr<TlsSession>> TlsSession::make(const TlsContext& context, void* conn_ref) {
  std::unique_ptr<TlsSession> tls(new TlsSession(context));
  unsigned flags = context.is_server_ ? unsigned{GNUTLS_SERVER} | GNUTLS_NO_AUTO_SEND_TICKET : unsigned{GNUTLS_CLIENT};
  if (int rv = gnutls_init(&tls->session_, flags | GNUTLS_NO_TICKETS); rv != 0)
    return gnutls_failed(ErrorKind::crypto, "TLS session", rv);
  gnutls_session_t session = tls->session_;
  if (int rv = gnutls_priority_set(session, context.priority_); rv != 0)
    return gnutls_failed(ErrorKind::crypto, "TLS session", rv);
  int configured = context.is_server_ ? ngtcp2_crypto_gnutls_configure_server_session(session)
                                      : ngtcp2_crypto_gnutls_configure_client_session(session);
  if (configured != 0) return fail(ErrorKind::crypto, "TLS session: ngtcp2's helper refused it");
  if (int rv = gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, context.credentials_); rv != 0)
    return gnutls_failed(ErrorKind::crypto, "TLS session", rv);
  gnutls_session_set_ptr(session, conn_ref);
  gnutls_db_set_ptr(session, tls.get());  // no session cache is used: the slot leads back from the verify callback
  gnutls_datum_t alpn = datum("h3");
  if (int rv = gnutls_alpn_set_protocols(session, &alpn, 1, GNUTLS_ALPN_MANDATORY); rv != 0)
    return gnutls_failed(ErrorKind::crypto, "TLS session", rv);
  if (!context.is_server_) {
    const std::string& name = context.checks_.server_name;
    if (!name.empty() && name.find(':') == std::string::npos &&
        !std::all_of(name.begin(), name.end(), [](unsigned char c) { return std::isdigit(c) || c == '.'; })) {
      gnutls_server_name_set(session, GNUTLS_NAME_DNS, name.data(), name.size());
    }
    gnutls_session_set_verify_function(session, &TlsSession::verify);
  }
  return tls;
}

TlsSession::~TlsSession() {
  if (session_) gnutls_deinit(session_);
}

int TlsSession::verify(gnutls_session_t session) {
  return static_cast<TlsSession*>(gnutls_db_get_ptr(session))->verify_server() ? 0 : GNUTLS_E_CERTIFICATE_ERROR;
}

bool TlsSession::verify_server() {
  const identity::ServerChecks& checks = context_.checks_;
  if (!checks.ca_file.empty()) {
    unsigned status = 0;
    int rv = gnutls_certificate_verify_peers3(
        session_, checks.server_name.empty() ? nullptr : checks.server_name.c_str(), &status);
    if (rv != 0) {
      refusal_ = gnutls_strerror(rv);
      return false;
    }
    if (status != 0) {
      gnutls_datum_t text{};
      gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0);
      refusal_.assign(reinterpret_cast<char*>(text.data), text.size);
      gnutls_free(text.data);
      while (!refusal_.empty() && (refusal_.back() == ' ' || refusal_.back() == '.')) refusal_.pop_back();
      return false;
    }
  }
  if (checks.pins.empty()) return true;

  unsigned count = 0;
  const gnutls_datum_t* chain = gnutls_certificate_get_peers(session_, &count);
  gnutls_pubkey_t key = nullptr;
  gnutls_x509_crt_t leaf = nullptr;
  gnutls_datum_t der{};
  std::array<std::byte, 32> digest{};
  bool read = chain && count > 0 && gnutls_x509_crt_init(&leaf) == 0 &&
              gnutls_x509_crt_import(leaf, chain, GNUTLS_X509_FMT_DER) == 0 && gnutls_pubkey_init(&key) == 0 &&
              gnutls_pubkey_import_x509(key, leaf, 0) == 0 &&
              gnutls_pubkey_export2(key, GNUTLS_X509_FMT_DER, &der) == 0 &&
              gnutls_hash_fast(GNUTLS_DIG_SHA256, der.data, der.size, digest.data()) == 0;
  if (der.data) gnutls_free(der.data);
  if (key) gnutls_pubkey_deinit(key);
  if (leaf) gnutls_x509_crt_deinit(leaf);
  if (!read) {
    refusal_ = "its certificate cannot be read";
    return false;
  }
  if (std::find(checks.pins.begin(), checks.pins.end(), digest) != checks.pins.end()) return true;
  refusal_ = fmt::format("the server's key is not the pinned one: it has {}, tls.pin is {}{}",
                         identity::format_pin(digest), identity::format_pin(checks.pins.front()), identity::pin_advice);
  return false;
}

Result<std::array<std::byte, 32>> TlsSession::channel_binding() const {
  static constexpr std::string_view kLabel = "EXPORTER-Channel-Binding";
  std::array<std::byte, 32> out{};
  if (int rv = gnutls_prf_rfc5705(session_, kLabel.size(), kLabel.data(), 0, "", out.size(),
                                  reinterpret_cast<char*>(out.data()));
      rv != 0)
    return gnutls_failed(ErrorKind::crypto, "TLS exporter", rv);
  return out;
}

std::string TlsSession::describe() const {
  return fmt::format("TLS 1.3 {} {}", gnutls_cipher_get_name(gnutls_cipher_get(session_)),
                     gnutls_group_get_name(gnutls_group_get(session_)));
}

}  // namespace qtrp::quic
