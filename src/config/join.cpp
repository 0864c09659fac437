#include "qtrp/config/join.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "units.h"

namespace qtrp::config {
namespace {

constexpr std::string_view scheme = "qtrp://";
constexpr std::size_t longest_join = 8192;    ///< bytes
constexpr std::size_t longest_secret = 1024;  ///< bytes, as in a file
constexpr std::string_view blank = " \t\r\n";

std::unexpected<Error> wrong(std::string_view what) {
  return fail(ErrorKind::config, fmt::format("the join string {}", what));
}

bool is_unreserved(char c) {  // RFC 3986, section 2.3
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
         c == '_' || c == '~';
}

/// Percent-encoded but for unreserved characters and `also`.
std::string encoded(std::string_view text, std::string_view also = "") {
  std::string out;
  for (const char c : text) {
    if (is_unreserved(c) || also.find(c) != std::string_view::npos)
      out += c;
    else
      out += fmt::format("%{:02X}", static_cast<unsigned>(static_cast<unsigned char>(c)));
  }
  return out;
}

std::optional<std::string> decoded(std::string_view text) {
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
  };
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    if (i + 2 >= text.size()) return std::nullopt;
    const int high = digit(text[i + 1]), low = digit(text[i + 2]);
    if (high < 0 || low < 0) return std::nullopt;
    out += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return out;
}

/// A token or psk, decoded; `what` names it in messages, its text stays out of them.
Result<std::string> secret(std::string_view text, std::string_view what) {
  auto value = decoded(text);
  if (!value) return wrong(fmt::format("has a {} with a '%' that two hexadecimal digits do not follow", what));
  if (value->empty()) return wrong(fmt::format("has an empty {}", what));
  if (value->size() > longest_secret) return wrong(fmt::format("has a {} of more than {} bytes", what, longest_secret));
  if (std::ranges::any_of(*value, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }))
    return wrong(fmt::format("has a control character in its {}", what));
  if (value->front() == ' ' || value->back() == ' ') return wrong(fmt::format("has a space around its {}", what));
  return std::move(*value);
}

template <typename Enum, std::size_t N>
bool read_word(std::string_view text, const std::array<Enum, N>& values, Enum& out) {
  const auto found = std::ranges::find(values, text, [](Enum value) { return to_string(value); });
  if (found == values.end()) return false;
  out = *found;
  return true;
}

/// One parameter of the query.
Result<void> read_parameter(std::string_view name, std::string_view text, Join& join) {
  if (name == "psk") {
    auto value = secret(text, "psk");
    if (!value) return std::unexpected(std::move(value.error()));
    join.psk = std::move(*value);
    return {};
  }
  const auto value = decoded(text);
  if (!value) return wrong(fmt::format("has a '%' in '{}' that two hexadecimal digits do not follow", name));
  if (name == "pin") {
    if (!is_pin(*value))
      return wrong("has a pin that is none, expected sha256: and 64 hexadecimal digits; was its end cut off?");
    join.pin = *value;
  } else if (name == "transport") {
    if (!read_word(*value, std::array{Transport::net, Transport::epoll, Transport::quic}, join.transport))
      return wrong(fmt::format("has transport '{}', expected net, epoll or quic", *value));
    if (!available(join.transport))
      return wrong(fmt::format("wants transport {}, which is not built into this binary", *value));
  } else if (name == "crypto") {
    if (!read_word(*value, std::array{Crypto::tls, Crypto::chacha20, Crypto::none}, join.crypto))
      return wrong(fmt::format("has crypto '{}', expected tls, chacha20 or none", *value));
  } else if (name == "mux") {
    if (!read_word(*value, std::array{Mux::smux, Mux::yamux}, join.mux))
      return wrong(fmt::format("has mux '{}', expected smux or yamux", *value));
  } else {
    return wrong(fmt::format("has a parameter '{}' that this version does not know (pin, transport, crypto, mux, psk)",
                             std::string(name.substr(0, 32))));
  }
  return {};
}

Result<void> read_query(std::string_view query, Join& join) {
  std::set<std::string_view> seen;
  while (!query.empty()) {
    const std::size_t end = query.find('&');
    const std::string_view item = query.substr(0, end);
    query = end == std::string_view::npos ? std::string_view() : query.substr(end + 1);
    const std::size_t equals = item.find('=');
    if (equals == std::string_view::npos)
      return wrong("has a parameter without '='; was its end cut off? (a shell needs quotes around the string)");
    const std::string_view name = item.substr(0, equals);
    if (!seen.insert(name).second)
      return wrong(fmt::format("has the parameter '{}' twice", std::string(name.substr(0, 32))));
    if (auto read = read_parameter(name, item.substr(equals + 1), join); !read) return read;
  }
  return {};
}

std::string ports_text(const std::optional<PortRange>& ports) {
  if (!ports) return "0";
  return ports->first == ports->last ? fmt::format("{}", ports->first)
                                     : fmt::format("{}-{}", ports->first, ports->last);
}

}  // namespace

