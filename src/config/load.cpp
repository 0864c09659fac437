// Files to ServerConfig and ClientConfig: the two tables of keys at the root, and what makes a file of each kind
// complete.
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>
#include <set>
#include <system_error>

#include "schema.h"
#include "units.h"

#ifndef QTRP_HAVE_EPOLL
#define QTRP_HAVE_EPOLL 1
#endif
#ifndef QTRP_HAVE_QUIC
#define QTRP_HAVE_QUIC 0
#endif

namespace qtrp::config {
namespace {

// What people write into the wrong one of the two files.
constexpr std::array<Reader::Elsewhere, 8> not_the_servers{
    {{"server", "'server' is the client's, the server has 'bind'"},
     {"token", "'token' is the client's, the server has 'auth: {tokens: [...]}'"},
     {"token_file", "'token_file' is the client's, the server has 'auth: {token_file: ...}'"},
     {"tokens", "the server's tokens belong under 'auth', as in 'auth: {tokens: [...]}'"},
     {"proxies", "'proxies' is the client's; the server can limit ports by 'ports' and by 'auth'"},
     {"tunnels", "'tunnels' is the client's"},
     {"pool", "'pool' is the client's"},
     {"name", "'name' is the client's"}}};
constexpr std::array<Reader::Elsewhere, 3> not_the_clients{{{"bind", "'bind' is the server's, the client has 'server'"},
                                                            {"auth", "'auth' is the server's, the client has 'token'"},
                                                            {"ports", "'ports' is the server's"}}};

/// The server's tokens: from the list, one after the other, and from auth.token_file.
class TokenList {
 public:
  TokenList(Reader& reader, ServerConfig& config) : reader_(reader), config_(config) {}

  void read(const YAML::Node& node) {
    reader_.map(node, {{"tokens", [&](const YAML::Node& n) { read_list(n); }, true},
                       {"token_file", [&](const YAML::Node& n) {
                          for (std::string& secret : read_secret_file(reader_, n, config_.warnings)) {
                            Token token;
                            token.token = std::move(secret);
                            add(n, std::move(token));
                          }
                        }}});
  }

 private:
  void read_list(const YAML::Node& node) {
    reader_.list(node, "a list of tokens such as [token-one, {token: token-two, name: office}]",
                 [&](const YAML::Node& item) {
                   Token token;
                   const std::size_t before = reader_.count();
                   if (item.IsMap())
                     read_map(item, token);
                   else
                     read_secret(reader_, item, token.token);
                   if (reader_.count() == before) add(item, std::move(token));
                 });
  }

  void read_map(const YAML::Node& node, Token& token) {
    const std::size_t before = reader_.count();
    bool given = false, from_file = false;
    const auto count = [](std::string_view text) -> std::optional<std::uint32_t> {
      const auto value = parse_integer(text);
      return value && *value <= 1'000'000 ? std::optional(static_cast<std::uint32_t>(*value)) : std::nullopt;
    };
    reader_.map(
        node, {{"token",
                [&](const YAML::Node& n) {
                  given = true;
                  read_secret(reader_, n, token.token);
                },
                true},
               {"token_file",
                [&](const YAML::Node& n) {
                  from_file = true;
                  auto secrets = read_secret_file(reader_, n, config_.warnings);
                  if (secrets.size() > 1)
                    reader_.mistake(n, "found a file with several lines, expected a file with this one token");
                  if (secrets.size() == 1) token.token = std::move(secrets.front());
                }},
               {"name", [&](const YAML::Node& n) { read_name(reader_, n, token.name); }},
               {"ports", [&](const YAML::Node& n) { read_ports(reader_, n, token.ports); }},
               {"max_proxies",
                [&](const YAML::Node& n) { reader_.value(n, "a number up to 1000000", token.max_proxies, count); }},
               {"max_connections",
                [&](const YAML::Node& n) { reader_.value(n, "a number up to 1000000", token.max_connections, count); }},
               {"target_mbps", [&](const YAML::Node& n) {
                  reader_.value(n, "a rate in Mbit/s, a number above 0 and up to 1000000", token.target_mbps,
                                [](std::string_view text) {
                                  const auto value = parse_number(text);
                                  return value && *value > 0 && *value <= 1e6 ? value : std::nullopt;
                                });
                }}});
    if (reader_.count() == before && given == from_file)
      reader_.mistake(node,
                      "found a token's map with both or neither of 'token' and 'token_file', expected one of them");
  }

