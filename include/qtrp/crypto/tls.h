// TLS 1.3 record layer: OpenSSL's handshake through a BIO on our own buffers, then records by OpenSSL's AEADs without
// its copies. One TlsContext a daemon (thread-safe to use, not to change), one RecordLayer a tunnel, which may outlive
// it.
#pragma once

#include <memory>

#include "qtrp/crypto/record_layer.h"
#include "qtrp/identity/identity.h"

namespace qtrp::crypto {

class TlsContext {
 public:
  static Result<std::shared_ptr<TlsContext>> server(const identity::Certificate& certificate);
  static Result<std::shared_ptr<TlsContext>> client(const identity::ServerChecks& checks);
  virtual ~TlsContext() = default;
  virtual Result<std::unique_ptr<RecordLayer>> make() = 0;  ///< any thread
};

}  // namespace qtrp::crypto
