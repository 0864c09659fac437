// Numbers of the tunnel on QUIC's wire (docs/protocol.md has the same table), and small conversions between ngtcp2's
// types and ours.
#pragma once

#include <ngtcp2/ngtcp2.h>

#include <cstdint>

#include "connection.h"
#include "qtrp/base/error.h"

namespace qtrp::quic {

constexpr std::byte kTunnelByte{
    0x00};  ///< first byte of the client's stream 0: DATA can't come first in HTTP/3 (RFC 9114, 4.1)
constexpr std::uint64_t kNoError = 0x100;         ///< H3_NO_ERROR: an orderly end
constexpr std::uint64_t kResetBase = 0x51540000;  ///< + session::ResetCode, in RESET_STREAM and STOP_SENDING
constexpr std::uint64_t kCloseBase = 0x51550000;  ///< + ErrorKind, in CONNECTION_CLOSE
constexpr std::size_t kServerIdLength = 16, kClientIdLength = 8;
constexpr std::uint64_t kFirstStreams = 100;  ///< bidirectional streams granted in the handshake, as browsers do
constexpr std::uint64_t kUnauthenticatedBytes = 64 << 10;
/// Of the connection's window in the handshake; the rest follows behind it. ngtcp2 tells its peer of new credit once
/// half of this was given back, so the peer may lack half of it, and no more, of what the connection may hold.
constexpr std::uint64_t kFirstBytes = 4 << 20;

inline std::uint64_t to_wire_kind(ErrorKind kind) {
  return kind == ErrorKind::closed ? kNoError : kCloseBase + static_cast<std::uint64_t>(kind);
}
inline ErrorKind kind_from_wire(std::uint64_t code) {
  if (code == kNoError) return ErrorKind::closed;
  if (code >= kCloseBase && code <= kCloseBase + static_cast<std::uint64_t>(ErrorKind::timeout))
    return static_cast<ErrorKind>(code - kCloseBase);
  return ErrorKind::protocol;
}

void random_nonce(std::uint8_t* out, std::size_t n);
/// Random, its first byte equal to `worker` modulo `workers`.
ngtcp2_cid make_identifier(unsigned worker, unsigned workers, std::size_t length);
ngtcp2_path to_ngtcp2(const Path& path);
Path from_ngtcp2(const ngtcp2_path& path);
Error peers_reason(const ngtcp2_ccerr& error);
const ngtcp2_callbacks& callbacks();

inline ConnectionId to_id(const ngtcp2_cid& id) {
  return {reinterpret_cast<const char*>(id.data), id.datalen};
}

}  // namespace qtrp::quic
