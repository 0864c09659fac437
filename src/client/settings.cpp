#include "client/settings.h"

#include <algorithm>
#include <tuple>

namespace qtrp::client {
namespace {

auto to_server(const config::Proxy& proxy) {
  return std::tie(proxy.name, proxy.type, proxy.bind, proxy.remote_port);
}
auto to_us(const config::Proxy& proxy) {
  return std::tie(proxy.local.host, proxy.local.port, proxy.proxy_protocol);
}

}  // namespace

ProxyTable renew(const ProxyTable& before, const std::vector<config::Proxy>& wanted, std::uint32_t& next) {
  std::map<std::string, std::uint32_t, std::less<>> known;  // names differ within a configuration
  for (const auto& [id, proxy] : before) known.emplace(proxy->name, id);
  ProxyTable table;
  for (const config::Proxy& proxy : wanted) {
    const auto at = known.find(proxy.name);
    const auto same = at == known.end() ? before.end() : before.find(at->second);
    if (same == before.end() || to_server(*same->second) != to_server(proxy)) {
      table.emplace(next++, std::make_shared<const config::Proxy>(proxy));
    } else if (to_us(*same->second) != to_us(proxy)) {
      table.emplace(same->first, std::make_shared<const config::Proxy>(proxy));
    } else {
      table.insert(*same);
    }
  }
  return table;
}

Result<std::shared_ptr<const Settings>> make_settings(const config::ClientConfig& config, const Settings* before) {
  auto settings = std::make_shared<Settings>();
  settings->config = config;
  if (config.crypto == config::Crypto::tls) {
    settings->checks = {
        config.tls.ca, {}, config.tls.server_name.empty() ? config.server.host : config.tls.server_name};
    for (const std::string& text : config.tls.pins) {
      auto pin = identity::parse_pin(text);
      if (!pin) return std::unexpected(pin.error());
      settings->checks.pins.push_back(*pin);
    }
    auto context = crypto::TlsContext::client(settings->checks);
    if (!context) return std::unexpected(context.error());
    settings->tls = std::move(*context);
  } else if (config.crypto == config::Crypto::chacha20) {
    settings->noise_key = crypto::derive_noise_key(config.chacha20_psk.empty() ? config.token : config.chacha20_psk);
  }
  if (before) settings->next_proxy = before->next_proxy;
  settings->proxies = renew(before ? before->proxies : ProxyTable(), config.proxies, settings->next_proxy);
  return settings;
}

}  // namespace qtrp::client
