// What a reload replaces as a whole: the configuration in effect, what was made of it for new tunnels, and the proxies
// with their ids. Immutable once published; each link holds the one that it was told of last.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "qtrp/config/config.h"
#include "qtrp/crypto/noise.h"
#include "qtrp/crypto/tls.h"
#include "qtrp/identity/identity.h"

namespace qtrp::client {

/// The proxies by their ids, which are the same in all tunnels and never used twice in a run.
using ProxyTable = std::map<std::uint32_t, std::shared_ptr<const config::Proxy>>;

/// The table after a reload. A proxy that the server would see as the same one (name, type, bind address and port)
/// keeps its id, and its entry if nothing else changed either; all others get ids from `next` on.
ProxyTable renew(const ProxyTable& before, const std::vector<config::Proxy>& wanted, std::uint32_t& next);

struct Settings {
  config::ClientConfig config;
  ProxyTable proxies;
  std::uint32_t next_proxy = 1;
  std::shared_ptr<crypto::TlsContext> tls;    ///< crypto tls
  identity::ServerChecks checks;              ///< likewise; transport quic: what its own TLS checks
  std::optional<crypto::NoiseKey> noise_key;  ///< crypto chacha20
};

/// Reads the CA and derives the key. `before`, or null, is what ran until now.
Result<std::shared_ptr<const Settings>> make_settings(const config::ClientConfig& config, const Settings* before);

}  // namespace qtrp::client
