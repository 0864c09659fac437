#include "server/settings.h"

#include "qtrp/base/log.h"

namespace qtrp::server {
namespace {

Result<void> add_tls(Settings& settings, const Settings* before) {
  const config::ServerConfig& config = settings.config;
  auto certificate = config.tls.cert.empty() ? identity::keep_certificate(identity::state_directory(config.state_dir))
                                             : identity::load_certificate(config.tls.cert, config.tls.key);
  if (!certificate) return std::unexpected(certificate.error());
  // One that lives in memory only is made once.
  if (before && ((!certificate->kept && config.tls.cert.empty()) ||
                 (before->certificate.certificate_pem == certificate->certificate_pem &&
                  before->certificate.key_pem == certificate->key_pem))) {
    settings.certificate = before->certificate;
    settings.tls = before->tls;
    return {};
  }
  auto context = crypto::TlsContext::server(*certificate);
  if (!context) return std::unexpected(context.error());
  settings.tls = std::move(*context);
  log::info("certificate pin {}", certificate->pin);
  settings.certificate = std::move(*certificate);
  return {};
}

}  // namespace

Result<std::shared_ptr<const Settings>> make_settings(const config::ServerConfig& config, const Settings* before) {
  auto settings = std::make_shared<Settings>();
  settings->config = config;
  if (config.crypto == config::Crypto::tls) {
    if (auto added = add_tls(*settings, before); !added) return std::unexpected(added.error());
  } else if (config.crypto == config::Crypto::chacha20) {
    auto keys = std::make_shared<std::vector<crypto::NoiseKey>>();
    if (!config.chacha20_psk.empty()) {
      keys->push_back(crypto::derive_noise_key(config.chacha20_psk));
    } else {
      for (const config::Token& token : config.tokens) keys->push_back(crypto::derive_noise_key(token.token));
    }
    settings->noise_keys = std::move(keys);
  }
  return settings;
}

}  // namespace qtrp::server
