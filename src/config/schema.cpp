// The keys that both daemons share, what their values may be, and the rules between them.
#include "schema.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "qtrp/base/file_mode.h"
#include "units.h"

namespace qtrp::config {
namespace {

using std::chrono::milliseconds;
using namespace std::chrono_literals;

constexpr std::size_t short_secret = 16;      ///< characters; docs/security.md says why
constexpr std::size_t longest_secret = 1024;  ///< bytes
constexpr double highest_mbps = 1e6;

auto duration_between(milliseconds least, milliseconds most) {
  return [=](std::string_view text) {
    const auto value = parse_duration(text);
    return value && *value >= least && *value <= most ? value : std::nullopt;
  };
}
auto integer_between(std::uint64_t least, std::uint64_t most) {
  return [=](std::string_view text) {
    const auto value = parse_integer(text);
    return value && *value >= least && *value <= most ? value : std::nullopt;
  };
}
std::optional<double> parse_mbps(std::string_view text) {
  const auto value = parse_number(text);
  return value && *value >= 0 && *value <= highest_mbps ? value : std::nullopt;
}

void read_file_path(Reader& reader, const YAML::Node& node, std::string& out) {
  const auto text = reader.text(node, "the path of a file");
  if (!text) return;
  if (text->empty()) return reader.found(node, "the path of a file");
  const auto path = reader.resolve(*text);
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0 || ::access(path.c_str(), R_OK) != 0) {
    const int code = errno;
    reader.mistake(node, fmt::format("can't read {}: {}", path.string(), std::generic_category().message(code)));
  } else if (!S_ISREG(status.st_mode)) {
    reader.mistake(node, fmt::format("{} is not a file, expected the path of a file", path.string()));
  } else {
    out = path.string();
  }
}

/// A private key: one that every user may read is refused, as ssh does; one that a group may read gets a warning.
void read_key_path(Reader& reader, const YAML::Node& node, std::string& out, std::vector<std::string>& warnings) {
  read_file_path(reader, node, out);
  if (out.empty()) return;
  const FileMode found = file_mode(out);
  if (found.exposure == Exposure::everybody) {
    reader.mistake(node, fmt::format("{} holds a private key and every user of this machine can read it (mode {:04o}), "
                                     "expected the owner alone: chmod 600 {}",
                                     out, found.mode, out));
  } else if (auto warning = exposure(out)) {
    warnings.push_back(std::move(*warning));
  }
}

void read_directory(Reader& reader, const YAML::Node& node, std::string& out, bool must_exist) {
  const auto text = reader.text(node, "the path of a directory");
  if (!text) return;
  if (text->empty()) return reader.found(node, "the path of a directory");
  const auto path = reader.resolve(*text);
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (std::filesystem::exists(status) ? !std::filesystem::is_directory(status) : must_exist) {
    reader.mistake(node, fmt::format("{} is not a directory, expected the path of a directory", path.string()));
  } else {
    out = path.string();
  }
}

/// A file that is made if it is not there, or "-".
void read_log_path(Reader& reader, const YAML::Node& node, std::string& out) {
  const std::string_view expected = "the path of a file, or \"-\" for standard output";
  const auto text = reader.text(node, expected);
  if (!text) return;
  if (text->empty()) return reader.found(node, expected);
  if (*text == "-") {
    out = *text;
    return;
  }
  const auto path = reader.resolve(*text);
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    reader.mistake(node, fmt::format("{} is a directory, expected {}", path.string(), expected));
  } else if (path.has_parent_path() && !std::filesystem::is_directory(path.parent_path(), error)) {
    reader.mistake(node, fmt::format("there is no directory {}, expected one for {}", path.parent_path().string(),
                                     path.filename().string()));
  } else {
    out = path.string();
  }
}

void read_transport(Reader& reader, const YAML::Node& node, Transport& out) {
  static constexpr std::array<std::string_view, 3> words{"net", "epoll", "quic"};
  // "gnet" is what the first QTRP called its epoll engine.
  const auto word = reader.word(node, words, "gnet");
  if (!word) return;
  out = *word == "net" ? Transport::net : *word == "quic" ? Transport::quic : Transport::epoll;
  if (available(out)) return;
  std::string built = "net";
  for (const Transport other : {Transport::epoll, Transport::quic})
    if (available(other)) built += fmt::format(", {}", to_string(other));
  reader.mistake(node, fmt::format("transport '{}' is not built into this binary, expected one of {}", *word, built));
}

