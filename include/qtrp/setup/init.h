// A server's first configuration, and the join string that its clients are given.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "qtrp/base/error.h"
#include "qtrp/config/join.h"

namespace qtrp::setup {

struct InitRequest {
  std::filesystem::path file;        ///< server.yaml; the certificate is made beside it
  std::string address;               ///< "HOST" or "HOST:PORT" under which clients reach the server; empty: found out
  std::optional<io::HostPort> bind;  ///< nothing: port 6000 of every address that this machine can have
  config::Transport transport = config::Transport::net;
  config::Crypto crypto = config::Crypto::tls;
  bool force = false;  ///< replace a file that is there; a certificate that is there is always kept
};
struct Initiated {
  config::Join join;
  std::filesystem::path certificate;  ///< empty unless crypto is tls
  bool certificate_kept = false;      ///< it was there already, so its pin is the one that clients may have
  std::string remark;                 ///< about the address, where it had to be guessed; else empty
};
/// Writes the file (mode 0600, atomically) with a fresh token of 192 random bits. Nothing is written on an error of
/// kind config.
Result<Initiated> init_server(const InitRequest& request);

/// For a server that is set up already: the join string of the token with this name (or the only one). `remark` as
/// above.
Result<Initiated> join_server(const config::ServerConfig& config, const std::string& token_name,
                              const std::string& address);

/// Under what address this machine is most likely reached from outside, by its interfaces alone; nobody is asked.
struct OwnAddress {
  std::string host;
  bool global = false;  ///< false: private, or only a name, so it may not work from elsewhere
};
OwnAddress own_address();

/// The word as a POSIX shell reads it back.
std::string shell_quoted(std::string_view text);

}  // namespace qtrp::setup
