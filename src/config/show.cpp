// The effective configuration as YAML that loads again. Secrets are replaced by "***".
#include <fmt/format.h>

#include <string>

#include "qtrp/config/join.h"

namespace qtrp::config {
namespace {

constexpr std::string_view hidden = "\"***\"";

std::string duration(std::chrono::milliseconds value) {
  return value.count() % 1000 == 0 ? fmt::format("{}s", value.count() / 1000) : fmt::format("{}ms", value.count());
}

std::string list(const std::vector<std::string>& values) {
  std::string out;
  for (const std::string& value : values) out += (out.empty() ? "" : ", ") + yaml_scalar(value);
  return "[" + out + "]";
}

std::string ports(const PortSet& set) {
  if (set.empty()) return "[1-65535]";
  std::string out;
  for (const PortRange& range : set) {
    if (!out.empty()) out += ", ";
    out += range.first == range.last ? fmt::format("{}", range.first) : fmt::format("{}-{}", range.first, range.last);
  }
  return "[" + out + "]";
}

enum class Side { server, client };

std::string common(const Common& c, Side side) {
  const bool quic = c.transport == Transport::quic;
  std::string out = fmt::format("transport: {}\ncrypto: {}\n", to_string(c.transport), to_string(c.crypto));
  if (!quic) out += fmt::format("mux: {}\n", to_string(c.mux));
  out += fmt::format("brutal:\n  enabled: {}\n  target_mbps: {}\n  mode: {}\n", c.brutal.enabled, c.brutal.target_mbps,
                     c.brutal.mode);
  std::string tls;
  const auto add = [&](std::string_view key, const std::string& value) {
    if (!value.empty()) tls += fmt::format("  {}: {}\n", key, yaml_scalar(value));
  };
  add("cert", c.tls.cert);
  add("key", c.tls.key);
  add("ca", c.tls.ca);
  add("server_name", c.tls.server_name);
  if (!c.tls.pins.empty()) tls += fmt::format("  pin: {}\n", list(c.tls.pins));
  if (!tls.empty()) out += "tls:\n" + tls;
  if (!c.chacha20_psk.empty()) out += fmt::format("chacha20:\n  psk: {}\n", hidden);
  if (quic) {
    out += fmt::format("quic:\n  congestion: {}\n", c.quic.congestion);
    if (side == Side::server) out += fmt::format("  masquerade: {}\n", yaml_scalar(c.quic.masquerade));
  } else {
    out += "tcp:\n";
    if (!c.tcp.congestion.empty()) out += fmt::format("  congestion: {}\n", c.tcp.congestion);
    out += fmt::format("  buffer: {}\n", c.tcp.buffer);
  }
  if (!c.stats.enabled) {
    out += "stats: false\n";
  } else {
    out += fmt::format("stats:\n  listen: {}\n", yaml_scalar(c.stats.listen.to_string()));
    if (!c.stats.token.empty()) out += fmt::format("  token: {}\n", hidden);
    if (!c.stats.cert.empty())
      out += fmt::format("  tls:\n    cert: {}\n    key: {}\n", yaml_scalar(c.stats.cert), yaml_scalar(c.stats.key));
    if (!c.stats.allow.empty()) out += fmt::format("  allow: {}\n", list(c.stats.allow));
  }
  out += fmt::format("log:\n  level: {}\n", c.log.level);
  if (!c.log.access.empty()) out += fmt::format("  access: {}\n", yaml_scalar(c.log.access));
  out +=
      fmt::format("workers: {}\nkeepalive:\n  interval: {}\nshutdown:\n  grace: {}\nconnect_timeout: {}\n", c.workers,
                  duration(c.keepalive_interval), duration(c.shutdown_grace), duration(c.connect_timeout));
  if (!c.state_dir.empty()) out += fmt::format("state_dir: {}\n", yaml_scalar(c.state_dir));
  return out;
}

}  // namespace

std::string show(const ServerConfig& config) {
  std::string out = fmt::format("bind: {}\n", yaml_scalar(config.bind.to_string())) + common(config, Side::server);
  out += "auth:\n  tokens:\n";
  for (const Token& token : config.tokens) {
    out += fmt::format("    - token: {}\n      name: {}\n      ports: {}\n", hidden, yaml_scalar(token.name),
                       ports(token.ports));
    if (token.max_proxies) out += fmt::format("      max_proxies: {}\n", *token.max_proxies);
    if (token.max_connections) out += fmt::format("      max_connections: {}\n", *token.max_connections);
    if (token.target_mbps) out += fmt::format("      target_mbps: {}\n", *token.target_mbps);
  }
  return out + fmt::format("ports: {}\n", ports(config.ports));
}

std::string show(const ClientConfig& config) {
  std::string out = fmt::format("server: {}\ntoken: {}\n", yaml_scalar(config.server.to_string()), hidden) +
                    common(config, Side::client);
  out += fmt::format("name: {}\ntunnels: {}\npool: {}\nproxies:\n", yaml_scalar(config.name), config.tunnel_count(),
                     config.pool);
  for (const Proxy& proxy : config.proxies) {
    out += fmt::format("  - name: {}\n    remote_port: {}\n    local_addr: {}\n", yaml_scalar(proxy.name),
                       proxy.remote_port, yaml_scalar(proxy.local.to_string()));
    if (!proxy.bind.empty()) out += fmt::format("    bind: {}\n", yaml_scalar(proxy.bind));
    if (!proxy.proxy_protocol.empty()) out += fmt::format("    proxy_protocol: {}\n", proxy.proxy_protocol);
  }
  return out;
}

}  // namespace qtrp::config