  void add(const YAML::Node& node, Token token) {
    if (token.token.empty()) return;  // said already
    if (token.name.empty()) token.name = fmt::format("token-{}", config_.tokens.size() + 1);
    for (const Token& other : config_.tokens) {
      if (other.token == token.token)
        return reader_.mistake(node,
                               fmt::format("found the same token as '{}', expected tokens that differ", other.name));
      if (other.name == token.name)
        return reader_.mistake(
            node, fmt::format("found the token name '{}' a second time, expected names that differ", token.name));
    }
    warn_if_short(token.token, fmt::format("token '{}'", token.name), config_.warnings);
    config_.tokens.push_back(std::move(token));
  }

  Reader& reader_;
  ServerConfig& config_;
};

/// The whole text of `file`, or what is wrong with it as a file.
Result<std::string> read_file(const std::filesystem::path& file) {
  const auto wrong = [&](std::string_view what) {
    return fail(ErrorKind::config, fmt::format("{}: {}", file.string(), what));
  };
  struct stat status{};
  if (::stat(file.c_str(), &status) != 0) {
    if (errno == ENOENT) return wrong("found no such file, expected a configuration (name another with -c FILE)");
    return wrong(fmt::format("can't be read: {}", std::generic_category().message(errno)));
  }
  if (S_ISDIR(status.st_mode)) return wrong("found a directory, expected a file");
  if (!S_ISREG(status.st_mode)) return wrong("found a device or pipe, expected a regular file");
  errno = 0;
  std::ifstream stream(file, std::ios::binary);
  if (!stream) return wrong(fmt::format("can't be read: {}", std::generic_category().message(errno)));
  // One byte more than allowed, so that the reader sees that there is more.
  std::string text(max_file_size + 1, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (stream.bad()) return wrong("can't be read to its end");
  text.resize(static_cast<std::size_t>(stream.gcount()));
  return text;
}

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0 || name.front() == '\0') return "client";
  return std::string(name.data()).substr(0, 64);
}

void require(Reader& reader, bool there, std::string_view what) {
  if (!there) reader.mistake(fmt::format("found no {}", what));
}

void fill_server(Reader& reader, const YAML::Node& root, ServerConfig& config) {
  Given given;
  given.root = root.Mark();
  TokenList tokens(reader, config);
  bool auth = false;
  auto keys = common_keys(reader, Role::server, config, given);
  keys.insert(keys.begin(), {"bind", [&](const YAML::Node& n) { read_address(reader, n, config.bind, true); }});
  keys.push_back({"auth",
                  [&](const YAML::Node& n) {
                    auth = true;
                    const std::size_t before = reader.count();
                    tokens.read(n);
                    if (reader.count() == before && config.tokens.empty())
                      reader.mistake(n, "found no token, expected at least one under 'auth: {tokens: [...]}'");
                  },
                  true});
  keys.push_back({"ports", [&](const YAML::Node& n) { read_ports(reader, n, config.ports); }});
  reader.map(root, keys, not_the_servers);
  require(reader, auth, "'auth', expected the clients' tokens, as in 'auth: {tokens: [a-long-random-text]}'");
  check_common(reader, config, given);
}

void fill_client(Reader& reader, const YAML::Node& root, ClientConfig& config) {
  Given given;
  given.root = root.Mark();
  // Two daemons on one machine would fight for the port, so the client's endpoint waits to be asked for.
  config.stats.enabled = false;
  bool server = false, token = false, proxies = false;
  std::optional<YAML::Mark> token_file;
  auto keys = common_keys(reader, Role::client, config, given);
  keys.insert(keys.begin(),
              {{"server",
                [&](const YAML::Node& n) {
                  server = true;
                  read_address(reader, n, config.server, false);
                }},
               {"token",
                [&](const YAML::Node& n) {
                  token = true;
                  read_secret(reader, n, config.token);
                },
                true},
               {"token_file", [&](const YAML::Node& n) {
                  token_file = n.Mark();
                  auto secrets = read_secret_file(reader, n, config.warnings);
                  if (secrets.size() > 1)
                    reader.mistake(n, "found a file with several lines, expected a file with the client's one token");
                  if (secrets.size() == 1) config.token = std::move(secrets.front());
                }}});
  keys.push_back({"proxies", [&](const YAML::Node& n) {
                    proxies = true;
                    read_proxies(reader, n, config.proxies);
                  }});
  keys.push_back({"name", [&](const YAML::Node& n) { read_name(reader, n, config.name); }});
  keys.push_back({"tunnels", [&](const YAML::Node& n) {
                    reader.value(n, "a number of tunnels from 1 to 64", config.tunnels, [](std::string_view text) {
                      const auto value = parse_integer(text);
                      return value && *value >= 1 && *value <= 64 ? value : std::nullopt;
                    });
                  }});
  keys.push_back({"pool", [&](const YAML::Node& n) {
                    reader.value(n, "a number of ready connections from 0 to 1024", config.pool,
                                 [](std::string_view text) {
                                   const auto value = parse_integer(text);
                                   return value && *value <= 1024 ? value : std::nullopt;
                                 });
                  }});
  reader.map(root, keys, not_the_clients);
  if (token && token_file) reader.mistake(*token_file, "found both 'token' and 'token_file', expected one of them");
  require(reader, server, "'server', expected the server's address, as in 'server: vps.example.com:6000'");
  require(reader, token || token_file.has_value(), "'token', expected the server's token (or 'token_file')");
  require(reader, proxies, "'proxies', expected a list such as [{remote_port: 2222, local_addr: 127.0.0.1:22}]");
  check_common(reader, config, given);
  if (!config.token.empty()) warn_if_short(config.token, "the token", config.warnings);
  if (config.name.empty()) config.name = host_name();
}

template <typename Config, typename Fill>
Loaded<Config> parse(std::string_view yaml, std::string_view file_name, bool check_mode, Fill fill) {
  Reader reader(file_name);
  Config config;
  if (const YAML::Node root = reader.parse(yaml); root.IsDefined()) {
    try {
      fill(reader, root, config);
    } catch (const YAML::Exception& error) {
      reader.mistake(error.mark, "found a value that can't be read");
    }
  }
  if (reader.failed()) return std::unexpected(reader.take());
  if (check_mode && reader.holds_secret())
    if (auto warning = exposure(reader.file())) config.warnings.push_back(std::move(*warning));
  return config;
}

template <typename Config, typename Fill>
Loaded<Config> load(const std::filesystem::path& file, Fill fill) {
  auto text = read_file(file);
  if (!text) return std::unexpected(std::vector<Error>{std::move(text.error())});
  return parse<Config>(*text, file.string(), true, fill);
}

}  // namespace

