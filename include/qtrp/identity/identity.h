// Who we are and whom we trust: the certificate that is made on first start and kept, public-key pins, the client's
// instance id, and the state directory they live in.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "qtrp/base/bytes.h"
#include "qtrp/base/error.h"

namespace qtrp::identity {

/// `configured` if not empty, else $STATE_DIRECTORY (its first entry, systemd.exec(5)), else $XDG_STATE_HOME/qtrp, else
/// $HOME/.local/state/qtrp; nothing if none can be named.
std::optional<std::filesystem::path> state_directory(const std::string& configured);

/// An X.509 certificate with its private key, both PEM.
struct Certificate {
  std::string certificate_pem;  ///< may be a chain, leaf first
  std::string key_pem;
  std::string pin;   ///< "sha256:<64 hex digits>" of the leaf's SubjectPublicKeyInfo (DER), as RFC 7469 hashes it
  bool kept = true;  ///< false: made in memory only, the state directory could not be written
};
/// From the user's own files (tls.cert, tls.key).
Result<Certificate> load_certificate(const std::filesystem::path& certificate, const std::filesystem::path& key);
/// From the state directory (server.crt, server.key; mode 0600, directory 0700); made there (ECDSA P-256, self-signed,
/// 20 years, SAN "qtrp") if it is not there. Where that is impossible: in memory, with a warning in the log.
Result<Certificate> keep_certificate(const std::optional<std::filesystem::path>& directory);

/// Accepts "sha256:<hex>", bare hex, or "sha256//<base64>" (curl's form); gives the 32 bytes.
Result<std::array<std::byte, 32>> parse_pin(std::string_view text);
std::string format_pin(Bytes sha256);
/// What follows in a message about a pin that differs.
inline constexpr std::string_view pin_advice =
    "; if the server has a new certificate, take its pin from the server's log or `qtrp-server join`, else somebody is "
    "in between";

using InstanceId = std::array<std::byte, 16>;
/// The client's id, kept in the state directory (file `instance`), made at random on first start; random and not kept
/// where that is impossible.
InstanceId keep_instance_id(const std::optional<std::filesystem::path>& directory);

/// What a client checks of the server's certificate, besides the proof that is always checked.
struct ServerChecks {
  std::string ca_file;  ///< PEM bundle; empty: any certificate (the channel-bound proof protects)
  std::vector<std::array<std::byte, 32>> pins;  ///< any of them must match; empty: no pin check
  std::string server_name;                      ///< SNI, and with ca_file the name that must match
};

/// Cryptographic randomness.
void random_bytes(MutableBytes out);
std::string to_hex(Bytes bytes);

}  // namespace qtrp::identity
