// What a reload replaces as a whole: the configuration in effect and what was made of it for new tunnels. Immutable
// once published; each loop holds the one that it was told of last.
#pragma once

#include <memory>
#include <vector>

#include "qtrp/config/config.h"
#include "qtrp/crypto/noise.h"
#include "qtrp/crypto/tls.h"
#include "qtrp/identity/identity.h"

namespace qtrp::server {

struct Settings {
  config::ServerConfig config;
  identity::Certificate certificate;                                ///< crypto tls
  std::shared_ptr<crypto::TlsContext> tls;                          ///< likewise
  std::shared_ptr<const std::vector<crypto::NoiseKey>> noise_keys;  ///< crypto chacha20
};

/// Reads the certificate and derives the keys. `before` (or null) lends its TLS context while the certificate is the
/// same.
Result<std::shared_ptr<const Settings>> make_settings(const config::ServerConfig& config, const Settings* before);

}  // namespace qtrp::server
