// The configuration as typed values. Loading checks everything before anything is opened; every mistake is an Error of
// kind config whose text is "file:line:column: what was found, what was expected", one line a mistake.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "qtrp/base/error.h"
#include "qtrp/io/endpoint.h"

namespace qtrp::config {

enum class Transport { net, epoll, quic };
enum class Crypto { tls, chacha20, none };
enum class Mux { smux, yamux };
std::string_view to_string(Transport value);
std::string_view to_string(Crypto value);
std::string_view to_string(Mux value);
/// Whether this binary was built with the engine behind `value`. A file that asks for another is refused.
bool available(Transport value);

struct PortRange {
  std::uint16_t first = 0, last = 0;  ///< inclusive
};
using PortSet = std::vector<PortRange>;  ///< empty: every port
bool allows(const PortSet& ports, std::uint16_t port);

struct Brutal {
  bool enabled = false;
  double target_mbps = 0;     ///< rate at which this side sends, Mbit/s of 10^6 bits
  std::string mode = "auto";  ///< auto, bpf, module, pacer
};
struct Tls {
  std::string cert, key;          ///< server: own files instead of the kept certificate
  std::string ca, server_name;    ///< client
  std::vector<std::string> pins;  ///< client: tls.pin, one or a list
};
struct Quic {
  std::string congestion = "bbr";  ///< bbr, cubic, reno
  std::string masquerade = "404";  ///< 404, stats, or a directory
};
struct Tcp {
  std::string congestion;    ///< empty: bbr where the kernel has it, else the kernel's own
  std::uint64_t buffer = 0;  ///< tunnel socket buffers in bytes; 0: follow the link
};
struct Stats {
  bool enabled = true;
  io::HostPort listen{"127.0.0.1", 7500};
  std::string token;               ///< bearer token, wanted from anything but loopback
  std::string cert, key;           ///< stats.tls: PEM files; both or neither
  std::vector<std::string> allow;  ///< networks (CIDR) that may read /stats over QUIC's HTTP/3
};
struct Log {
  std::string level = "info";  ///< trace, debug, info, warn, error
  std::string access;          ///< file of the access log, "-" for standard output; empty: none
};
/// What both daemons know.
struct Common {
  Transport transport = Transport::net;
  Crypto crypto = Crypto::tls;
  Mux mux = Mux::smux;
  Brutal brutal;
  Tls tls;
  std::string chacha20_psk;  ///< chacha20.psk; empty: derived from the token
  Quic quic;
  Tcp tcp;
  Stats stats;
  Log log;
  unsigned workers = 0;  ///< 0: the number of cores, at most 4
  std::chrono::milliseconds keepalive_interval{30'000};
  std::chrono::milliseconds shutdown_grace{5'000};
  std::chrono::milliseconds connect_timeout{10'000};  ///< tunnels and local services
  std::string state_dir;
  std::vector<std::string> warnings;  ///< for the log, once, at start
};

struct Token {
  std::string token;
  std::string name;  ///< shown in logs instead of the token; default "token-<n>"
  PortSet ports;
  std::optional<std::uint32_t> max_proxies, max_connections;
  std::optional<double> target_mbps;
};
struct ServerConfig : Common {
  io::HostPort bind{"::", 6000};
  std::vector<Token> tokens;
  PortSet ports;  ///< ports that proxies may use at all; default: 1-65535
};

/// One port of the server for one local service; ranges are unfolded already.
struct Proxy {
  std::string name;  ///< default: "<remote_port>", or "auto-<n>" for port 0
  std::string type = "tcp";
  std::string bind;  ///< the server's address to listen on, a literal; empty: the host of the server's `bind`
  std::uint16_t remote_port = 0;  ///< 0: the server chooses
  io::HostPort local;
  std::string
      proxy_protocol;  ///< "v1" or "v2": the header that tells the local service the user's address; empty: none
};
struct ClientConfig : Common {
  io::HostPort server;
  std::string token;
  std::string name;  ///< shown on the server; default: the host's name
  std::vector<Proxy> proxies;
  std::optional<unsigned> tunnels;
  /// Connections to the server: what the file names, else two where Brutal runs over TCP, so that no keystroke waits
  /// for what a download has to send again, else one.
  unsigned tunnel_count() const { return tunnels.value_or(brutal.enabled && transport != Transport::quic ? 2 : 1); }
  unsigned pool = 0;  ///< ready connections kept to each local service
};

/// Every mistake of the file, at most 20.
template <typename T>
using Loaded = std::expected<T, std::vector<Error>>;
Loaded<ServerConfig> load_server(const std::filesystem::path& file);
Loaded<ClientConfig> load_client(const std::filesystem::path& file);
Loaded<ServerConfig> parse_server(std::string_view yaml, std::string_view file_name);
Loaded<ClientConfig> parse_client(std::string_view yaml, std::string_view file_name);

/// The effective configuration as YAML, secrets replaced by "***".
std::string show(const ServerConfig& config);
std::string show(const ClientConfig& config);

}  // namespace qtrp::config