std::string yaml_scalar(std::string_view text) {
  static constexpr std::array<std::string_view, 4> nulls{"null", "Null", "NULL", "~"};
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '/' ||
           c == '_' || c == '-' || c == ':';
  };
  if (!text.empty() && text.front() != '-' && text.front() != ':' && text.back() != ':' &&
      std::ranges::all_of(text, plain) && std::ranges::find(nulls, text) == nulls.end())
    return std::string(text);
  std::string out = "\"";
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned>(static_cast<unsigned char>(c)));
      continue;
    }
    if (text.compare(i, 2, "${") == 0) out += '$';
    out += c;
  }
  return out + "\"";
}

std::string format_join(const Join& join) {
  std::string query;
  const auto add = [&](std::string_view name, std::string_view value) {
    query += fmt::format("{}{}={}", query.empty() ? "?" : "&", name, encoded(value, ":/"));
  };
  if (!join.pin.empty()) add("pin", join.pin);
  if (join.transport != Transport::net) add("transport", to_string(join.transport));
  if (join.crypto != Crypto::tls) add("crypto", to_string(join.crypto));
  if (join.mux != Mux::smux) add("mux", to_string(join.mux));
  if (!join.psk.empty()) add("psk", join.psk);
  return fmt::format("{}{}@{}{}", scheme, encoded(join.token), join.server.to_string(), query);
}

Result<Join> parse_join(std::string_view text) {
  const std::size_t first = text.find_first_not_of(blank);
  if (first == std::string_view::npos) return wrong("is empty");
  text = text.substr(first, text.find_last_not_of(blank) - first + 1);
  if (text.size() > longest_join) return wrong(fmt::format("is longer than {} bytes", longest_join));
  if (!text.starts_with(scheme)) return wrong("does not begin with qtrp://; copy it whole from `qtrp-server init`");
  if (text.find_first_of(blank) != std::string_view::npos) return wrong("has white space in it; copy it in one piece");
  text.remove_prefix(scheme.size());
  if (text.find('#') != std::string_view::npos) return wrong("has a '#', which belongs into none");

  const std::size_t question = text.find('?');
  std::string_view authority = text.substr(0, question);
  const std::size_t at = authority.rfind('@');
  if (at == std::string_view::npos) return wrong("has no token: expected qtrp://TOKEN@HOST:PORT");
  Join join;
  auto token = secret(authority.substr(0, at), "token");
  if (!token) return std::unexpected(std::move(token.error()));
  join.token = std::move(*token);

  authority.remove_prefix(at + 1);
  if (authority.ends_with('/')) authority.remove_suffix(1);
  const auto server = io::parse_host_port(authority);
  if (!server || authority.starts_with(':') || server->port == 0 || !is_host(server->host))
    return wrong(fmt::format("has the server '{}', expected host:port with a port from 1 to 65535",
                             std::string(authority.substr(0, 260))));
  join.server = *server;

  if (question != std::string_view::npos) {
    if (auto read = read_query(text.substr(question + 1), join); !read) return std::unexpected(std::move(read.error()));
  }
  if (join.transport == Transport::quic && join.crypto != Crypto::tls)
    return wrong(fmt::format("has crypto {} with transport quic, which is always tls", to_string(join.crypto)));
  if (!join.pin.empty() && join.crypto != Crypto::tls)
    return wrong(fmt::format("has a pin with crypto {}, where no certificate is shown", to_string(join.crypto)));
  if (!join.psk.empty() && join.crypto != Crypto::chacha20) return wrong("has a psk without crypto chacha20");
  return join;
}

Result<Mapping> parse_mapping(std::string_view text) {
  const auto refuse = [&](std::string_view why) {
    return fail(
        ErrorKind::config,
        fmt::format("'{}' is no port mapping: {}; expected [NAME=]PORTS:[HOST:]PORT, as in 2222:127.0.0.1:22 or "
                    "web=8000-8005:192.168.1.5:8000",
                    text, why));
  };
  Mapping mapping;
  std::string_view rest = text;
  const std::size_t equals = rest.find('=');
  if (equals != std::string_view::npos && equals < rest.find(':')) {
    const std::string_view name = rest.substr(0, equals);
    const bool printable =
        std::ranges::all_of(name, [](char c) { return static_cast<unsigned char>(c) > 0x20 && c != 0x7f; });
    if (name.empty() || name.size() > 64 || !printable)
      return refuse("its name is not 1 to 64 characters without spaces");
    mapping.name = name;
    rest.remove_prefix(equals + 1);
  }
  const std::size_t colon = rest.find(':');
  if (colon == std::string_view::npos) return refuse("it has no local port");
  const std::string_view ports = rest.substr(0, colon), local = rest.substr(colon + 1);
  if (ports != "0") {
    mapping.ports = parse_port_range(ports);
    if (!mapping.ports)
      return refuse(fmt::format(
          "'{}' is not a port from 1 to 65535, a range with the lower first, or 0 (the server chooses)", ports));
  }
  if (const auto port = parse_integer(local)) {
    if (*port < 1 || *port > 65535) return refuse(fmt::format("'{}' is not a port from 1 to 65535", local));
    mapping.local = {"127.0.0.1", static_cast<std::uint16_t>(*port)};
  } else {
    const auto address = io::parse_host_port(local);
    if (!address || local.starts_with(':') || address->port == 0 || !is_host(address->host))
      return refuse(fmt::format("'{}' is not a local host:port", local));
    mapping.local = *address;
  }
  const unsigned more = mapping.ports ? static_cast<unsigned>(mapping.ports->last - mapping.ports->first) : 0U;
  if (mapping.local.port + more > 65535U)
    return refuse(fmt::format("{} ports counted up from local port {} end above 65535", more + 1, mapping.local.port));
  return mapping;
}