void read_crypto(Reader& reader, const YAML::Node& node, Crypto& out) {
  static constexpr std::array<std::string_view, 3> words{"tls", "chacha20", "none"};
  if (const auto word = reader.word(node, words))
    out = *word == "tls" ? Crypto::tls : *word == "chacha20" ? Crypto::chacha20 : Crypto::none;
}

void read_brutal(Reader& reader, const YAML::Node& node, Brutal& out, Given& given) {
  static constexpr std::array<std::string_view, 4> modes{"auto", "bpf", "module", "pacer"};
  std::optional<YAML::Mark> enabled;
  const std::size_t before = reader.count();
  reader.map(node, {{"enabled",
                     [&](const YAML::Node& n) {
                       enabled = n.Mark();
                       reader.value(n, "true or false", out.enabled, parse_bool);
                     }},
                    {"target_mbps",
                     [&](const YAML::Node& n) {
                       given.target = n.Mark();
                       reader.value(n, "this side's sending rate in Mbit/s, a number up to 1000000", out.target_mbps,
                                    parse_mbps);
                     }},
                    {"mode", [&](const YAML::Node& n) {
                       if (auto word = reader.word(n, modes)) out.mode = *word;
                     }}});
  if (reader.count() == before && out.enabled && out.target_mbps <= 0) {
    reader.mistake(given.target ? *given.target : *enabled,
                   "found brutal enabled without a rate, expected brutal.target_mbps above 0 (this side's sending rate "
                   "in Mbit/s)");
  }
}

void read_pins(Reader& reader, const YAML::Node& node, std::vector<std::string>& out) {
  const std::string_view expected = "a pin such as sha256:<64 hex digits>, or a list of them";
  const auto one = [&](const YAML::Node& item) {
    if (const auto pin = reader.text(item, expected)) {
      if (is_pin(*pin))
        out.push_back(*pin);
      else
        reader.found(item, expected);
    }
  };
  if (node.IsScalar())
    one(node);
  else
    reader.list(node, expected, one);
}

void read_tls(Reader& reader, const YAML::Node& node, Role role, Tls& out, std::vector<std::string>& warnings) {
  if (role == Role::server) {
    static constexpr std::array<Reader::Elsewhere, 3> clients{
        {{"ca", "tls.ca is the client's, the server has tls.cert and tls.key"},
         {"pin", "tls.pin is the client's, the server has tls.cert and tls.key"},
         {"server_name", "tls.server_name is the client's"}}};
    const std::size_t before = reader.count();
    reader.map(node,
               {{"cert", [&](const YAML::Node& n) { read_file_path(reader, n, out.cert); }},
                {"key", [&](const YAML::Node& n) { read_key_path(reader, n, out.key, warnings); }}},
               clients);
    if (reader.count() == before && out.cert.empty() != out.key.empty())
      reader.mistake(node, "found one of tls.cert and tls.key, expected both or neither");
    return;
  }
  static constexpr std::array<Reader::Elsewhere, 2> servers{
      {{"cert", "tls.cert is the server's, the client has tls.ca, tls.pin and tls.server_name"},
       {"key", "tls.key is the server's, the client has tls.ca, tls.pin and tls.server_name"}}};
  reader.map(node,
             {{"ca", [&](const YAML::Node& n) { read_file_path(reader, n, out.ca); }},
              {"pin", [&](const YAML::Node& n) { read_pins(reader, n, out.pins); }},
              {"server_name",
               [&](const YAML::Node& n) {
                 reader.value(n, "a host name", out.server_name, [](std::string_view text) {
                   return is_host(text) ? std::optional(std::string(text)) : std::nullopt;
                 });
               }}},
             servers);
}

void read_quic(Reader& reader, const YAML::Node& node, Role role, Quic& out) {
  static constexpr std::array<std::string_view, 3> controllers{"bbr", "cubic", "reno"};
  static constexpr std::array<Reader::Elsewhere, 1> servers{{{"masquerade", "quic.masquerade is the server's"}}};
  std::vector<Reader::Key> keys{{"congestion", [&](const YAML::Node& n) {
                                   if (auto word = reader.word(n, controllers)) out.congestion = *word;
                                 }}};
  if (role == Role::server) {
    keys.push_back({"masquerade", [&](const YAML::Node& n) {
                      const auto text = reader.text(n, "404, stats, or a directory");
                      if (text && (*text == "404" || *text == "stats"))
                        out.masquerade = *text;
                      else if (text)
                        read_directory(reader, n, out.masquerade, true);
                    }});
  }
  reader.map(node, keys,
             role == Role::client ? std::span<const Reader::Elsewhere>(servers) : std::span<const Reader::Elsewhere>{});
}

