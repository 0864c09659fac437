// Tables of keys: what both daemons read alike (schema.cpp) and the client's proxies (proxies.cpp), for load.cpp to put
// together.
#pragma once

#include <vector>

#include "qtrp/config/config.h"
#include "reader.h"

namespace qtrp::config {

enum class Role { server, client };

/// What was written, beyond the values: some rules need to know whether a key was given, and where.
struct Given {
  std::optional<YAML::Mark> root;
  std::optional<YAML::Mark> tls, chacha20, quic, tcp, crypto, mux, stats_listen, target;
};

/// The keys that both daemons have. They write into `config` and `given`, both of which must outlive the table.
std::vector<Reader::Key> common_keys(Reader& reader, Role role, Common& config, Given& given);
/// Rules between those keys; call when the whole file was read.
void check_common(Reader& reader, Common& config, const Given& given);

/// A host and port. `any_port`: port 0 lets the kernel choose.
void read_address(Reader& reader, const YAML::Node& node, io::HostPort& out, bool any_port);
/// "2222", "8000-8005", or a list of these.
void read_ports(Reader& reader, const YAML::Node& node, PortSet& out);
/// A token, PSK or password: not empty, no spaces around it, 1024 bytes at most.
void read_secret(Reader& reader, const YAML::Node& node, std::string& out);
/// The secrets in the file that the scalar names, one a line; nothing after a mistake. Warns if others may read the
/// file.
std::vector<std::string> read_secret_file(Reader& reader, const YAML::Node& node, std::vector<std::string>& warnings);
/// A name for logs: 1 to 64 printable characters without spaces around it.
void read_name(Reader& reader, const YAML::Node& node, std::string& out);
/// The warning for a secret that is short enough to be guessed; `whose`: "token 'token-1'".
void warn_if_short(std::string_view secret, std::string_view whose, std::vector<std::string>& warnings);
/// The warning for a file with secrets that its group or everybody may read; nothing otherwise.
std::optional<std::string> exposure(const std::filesystem::path& file);

/// The list `proxies`, ranges unfolded, names filled in, doubles refused.
void read_proxies(Reader& reader, const YAML::Node& node, std::vector<Proxy>& out);

}  // namespace qtrp::config
