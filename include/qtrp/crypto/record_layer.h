// The record layer of a tunnel over a byte stream: none, tls (TLS 1.3, OpenSSL) or chacha20
// (Noise_NNpsk0_25519_ChaChaPoly_BLAKE2b). A state machine without I/O: wire bytes go in and plaintext comes out,
// plaintext goes in and wire bytes come out. It owns no socket and reads no clock. One object a tunnel; not
// thread-safe.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "qtrp/base/bytes.h"
#include "qtrp/base/error.h"

namespace qtrp::crypto {

/// What seal() needs around the plaintext it is given.
struct Rooms {
  std::size_t head = 0;       ///< bytes free before the plaintext
  std::size_t tail = 0;       ///< bytes free after it
  std::size_t max_plain = 0;  ///< most plaintext bytes for one seal()
};

class RecordLayer {
 public:
  virtual ~RecordLayer() = default;

  /// Begins the handshake (the client side emits its first message). Call once, before anything else; then take
  /// output().
  virtual Result<void> start() = 0;

  struct Opened {
    std::size_t consumed = 0;  ///< wire bytes used up, from the front of `wire`
    MutableBytes plain;        ///< plaintext; points into `wire` or into the layer; valid until the next call of open()
  };
  /// Takes wire bytes, handshake messages as well as records. Call again with the rest as long as `consumed` > 0 or
  /// plaintext came; with consumed == 0 and no plaintext more wire bytes are needed (keep the rest, put new ones behind
  /// it; at most 64 KiB + 2 are ever kept). May decrypt in place, so `wire` is clobbered up to `consumed`. After each
  /// call look at output(). An error is final.
  virtual Result<Opened> open(MutableBytes wire) = 0;

  /// Bytes that the layer itself wants to send (handshake, alerts, key updates). Send them, in order with what seal()
  /// returns, then clear_output(). Never empty output between a seal() and the next: what comes first must be sent
  /// first.
  virtual Bytes output() const = 0;
  virtual void clear_output() = 0;

  virtual Rooms rooms() const = 0;
  /// Seals one piece of plaintext. `buffer` is [head room][plain][tail room], so its size is head + plain + tail. The
  /// result is the wire bytes: inside `buffer` (none, chacha20) or in the layer's own memory (tls: valid until the next
  /// seal()). Only after established().
  virtual Result<Bytes> seal(MutableBytes buffer) = 0;

  /// True once application plaintext may be sealed.
  virtual bool established() const = 0;
  /// Bytes that both ends share and that no man in the middle can make equal on his two sides: the TLS exporter (RFC
  /// 9266 "EXPORTER-Channel-Binding", 32 bytes), Noise's handshake hash (64 bytes), empty for none. Only after
  /// established().
  virtual Bytes channel_binding() const = 0;
  /// Queues the layer's goodbye (TLS close_notify) into output(); nothing may be sealed afterwards.
  virtual void close() = 0;
  /// True if plaintext is the wire bytes, so that payload may bypass the layer.
  virtual bool transparent() const { return false; }
  /// For logs and statistics: "none", "tls TLS_AES_128_GCM_SHA256", "chacha20".
  virtual std::string describe() const = 0;
};

std::unique_ptr<RecordLayer> make_none();

}  // namespace qtrp::crypto