void read_tcp(Reader& reader, const YAML::Node& node, Tcp& out) {
  reader.map(node, {{"congestion",
                     [&](const YAML::Node& n) {
                       // TCP_CA_NAME_MAX is 16 with the final zero (linux/include/net/tcp.h).
                       reader.value(n, "a congestion controller of the kernel, such as bbr or cubic", out.congestion,
                                    [](std::string_view text) -> std::optional<std::string> {
                                      const bool fits = !text.empty() && text.size() < 16 &&
                                                        std::ranges::all_of(
                                                            text,
                                                            [](char c) {
                                                              return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
                                                                     c == '_' || c == '-';
                                                            });
                                      return fits ? std::optional(std::string(text)) : std::nullopt;
                                    });
                     }},
                    {"buffer", [&](const YAML::Node& n) {
                       reader.value(
                           n, "a size such as 4MiB, from 4KiB to 1GiB, or 0 to follow the link", out.buffer,
                           [](std::string_view text) {
                             const auto size = parse_size(text);
                             return size && (*size == 0 || (*size >= 4096 && *size <= 1u << 30)) ? size : std::nullopt;
                           });
                     }}});
}

void read_stats_tls(Reader& reader, const YAML::Node& node, Stats& out, std::vector<std::string>& warnings) {
  const std::size_t before = reader.count();
  reader.map(node, {{"cert", [&](const YAML::Node& n) { read_file_path(reader, n, out.cert); }},
                    {"key", [&](const YAML::Node& n) { read_key_path(reader, n, out.key, warnings); }}});
  if (reader.count() == before && (out.cert.empty() || out.key.empty()))
    reader.mistake(node, "found stats.tls without both of its keys, expected cert and key");
}

void read_stats(Reader& reader, const YAML::Node& node, Role role, Stats& out, Given& given,
                std::vector<std::string>& warnings) {
  if (node.IsScalar()) {
    reader.value(node, "true, false, or a map with the keys listen and token", out.enabled, parse_bool);
    return;
  }
  static constexpr std::array<Reader::Elsewhere, 1> servers{{{"allow", "stats.allow is the server's"}}};
  out.enabled = true;
  std::vector<Reader::Key> keys{{"listen",
                                 [&](const YAML::Node& n) {
                                   given.stats_listen = n.Mark();
                                   read_address(reader, n, out.listen, true);
                                 }},
                                {"token", [&](const YAML::Node& n) { read_secret(reader, n, out.token); }, true},
                                {"tls", [&](const YAML::Node& n) { read_stats_tls(reader, n, out, warnings); }}};
  if (role == Role::server) {
    keys.push_back({"allow", [&](const YAML::Node& n) {
                      const std::string_view expected = "a list of networks such as [192.0.2.0/24, '2001:db8::/32']";
                      reader.list(n, expected, [&](const YAML::Node& item) {
                        const auto text = reader.text(item, expected);
                        if (text && is_network(*text))
                          out.allow.push_back(*text);
                        else if (text)
                          reader.found(item, expected);
                      });
                    }});
  }
  reader.map(node, keys,
             role == Role::client ? std::span<const Reader::Elsewhere>(servers) : std::span<const Reader::Elsewhere>{});
}

/// A map with one key that holds a duration.
void read_duration_in(Reader& reader, const YAML::Node& node, std::string_view key, std::string_view expected,
                      milliseconds least, milliseconds most, milliseconds& out) {
  reader.map(node,
             {{key, [&](const YAML::Node& n) { reader.value(n, expected, out, duration_between(least, most)); }}});
}

}  // namespace

void read_address(Reader& reader, const YAML::Node& node, io::HostPort& out, bool any_port) {
  const std::string_view expected = any_port ? "host:port such as 0.0.0.0:6000, '[::1]:6000' or :6000"
                                             : "host:port such as name.example:22 or '[::1]:22'";
  if (node.IsSequence()) {
    // [::1] without quotes is a YAML list.
    return reader.mistake(node, "found a list, expected host:port; an IPv6 address needs quotes, as in '[::1]:6000'");
  }
  const auto text = reader.text(node, expected);
  if (!text) return;
  const auto parsed = io::parse_host_port(*text);
  if (!parsed) return reader.found(node, expected);
  if (!is_host(parsed->host)) return reader.found(node, fmt::format("{} with a valid host name or address", expected));
  if (parsed->port == 0 && !any_port)
    return reader.found(node, fmt::format("{} with a port from 1 to 65535", expected));
  if (text->starts_with(':') && !any_port)
    return reader.found(node, fmt::format("{} with a host before the colon", expected));
  out = *parsed;
}

