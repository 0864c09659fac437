// Control messages: a 4-byte big-endian length (64 KiB at most) and a msgpack map each. Unknown keys are ignored, so
// that later versions may add some; an unknown type decodes to Unknown. docs/protocol.md has every key.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "qtrp/base/bytes.h"
#include "qtrp/base/error.h"

namespace qtrp::protocol {

inline constexpr std::size_t kMaxMessage = 64 << 10;  ///< bytes of msgpack after the length

using Id16 = std::array<std::byte, 16>;
using Nonce = std::array<std::byte, 32>;
using Mac = std::array<std::byte, 32>;  ///< HMAC-SHA256

/// What the client says of itself. Travels as an opaque byte string inside Auth, so that the proof covers exactly the
/// bytes sent.
struct AuthBody {
  std::uint32_t version = 1;
  Id16 instance{};           ///< kept by the client across restarts: who may take over whose ports
  Id16 run{};                ///< random for each start of the client: tunnels with the same run share their proxies
  std::uint32_t tunnel = 0;  ///< which of the client's tunnels, from 0
  std::string name;
  std::int64_t timestamp = 0;  ///< ms since 1970, UTC
  Nonce nonce{};
  std::vector<std::string> features;
  bool operator==(const AuthBody&) const = default;
};
struct Auth {
  std::vector<std::byte> body;  ///< encoded AuthBody
  Mac hmac{};
  bool operator==(const Auth&) const = default;
};
struct AuthRespBody {
  bool ok = false;
  std::string error;  ///< "denied", where not ok
  Id16 session{};
  Nonce nonce{};
  std::int64_t time = 0;  ///< the server's, ms since 1970, UTC
  std::vector<std::string> features;
  bool operator==(const AuthRespBody&) const = default;
};
struct AuthResp {
  std::vector<std::byte> body;  ///< encoded AuthRespBody
  Mac hmac{};                   ///< zero where denied: a server proves itself only to who has proved himself
  bool operator==(const AuthResp&) const = default;
};
struct NewProxy {
  std::uint32_t id = 0;  ///< the client's number for it, the same in all its tunnels
  std::string name;
  std::string type = "tcp";
  std::string bind;        ///< the server's address to listen on, a literal; empty: where its `bind` is
  std::uint16_t port = 0;  ///< 0: the server chooses
  bool operator==(const NewProxy&) const = default;
};
struct ProxyResp {
  std::uint32_t id = 0;
  std::string code = "ok";  ///< ok, port_in_use, port_not_allowed, address_not_available, permission_denied,
                            ///< too_many_proxies, bad_request
  std::string text;
  std::uint16_t port = 0;
  bool operator==(const ProxyResp&) const = default;
};
struct NewConn {
  std::uint32_t proxy = 0;
  std::uint64_t connection = 0;
  std::string user;         ///< "203.0.113.9:51234"
  std::string destination;  ///< the address the user came to
  bool operator==(const NewConn&) const = default;
};
struct CloseProxy {
  std::uint32_t id = 0;
  bool operator==(const CloseProxy&) const = default;
};
struct Ping {
  std::int64_t timestamp = 0;  ///< the sender's clock, ms; echoed
  bool operator==(const Ping&) const = default;
};
struct Pong {
  std::int64_t timestamp = 0;
  bool operator==(const Pong&) const = default;
};
struct Goodbye {
  std::string reason;
  bool operator==(const Goodbye&) const = default;
};
/// Answer to a message that could not be acted on.
struct ErrorMessage {
  std::string text;
  bool operator==(const ErrorMessage&) const = default;
};
/// A type that this version does not know.
struct Unknown {
  std::string type;
  bool operator==(const Unknown&) const = default;
};
using Message =
    std::variant<Auth, AuthResp, NewProxy, ProxyResp, NewConn, CloseProxy, Ping, Pong, Goodbye, ErrorMessage, Unknown>;

/// With the length in front, ready to send.
std::vector<std::byte> encode(const Message& message);
/// `payload` without the length. Fails (protocol) on anything that is not one whole, well-formed, small map with the
/// keys its type needs.
Result<Message> decode(Bytes payload);

std::vector<std::byte> encode_body(const AuthBody& body);
std::vector<std::byte> encode_body(const AuthRespBody& body);
Result<AuthBody> decode_auth_body(Bytes bytes);
Result<AuthRespBody> decode_auth_resp_body(Bytes bytes);

/// Cuts a stream's bytes into messages.
class MessageReader {
 public:
  /// Takes bytes from the front of `input`, which shrinks; returns the next message once it is whole, nothing when more
  /// bytes are needed. Fails (protocol) for a length over kMaxMessage or a message that does not decode; nothing may be
  /// read after that.
  Result<std::optional<Message>> next(Bytes& input);
  bool mid_message() const { return !buffer_.empty(); }

 private:
  std::vector<std::byte> buffer_;  // length and payload of a message that came in pieces
};

}  // namespace qtrp::protocol
