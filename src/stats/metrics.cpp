// Snapshot to OpenMetrics 1.0 text (the exposition format of the OpenMetrics specification), names and units by
// Prometheus' conventions: base units, _total on counters, one HELP and TYPE a family, samples of a family together.
#include <fmt/format.h>

#include <concepts>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "qtrp/stats/snapshot.h"
#include "qtrp/stats/version.h"

namespace qtrp::stats {
namespace {

using Labels = std::initializer_list<std::pair<std::string_view, std::string_view>>;

/// Label values: backslash, quote and line feed are escaped, bytes that are no UTF-8 replaced.
std::string escaped(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const std::size_t length = lead < 0x80                   ? 1
                               : lead >= 0xc2 && lead < 0xe0 ? 2
                               : lead >= 0xe0 && lead < 0xf0 ? 3
                               : lead >= 0xf0 && lead < 0xf5 ? 4
                                                             : 0;
    bool whole = length > 0 && i + length <= text.size();
    for (std::size_t k = 1; whole && k < length; ++k) whole = (static_cast<unsigned char>(text[i + k]) & 0xc0) == 0x80;
    if (!whole) {
      out += "\xef\xbf\xbd";  // U+FFFD
      ++i;
      continue;
    }
    if (lead == '\\')
      out += "\\\\";
    else if (lead == '"')
      out += "\\\"";
    else if (lead == '\n')
      out += "\\n";
    else
      out += text.substr(i, length);
    i += length;
  }
  return out;
}

class Text {
 public:
  /// A family's head; `unit` empty for counts of things.
  void family(std::string_view name, std::string_view type, std::string_view unit, std::string_view help) {
    name_ = name;
    counter_ = type == "counter";
    out_ += fmt::format("# TYPE {} {}\n", name, type);
    if (!unit.empty()) out_ += fmt::format("# UNIT {} {}\n", name, unit);
    out_ += fmt::format("# HELP {} {}\n", name, help);
  }
  template <typename Number>
    requires std::integral<Number> || std::floating_point<Number>
  void sample(Number value, Labels labels = {}, std::string_view suffix = {}) {
    std::string list;
    for (const auto& [key, text] : labels)
      list += fmt::format("{}{}=\"{}\"", list.empty() ? "" : ",", key, escaped(text));
    out_ += fmt::format("{}{}{} {}\n", name_, suffix.empty() && counter_ ? "_total" : suffix,
                        list.empty() ? "" : "{" + list + "}", value);
  }
  std::string take() && { return std::move(out_) + "# EOF\n"; }

 private:
  std::string out_, name_;
  bool counter_ = false;
};

}  // namespace