void read_ports(Reader& reader, const YAML::Node& node, PortSet& out) {
  const std::string_view expected = "ports such as 2222, 8000-8005, or a list of these (1 to 65535, the lower first)";
  out.clear();
  const auto one = [&](const YAML::Node& item) {
    PortRange range;
    if (reader.value(item, expected, range, parse_port_range)) out.push_back(range);
  };
  if (node.IsScalar()) return one(node);
  reader.list(node, expected, one);
  // An empty list would mean "every port" to its reader and "none" to its writer.
  if (node.IsSequence() && node.size() == 0) reader.found(node, expected);
}

void read_secret(Reader& reader, const YAML::Node& node, std::string& out) {
  const auto text = reader.text(node, "text in one line");
  if (!text) return;
  if (text->empty())
    return reader.mistake(node, "found an empty secret, expected at least one character, better 16 or more at random");
  if (text->size() > longest_secret)
    return reader.mistake(node,
                          fmt::format("found a secret of {} bytes, expected at most {}", text->size(), longest_secret));
  if (text->front() == ' ' || text->back() == ' ')
    return reader.mistake(
        node, "found a secret with a space at its begin or end, expected none (a quote that is not closed?)");
  out = *text;
}

std::vector<std::string> read_secret_file(Reader& reader, const YAML::Node& node, std::vector<std::string>& warnings) {
  std::string path;
  read_file_path(reader, node, path);
  if (path.empty()) return {};
  std::ifstream file(path);
  std::string content(64 * 1024 + 1, '\0');
  file.read(content.data(), static_cast<std::streamsize>(content.size()));
  content.resize(static_cast<std::size_t>(file.gcount()));
  std::vector<std::string> secrets;
  std::istringstream lines(content);
  for (std::string line; std::getline(lines, line);) {
    const auto first = line.find_first_not_of(" \t\r");
    if (first == std::string::npos) continue;
    line = line.substr(first, line.find_last_not_of(" \t\r") - first + 1);
    const bool control =
        std::ranges::any_of(line, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
    if (line.size() > longest_secret || control) {
      reader.mistake(
          node,
          fmt::format(
              "{} holds a line that is no secret (a control character, or more than {} bytes), expected one secret "
              "a line",
              path, longest_secret));
      return {};
    }
    secrets.push_back(std::move(line));
  }
  if (content.size() > 64 * 1024) {
    reader.mistake(node, fmt::format("{} is larger than 64 KiB, expected one secret a line", path));
    return {};
  }
  if (secrets.empty()) reader.mistake(node, fmt::format("{} is empty, expected one secret a line", path));
  if (auto warning = exposure(path)) warnings.push_back(std::move(*warning));
  return secrets;
}

void read_name(Reader& reader, const YAML::Node& node, std::string& out) {
  reader.value(node, "a name of 1 to 64 characters", out, [](std::string_view text) {
    return !text.empty() && text.size() <= 64 && text.front() != ' ' && text.back() != ' '
               ? std::optional(std::string(text))
               : std::nullopt;
  });
}

void warn_if_short(std::string_view secret, std::string_view whose, std::vector<std::string>& warnings) {
  if (secret.size() >= short_secret) return;
  warnings.push_back(fmt::format(
      "{} has fewer than {} characters and can be guessed offline by whoever watches or imitates the tunnel: "
      "take a random one, e.g. from 'openssl rand -hex 24'",
      whose, short_secret));
}

std::optional<std::string> exposure(const std::filesystem::path& file) {
  const FileMode found = file_mode(file);
  if (found.exposure == Exposure::none) return std::nullopt;
  return fmt::format("{} holds a secret and other users of this machine can read it (mode {:04o}): chmod 600 {}",
                     file.string(), found.mode, file.string());
}

std::vector<Reader::Key> common_keys(Reader& reader, Role role, Common& config, Given& given) {
  static constexpr std::array<std::string_view, 2> muxes{"smux", "yamux"};
  static constexpr std::array<std::string_view, 5> levels{"trace", "debug", "info", "warn", "error"};
  return {
      {"transport", [&](const YAML::Node& n) { read_transport(reader, n, config.transport); }},
      {"crypto",
       [&](const YAML::Node& n) {
         given.crypto = n.Mark();
         read_crypto(reader, n, config.crypto);
       }},
      {"mux",
       [&](const YAML::Node& n) {
         given.mux = n.Mark();
         if (const auto word = reader.word(n, muxes)) config.mux = *word == "smux" ? Mux::smux : Mux::yamux;
       }},
      {"brutal", [&](const YAML::Node& n) { read_brutal(reader, n, config.brutal, given); }},
      {"tls",
       [&, role](const YAML::Node& n) {
         given.tls = n.Mark();
         read_tls(reader, n, role, config.tls, config.warnings);
       }},
      {"chacha20",
       [&](const YAML::Node& n) {
         given.chacha20 = n.Mark();
         reader.map(n, {{"psk", [&](const YAML::Node& psk) { read_secret(reader, psk, config.chacha20_psk); }, true}});
       },
       true},
      {"quic",
       [&, role](const YAML::Node& n) {
         given.quic = n.Mark();
         read_quic(reader, n, role, config.quic);
       }},
      {"tcp",
       [&](const YAML::Node& n) {
         given.tcp = n.Mark();
         read_tcp(reader, n, config.tcp);
       }},
      {"stats", [&, role](const YAML::Node& n) { read_stats(reader, n, role, config.stats, given, config.warnings); }},
      {"log",
       [&](const YAML::Node& n) {
         reader.map(n, {{"level",
                         [&](const YAML::Node& level) {
                           if (auto word = reader.word(level, levels)) config.log.level = *word;
                         }},
                        {"access", [&](const YAML::Node& file) { read_log_path(reader, file, config.log.access); }}});
       }},
      {"workers",
       [&](const YAML::Node& n) {
         reader.value(n, "a number of threads from 1 to 256, or 0 for the number of cores (4 at most)", config.workers,
                      integer_between(0, 256));
       }},
      {"keepalive",
       [&](const YAML::Node& n) {
         read_duration_in(reader, n, "interval", "a duration from 1s to 1h", 1s, 1h, config.keepalive_interval);
       }},
      {"shutdown",
       [&](const YAML::Node& n) {
         read_duration_in(reader, n, "grace", "a duration from 0s to 10m", 0s, 10min, config.shutdown_grace);
       }},
      {"connect_timeout",
       [&](const YAML::Node& n) {
         reader.value(n, "a duration from 100ms to 5m", config.connect_timeout, duration_between(100ms, 5min));
       }},
      {"state_dir", [&](const YAML::Node& n) { read_directory(reader, n, config.state_dir, false); }},
  };
}

void check_common(Reader& reader, Common& config, const Given& given) {
  const bool quic = config.transport == Transport::quic;
  if (quic && config.crypto != Crypto::tls && given.crypto) {
    reader.mistake(
        *given.crypto,
        fmt::format("found crypto '{}' with transport 'quic', expected tls or no such key: QUIC is always encrypted "
                    "by TLS 1.3",
                    to_string(config.crypto)));
  }
  if (config.stats.enabled && config.stats.token.empty() && is_ip_literal(config.stats.listen.host) &&
      !is_loopback_literal(config.stats.listen.host)) {
    reader.mistake(
        given.stats_listen ? *given.stats_listen : *given.root,
        fmt::format("found stats.listen on {}, which others can reach, expected a stats.token beside it (or 127.0.0.1)",
                    config.stats.listen.to_string()));
  }
  auto& warnings = config.warnings;
  const auto idle = [&](const std::optional<YAML::Mark>& mark, std::string_view key, std::string_view why) {
    if (mark) warnings.push_back(fmt::format("{}:{}: '{}' has no effect {}", reader.file(), mark->line + 1, key, why));
  };
  if (!quic) idle(given.quic, "quic", "unless transport is quic");
  if (quic) idle(given.tcp, "tcp", "with transport quic");
  if (quic) idle(given.mux, "mux", "with transport quic, which has its own streams");
  if (config.crypto != Crypto::tls) idle(given.tls, "tls", fmt::format("with crypto {}", to_string(config.crypto)));
  if (config.crypto != Crypto::chacha20) idle(given.chacha20, "chacha20", "unless crypto is chacha20");
  if (config.crypto == Crypto::none) {
    warnings.emplace_back(
        "crypto is none: anyone on the path between client and server can read the tunnel's traffic and forge it; only "
        "the "
        "token is protected. Use tls or chacha20 unless the path is yours alone");
  }
  if (!config.chacha20_psk.empty()) warn_if_short(config.chacha20_psk, "chacha20.psk", warnings);
}

}  // namespace qtrp::config