std::string_view to_string(Transport value) {
  switch (value) {
    case Transport::net: return "net";
    case Transport::epoll: return "epoll";
    case Transport::quic: return "quic";
  }
  return "?";
}
std::string_view to_string(Crypto value) {
  switch (value) {
    case Crypto::tls: return "tls";
    case Crypto::chacha20: return "chacha20";
    case Crypto::none: return "none";
  }
  return "?";
}
std::string_view to_string(Mux value) {
  return value == Mux::smux ? "smux" : "yamux";
}

bool available(Transport value) {
  switch (value) {
    case Transport::net: return true;
    case Transport::epoll: return QTRP_HAVE_EPOLL != 0;
    case Transport::quic: return QTRP_HAVE_QUIC != 0;
  }
  return false;
}

bool allows(const PortSet& ports, std::uint16_t port) {
  return ports.empty() ||
         std::ranges::any_of(ports, [port](PortRange range) { return range.first <= port && port <= range.last; });
}

Loaded<ServerConfig> load_server(const std::filesystem::path& file) {
  return load<ServerConfig>(file, fill_server);
}
Loaded<ClientConfig> load_client(const std::filesystem::path& file) {
  return load<ClientConfig>(file, fill_client);
}
Loaded<ServerConfig> parse_server(std::string_view yaml, std::string_view file_name) {
  return parse<ServerConfig>(yaml, file_name, false, fill_server);
}
Loaded<ClientConfig> parse_client(std::string_view yaml, std::string_view file_name) {
  return parse<ClientConfig>(yaml, file_name, false, fill_client);
}

}  // namespace qtrp::config
