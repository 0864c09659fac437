// QUIC's TLS 1.3 by GnuTLS: credentials, what a client checks of a server, ALPN h3, and the exporter. The packets are
// ngtcp2's business.
#pragma once

#include <gnutls/gnutls.h>

#include <array>
#include <memory>
#include <string>

#include "qtrp/base/bytes.h"
#include "qtrp/base/error.h"
#include "qtrp/identity/identity.h"

namespace qtrp::quic {

/// Credentials, shared by the connections of one end. Fixed in memory: GnuTLS sessions keep a pointer to it.
class TlsContext {
 public:
  /// Fails with kind config when the PEM texts are unusable or don't belong together.
  static Result<std::unique_ptr<TlsContext>> server(const identity::Certificate& identity);
  /// Fails with kind config when the CA file can't be read.
  static Result<std::unique_ptr<TlsContext>> client(identity::ServerChecks checks);
  ~TlsContext();
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;

 private:
  friend class TlsSession;
  explicit TlsContext(bool is_server) : is_server_(is_server) {}
  bool is_server_;
  identity::ServerChecks checks_;
  gnutls_certificate_credentials_t credentials_ = nullptr;
  gnutls_priority_t priority_ = nullptr;
};

/// One connection's TLS state. `conn_ref` (a ngtcp2_crypto_conn_ref) is what ngtcp2's helper finds its connection by.
class TlsSession {
 public:
  static Result<std::unique_ptr<TlsSession>> make(const TlsContext& context, void* conn_ref);
  ~TlsSession();
  TlsSession(const TlsSession&) = delete;
  TlsSession& operator=(const TlsSession&) = delete;

  gnutls_session_t handle() const { return session_; }
  /// RFC 9266: label "EXPORTER-Channel-Binding", no context, 32 bytes. After the handshake.
  Result<std::array<std::byte, 32>> channel_binding() const;
  /// "TLS 1.3 AES-128-GCM X25519", after the handshake.
  std::string describe() const;
  /// Why verify refused the server, empty if it didn't.
  const std::string& refusal() const { return refusal_; }

 private:
  explicit TlsSession(const TlsContext& context) : context_(context) {}
  static int verify(gnutls_session_t session);
  bool verify_server();
  const TlsContext& context_;
  gnutls_session_t session_ = nullptr;
  std::string refusal_;
};

}  // namespace qtrp::quic
