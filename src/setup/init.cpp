#include "qtrp/setup/init.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>

#include "qtrp/identity/identity.h"
#include "setup/files.h"

namespace qtrp::setup {
namespace {

constexpr std::uint16_t default_port = 6000;

/// "[::]" where this machine has IPv6 at all (it takes IPv4 as well), else "0.0.0.0".
io::HostPort every_address() {
  const int fd = ::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  bool works = false;
  if (fd >= 0) {
    const auto any = io::Endpoint::from_literal("::", 0);
    works = any && ::bind(fd, any->data(), any->size()) == 0;
    ::close(fd);
  }
  return {works ? "::" : "0.0.0.0", default_port};
}

/// `given` ("HOST" or "HOST:PORT"), else where the server listens, else what this machine's interfaces say.
Result<io::HostPort> reachable_at(const std::string& given, const io::HostPort& bind, std::string& remark) {
  if (!given.empty()) {
    const bool bare_v6 = given.find(':') != given.rfind(':') && !given.starts_with('[');
    const std::string text = bare_v6 ? "[" + given + "]" : given;
    const bool has_port =
        text.starts_with('[') ? text.find("]:") != std::string::npos : text.find(':') != std::string::npos;
    auto address = io::parse_host_port(has_port ? text : fmt::format("{}:{}", text, bind.port));
    // The join string's own rules for a server.
    if (!address || given.starts_with(':') ||
        !config::parse_join(config::format_join({.server = *address, .token = "x", .pin = "", .psk = ""}))) {
      return fail(ErrorKind::config,
                  fmt::format("--address '{}' is none, expected a name, an IP address, or either with "
                              ":PORT, as in vps.example.com or '[2001:db8::1]:6000'",
                              given));
    }
    return *address;
  }
  if (bind.host != "::" && bind.host != "0.0.0.0") return bind;
  const OwnAddress own = own_address();
  if (!own.global) {
    remark = fmt::format(
        "{} is the best address that this machine knows of itself, and the internet may not reach it: if so, put the "
        "public name or address in its place (or run this again with --address)",
        own.host);
  }
  return io::HostPort{own.host, bind.port};
}

std::string fresh_token() {
  std::array<std::byte, 24> bytes;
  identity::random_bytes(bytes);
  return identity::to_hex(bytes);
}

}  // namespace

Result<Initiated> init_server(const InitRequest& request) {
  std::error_code error;
  if (!request.force && std::filesystem::exists(std::filesystem::symlink_status(request.file, error))) {
    return fail(
        ErrorKind::config,
        fmt::format("{0} is there already and stays as it is. To show its join string: qtrp-server join -c {0}. "
                    "To replace it, with a new token for every client: --force",
                    request.file.string()));
  }
  if (request.transport == config::Transport::quic && request.crypto != config::Crypto::tls)
    return fail(ErrorKind::config, "transport quic is always encrypted by tls: leave --crypto away");
  Initiated done;
  const io::HostPort bind = request.bind.value_or(every_address());
  if (bind.port == 0) return fail(ErrorKind::config, "--bind needs a port that clients can be told, not 0");
  auto address = reachable_at(request.address, bind, done.remark);
  if (!address) return std::unexpected(std::move(address.error()));

  config::ServerSetup setup{.bind = bind,
                            .token = fresh_token(),
                            .transport = request.transport,
                            .crypto = request.crypto,
                            .certificate = "",
                            .key = ""};
  done.join = {.server = *address,
               .token = setup.token,
               .transport = request.transport,
               .crypto = request.crypto,
               .pin = "",
               .psk = ""};
  const std::filesystem::path directory = std::filesystem::absolute(request.file).parent_path();
  if (auto made = make_directories(directory); !made) return std::unexpected(std::move(made.error()));
  if (request.crypto == config::Crypto::tls) {
    // Beside the file, by relative names: the three can be moved together.
    done.certificate = directory / "server.crt";
    done.certificate_kept = std::filesystem::exists(directory / "server.key", error);
    auto certificate = identity::keep_certificate(directory);
    if (!certificate) return std::unexpected(std::move(certificate.error()));
    if (!certificate->kept)
      return fail(ErrorKind::system, fmt::format("the certificate can't be written into {}", directory.string()));
    done.join.pin = certificate->pin;
    setup.certificate = "server.crt";
    setup.key = "server.key";
  }
  if (auto written = write_whole(request.file, config::server_yaml(setup), 0600, static_cast<gid_t>(-1)); !written)
    return std::unexpected(std::move(written.error()));
  return done;
}

Result<Initiated> join_server(const config::ServerConfig& config, const std::string& token_name,
                              const std::string& address) {
  Initiated done;
  auto at = reachable_at(address, config.bind, done.remark);
  if (!at) return std::unexpected(std::move(at.error()));
  std::string pin;
  if (config.crypto == config::Crypto::tls) {
    auto certificate = config.tls.cert.empty() ? identity::keep_certificate(identity::state_directory(config.state_dir))
                                               : identity::load_certificate(config.tls.cert, config.tls.key);
    if (!certificate) return std::unexpected(std::move(certificate.error()));
    if (certificate->kept) pin = certificate->pin;
  }
  auto join = config::join_of(config, token_name, *at, pin);
  if (!join) return std::unexpected(std::move(join.error()));
  done.join = std::move(*join);
  return done;
}

std::string shell_quoted(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'')
      out += "'\\''";
    else
      out += c;
  }
  return out + "'";
}

}  // namespace qtrp::setup