std::string to_openmetrics(const Snapshot& s) {
  Text text;
  text.family("qtrp_build", "info", "", "The running binary.");
  text.sample(1, {{"version", version()}, {"role", s.role}}, "_info");
  text.family("qtrp_uptime_seconds", "gauge", "seconds", "Time since the daemon started.");
  text.sample(s.uptime.count());
  text.family("qtrp_clients", "gauge", "", "Clients connected to this server.");
  text.sample(s.clients.size());
  text.family("qtrp_connections", "gauge", "", "User connections open now.");
  text.sample(s.totals.active_connections);
  text.family("qtrp_accepted_connections", "counter", "", "User connections since the start.");
  text.sample(s.totals.total_connections);
  text.family("qtrp_transferred_bytes", "counter", "bytes", "Payload bytes; in is from users to local services.");
  text.sample(s.totals.bytes_in, {{"direction", "in"}});
  text.sample(s.totals.bytes_out, {{"direction", "out"}});

  // Several clients may carry one name, and one may lack a fixed port: the client's instance and the port make a
  // series' labels unique.
  text.family("qtrp_client_info", "gauge", "", "One for each connected client, with what it is called.");
  for (const auto& client : s.clients)
    text.sample(1, {{"client", client.name}, {"instance_id", client.instance}, {"token", client.token}});
  text.family("qtrp_client_tunnels", "gauge", "", "Tunnels of the client.");
  for (const auto& client : s.clients)
    text.sample(client.tunnels, {{"client", client.name}, {"instance_id", client.instance}});
  text.family("qtrp_client_connected_seconds", "gauge", "seconds", "Time since the client came.");
  for (const auto& client : s.clients)
    text.sample(client.connected.count(), {{"client", client.name}, {"instance_id", client.instance}});

  const auto each_proxy = [&](auto&& value) {
    for (const auto& proxy : s.proxies) {
      text.sample(value(proxy), {{"proxy", proxy.name},
                                 {"client", proxy.client},
                                 {"bind", proxy.bind},
                                 {"port", fmt::format("{}", proxy.remote_port)}});
    }
  };
  text.family("qtrp_proxy_open", "gauge", "", "1 while the proxy's port is listened on.");
  each_proxy([](const ProxyFigures& proxy) { return proxy.open ? 1 : 0; });
  text.family("qtrp_proxy_connections", "gauge", "", "User connections of the proxy open now.");
  each_proxy([](const ProxyFigures& proxy) { return proxy.totals.active_connections; });
  text.family("qtrp_proxy_accepted_connections", "counter", "",
              "User connections of the proxy since it was registered.");
  each_proxy([](const ProxyFigures& proxy) { return proxy.totals.total_connections; });
  text.family("qtrp_proxy_received_bytes", "counter", "bytes", "Payload bytes from users to the local service.");
  each_proxy([](const ProxyFigures& proxy) { return proxy.totals.bytes_in; });
  text.family("qtrp_proxy_sent_bytes", "counter", "bytes", "Payload bytes from the local service to users.");
  each_proxy([](const ProxyFigures& proxy) { return proxy.totals.bytes_out; });

  const auto each_tunnel = [&](auto&& value) {
    for (const auto& tunnel : s.tunnels)
      text.sample(value(tunnel), {{"client", tunnel.client}, {"address", tunnel.address}});
  };
  text.family("qtrp_tunnel_info", "gauge", "", "One for each tunnel, with how it travels.");
  for (const auto& tunnel : s.tunnels) {
    text.sample(1, {{"client", tunnel.client},
                    {"address", tunnel.address},
                    {"transport", tunnel.transport},
                    {"cipher", tunnel.cipher},
                    {"mux", tunnel.mux},
                    {"congestion", tunnel.congestion}});
  }
  text.family("qtrp_tunnel_connections", "gauge", "", "User connections on the tunnel.");
  each_tunnel([](const TunnelFigures& tunnel) { return tunnel.connections; });
  text.family("qtrp_tunnel_rtt_seconds", "gauge", "seconds", "Smoothed round trip of the tunnel; 0 while unknown.");
  each_tunnel([](const TunnelFigures& tunnel) { return tunnel.rtt_ms / 1e3; });
  text.family("qtrp_tunnel_rate_bits_per_second", "gauge", "", "Rate at which the tunnel may send; 0 while unknown.");
  each_tunnel([](const TunnelFigures& tunnel) { return tunnel.rate_mbps * 1e6; });
  text.family("qtrp_tunnel_target_bits_per_second", "gauge", "", "Brutal's target; 0 without Brutal.");
  each_tunnel([](const TunnelFigures& tunnel) { return tunnel.target_mbps * 1e6; });
  text.family("qtrp_tunnel_ack_ratio", "gauge", "",
              "Share of packets that arrive, as Brutal measures it; 0 while unknown.");
  each_tunnel([](const TunnelFigures& tunnel) { return tunnel.ack_rate; });
  text.family("qtrp_tunnel_wire_received_bytes", "counter", "bytes",
              "Bytes received on the tunnel, with all overhead.");
  each_tunnel([](const TunnelFigures& tunnel) { return tunnel.wire_bytes_in; });
  text.family("qtrp_tunnel_wire_sent_bytes", "counter", "bytes", "Bytes sent on the tunnel, with all overhead.");
  each_tunnel([](const TunnelFigures& tunnel) { return tunnel.wire_bytes_out; });
  text.family("qtrp_tunnel_retransmitted_bytes", "counter", "bytes", "Bytes that the tunnel sent again.");
  each_tunnel([](const TunnelFigures& tunnel) { return tunnel.retransmitted_bytes; });
  text.family("qtrp_tunnel_lost_packets", "counter", "", "Packets of the tunnel that were lost.");
  each_tunnel([](const TunnelFigures& tunnel) { return tunnel.lost_packets; });
  return std::move(text).take();
}

}  // namespace qtrp::stats