std::string format_mapping(const Mapping& mapping) {
  return fmt::format("{}{}{}:{}", mapping.name, mapping.name.empty() ? "" : "=", ports_text(mapping.ports),
                     mapping.local.to_string());
}

std::string client_yaml(const Join& join, std::span<const Mapping> mappings) {
  std::string out =
      fmt::format("server: {}\ntoken: {}\ntransport: {}\ncrypto: {}\n", yaml_scalar(join.server.to_string()),
                  yaml_scalar(join.token), to_string(join.transport), to_string(join.crypto));
  if (join.transport != Transport::quic) out += fmt::format("mux: {}\n", to_string(join.mux));
  if (!join.pin.empty()) out += fmt::format("tls:\n  pin: {}\n", yaml_scalar(join.pin));
  if (!join.psk.empty()) out += fmt::format("chacha20:\n  psk: {}\n", yaml_scalar(join.psk));
  out += "proxies:\n";
  for (const Mapping& mapping : mappings) {
    out += fmt::format("  - remote_port: {}\n    local_addr: {}\n", ports_text(mapping.ports),
                       yaml_scalar(mapping.local.to_string()));
    if (!mapping.name.empty()) out += fmt::format("    name: {}\n", yaml_scalar(mapping.name));
  }
  return out;
}

Loaded<ClientConfig> client_config(const Join& join, std::span<const Mapping> mappings) {
  const auto refuse = [](std::string what) {
    return std::unexpected(std::vector{Error{ErrorKind::config, "the command line: " + std::move(what)}});
  };
  if (mappings.empty()) return refuse("found no -p, expected what to open, as in -p 2222:127.0.0.1:22");
  std::set<unsigned> taken;
  for (const Mapping& mapping : mappings) {
    if (!mapping.ports) continue;
    for (unsigned port = mapping.ports->first; port <= mapping.ports->last; ++port)
      if (!taken.insert(port).second) return refuse(fmt::format("found the server's port {} in two -p", port));
  }
  return parse_client(client_yaml(join, mappings), "the command line");
}

std::string server_yaml(const ServerSetup& setup) {
  std::string out = fmt::format(
      "# Written by \"qtrp-server init\". docs/configuration.md has every key; after a change: qtrp-server -c "
      "THIS-FILE "
      "--check\n"
      "bind: {}\ntransport: {}\ncrypto: {}\nauth:\n  tokens:\n    # Whoever has a token may open ports here. More "
      "clients may share one, or have their own with limits.\n    - token: {}\n      name: first\n",
      yaml_scalar(setup.bind.to_string()), to_string(setup.transport), to_string(setup.crypto),
      yaml_scalar(setup.token));
  if (!setup.certificate.empty())
    out += fmt::format("tls:\n  cert: {}\n  key: {}\n", yaml_scalar(setup.certificate), yaml_scalar(setup.key));
  return out;
}

Result<Join> join_of(const ServerConfig& config, std::string_view token_name, const io::HostPort& address,
                     std::string pin) {
  const auto names = [&] {
    std::string list;
    for (const Token& token : config.tokens) list += (list.empty() ? "" : ", ") + token.name;
    return list;
  };
  const Token* chosen = nullptr;
  for (const Token& token : config.tokens)
    if (token.name == token_name || (token_name.empty() && config.tokens.size() == 1)) chosen = &token;
  if (!chosen) {
    return fail(ErrorKind::config,
                token_name.empty()
                    ? fmt::format("the server has several tokens, say for which one with --token-name: {}", names())
                    : fmt::format("the server has no token '{}', only: {}", token_name, names()));
  }
  Join join;
  join.server = address;
  join.token = chosen->token;
  join.transport = config.transport;
  join.crypto = config.crypto;
  if (config.transport != Transport::quic) join.mux = config.mux;
  if (config.crypto == Crypto::tls) join.pin = std::move(pin);
  if (config.crypto == Crypto::chacha20) join.psk = config.chacha20_psk;
  return join;
}

}  // namespace qtrp::config
