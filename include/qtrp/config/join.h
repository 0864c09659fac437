// Set-up without a file: the join string that holds all a client must know of a server, port mappings as they stand on
// a command line, and the YAML that either side's set-up amounts to. Pure functions; no message shows a token.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "qtrp/config/config.h"

namespace qtrp::config {

/// What a client must know of a server. As text a URI (RFC 3986), percent-encoded where needed:
/// qtrp://TOKEN@HOST:PORT?pin=sha256:HEX&transport=quic&crypto=chacha20&mux=yamux&psk=TEXT
/// All parameters are optional; those that have their default are not written.
struct Join {
  io::HostPort server;
  std::string token;
  Transport transport = Transport::net;
  Crypto crypto = Crypto::tls;
  Mux mux = Mux::smux;
  std::string pin;  ///< of the server's certificate, as tls.pin; empty: none
  std::string psk;  ///< chacha20.psk; empty: derived from the token
};
std::string format_join(const Join& join);
/// White space around it is ignored. Errors of kind config say what is wrong without showing the token or psk.
Result<Join> parse_join(std::string_view text);

/// "[NAME=]PORTS:[HOST:]PORT", as in "2222:127.0.0.1:22", "8000-8005:[::1]:8000", "ssh=2222:22" (on 127.0.0.1),
/// "0:127.0.0.1:22" (the server chooses its port).
struct Mapping {
  std::string name;                ///< empty: the port
  std::optional<PortRange> ports;  ///< the server's; nothing: the server chooses
  io::HostPort local;              ///< of the first port; a range counts up
};
Result<Mapping> parse_mapping(std::string_view text);
std::string format_mapping(const Mapping& mapping);

/// The client.yaml that does the same.
std::string client_yaml(const Join& join, std::span<const Mapping> mappings);
/// That configuration, or what is wrong with it, told of "the command line".
Loaded<ClientConfig> client_config(const Join& join, std::span<const Mapping> mappings);

/// A first server.yaml.
struct ServerSetup {
  io::HostPort bind;
  std::string token;
  Transport transport = Transport::net;
  Crypto crypto = Crypto::tls;
  std::string certificate, key;  ///< tls.cert and tls.key; both empty: no such keys
};
std::string server_yaml(const ServerSetup& setup);

/// The join string's content for clients with the token of that name (or the only one) of this server, which they reach
/// at `address`. `pin`: of its certificate; left out unless crypto is tls.
Result<Join> join_of(const ServerConfig& config, std::string_view token_name, const io::HostPort& address,
                     std::string pin);

/// A YAML scalar: as it is where YAML reads it back as it is, in double quotes otherwise. ${ is kept from being taken
/// for a variable.
std::string yaml_scalar(std::string_view text);

}  // namespace qtrp::config
