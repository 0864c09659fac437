// The client's list of proxies: ranges unfolded into one Proxy a port, names filled in, doubles refused.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "schema.h"
#include "units.h"

namespace qtrp::config {
namespace {

constexpr std::size_t most_proxies = 65536;

/// One member of the list as it was written.
struct Entry {
  std::string name, bind, proxy_protocol;
  std::optional<PortRange> ports;  ///< nothing: remote_port 0, the server chooses
  io::HostPort local;
};

class ProxyList {
 public:
  ProxyList(Reader& reader, std::vector<Proxy>& out) : reader_(reader), out_(out) {}

  void read(const YAML::Node& node) {
    static constexpr std::array<std::string_view, 1> types{"tcp"};
    static constexpr std::array<std::string_view, 2> headers{"v1", "v2"};
    Entry entry;
    std::optional<YAML::Mark> remote, local, name;
    const std::size_t before = reader_.count();
    reader_.map(node, {{"remote_port",
                        [&](const YAML::Node& n) {
                          remote = n.Mark();
                          read_remote(n, entry);
                        }},
                       {"local_addr",
                        [&](const YAML::Node& n) {
                          local = n.Mark();
                          read_address(reader_, n, entry.local, false);
                        }},
                       {"name",
                        [&](const YAML::Node& n) {
                          name = n.Mark();
                          read_name(reader_, n, entry.name);
                        }},
                       {"bind", [&](const YAML::Node& n) { read_bind(n, entry.bind); }},
                       {"type", [&](const YAML::Node& n) { reader_.word(n, types); }},
                       {"proxy_protocol", [&](const YAML::Node& n) {
                          if (auto word = reader_.word(n, headers)) entry.proxy_protocol = *word;
                        }}});
    if (reader_.count() != before) return;
    if (!remote)
      reader_.mistake(node, "found a proxy without 'remote_port', expected the server's port, as in remote_port: 2222");
    if (!local)
      reader_.mistake(node,
                      "found a proxy without 'local_addr', expected the local service, as in local_addr: 127.0.0.1:22");
    if (reader_.count() != before) return;
    const unsigned count = entry.ports ? entry.ports->last - entry.ports->first + 1U : 1U;
    if (const unsigned last = entry.local.port + count - 1; last > 65535) {
      reader_.mistake(
          *local, fmt::format("found {} ports counted up from local port {}, which ends at {}, expected at most 65535",
                              count, entry.local.port, last));
      return;
    }
    if (out_.size() + count > most_proxies) {
      reader_.mistake(node, fmt::format("found more than {} ports in all, expected fewer", most_proxies));
      return;
    }
    unfold(entry, count, *remote, name ? *name : *remote);
  }

 private:
  void read_remote(const YAML::Node& node, Entry& entry) {
    const std::string_view expected =
        "the server's port from 1 to 65535, a range such as 8000-8005 (the lower first), or 0 (the server chooses)";
    const auto text = reader_.text(node, expected);
    if (!text || *text == "0") return;
    entry.ports = parse_port_range(*text);
    if (!entry.ports) reader_.found(node, expected);
  }

  void read_bind(const YAML::Node& node, std::string& out) {
    reader_.value(node, "an IPv4 or IPv6 address of the server, without a port", out,
                  [](std::string_view text) -> std::optional<std::string> {
                    if (text.starts_with('[') && text.ends_with(']')) text = text.substr(1, text.size() - 2);
                    return is_ip_literal(text) ? std::optional(std::string(text)) : std::nullopt;
                  });
  }

  void unfold(const Entry& entry, unsigned count, const YAML::Mark& remote, const YAML::Mark& named) {
    for (unsigned i = 0; i < count; ++i) {
      Proxy proxy;
      proxy.bind = entry.bind;
      proxy.proxy_protocol = entry.proxy_protocol;
      proxy.local = {entry.local.host, static_cast<std::uint16_t>(entry.local.port + i)};
      if (entry.ports) {
        proxy.remote_port = static_cast<std::uint16_t>(entry.ports->first + i);
        const auto [earlier, fresh] = places_.emplace(std::pair(proxy.bind, proxy.remote_port), remote.line);
        if (!fresh) {
          reader_.mistake(remote,
                          fmt::format("found remote port {} a second time{}, expected it once (it is in line {})",
                                      proxy.remote_port, proxy.bind.empty() ? "" : fmt::format(" on {}", proxy.bind),
                                      earlier->second + 1));
          return;
        }
      }
      proxy.name = name(entry, proxy, count);
      if (!names_.insert(proxy.name).second) {
        reader_.mistake(named,
                        fmt::format("found the proxy name '{}' a second time, expected names that differ", proxy.name));
        return;
      }
      out_.push_back(std::move(proxy));
    }
  }

  std::string name(const Entry& entry, const Proxy& proxy, unsigned count) {
    if (!entry.name.empty()) return count > 1 ? fmt::format("{}-{}", entry.name, proxy.remote_port) : entry.name;
    if (!entry.ports) return fmt::format("auto-{}", ++chosen_);
    std::string port = fmt::format("{}", proxy.remote_port);
    return names_.contains(port) ? io::HostPort{proxy.bind, proxy.remote_port}.to_string() : port;
  }

  Reader& reader_;
  std::vector<Proxy>& out_;
  std::map<std::pair<std::string, std::uint16_t>, int> places_;  ///< bind address and port, and the line that has them
  std::set<std::string> names_;
  unsigned chosen_ = 0;
};

}  // namespace

void read_proxies(Reader& reader, const YAML::Node& node, std::vector<Proxy>& out) {
  const std::string_view expected = "a list of proxies such as {remote_port: 2222, local_addr: 127.0.0.1:22}";
  const std::size_t before = reader.count();
  out.clear();
  ProxyList proxies(reader, out);
  reader.list(node, expected, [&](const YAML::Node& item) { proxies.read(item); });
  if (reader.count() == before && out.empty())
    reader.mistake(node, fmt::format("found an empty list of proxies, expected {}", expected));
}

}  // namespace qtrp::config
