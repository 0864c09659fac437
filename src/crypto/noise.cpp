// The record layer of `crypto: chacha20`: lengths, the key hint, and records around the Noise handshake.
//   client: hint (8) | length (2) | message 1 (48)     server: length (2) | message 2 (48)
//   then both: length (2) | ciphertext (0 to 65519) | tag (16); an empty record is the goodbye
#include "qtrp/crypto/noise.h"

#include <fmt/format.h>
#include <sodium.h>

#include "crypto/foreign.h"
#include "crypto/noise_handshake.h"

namespace qtrp::crypto {
namespace {

constexpr std::string_view kPrologue = "qtrp 1";  // label and version of what is spoken around Noise
constexpr std::size_t kLengthBytes = 2;
constexpr std::size_t kHintBytes = 8;
constexpr std::size_t kLongestMessage = 65535;  // Noise, section 3
constexpr std::size_t kMaxPlain = kLongestMessage - kTagBytes;

using Hint = std::array<std::byte, kHintBytes>;

unsigned char* raw(std::byte* bytes) {
  return reinterpret_cast<unsigned char*>(bytes);
}
const unsigned char* raw(const std::byte* bytes) {
  return reinterpret_cast<const unsigned char*>(bytes);
}

/// BLAKE2b with an 8-byte digest (RFC 7693) of the client's ephemeral public key, keyed.
Result<Hint> make_hint(const NoiseKey& key, Bytes ephemeral) {
  Hint hint;
  if (crypto_generichash_blake2b(raw(hint.data()), hint.size(), raw(ephemeral.data()), ephemeral.size(),
                                 raw(key.hint.data()), key.hint.size()) != 0) {
    return fail(ErrorKind::crypto, "BLAKE2b failed in libsodium");
  }
  return hint;
}

/// What client and server share: everything after the handshake's own messages.
class NoiseLayer : public RecordLayer {
 public:
  Result<Opened> open(MutableBytes wire) final {
    if (error_) return std::unexpected(*error_);
    auto opened = ciphers_ ? open_record(wire) : open_handshake(wire);
    if (!opened) error_ = opened.error();
    return opened;
  }

  Bytes output() const final { return output_; }
  void clear_output() final {
    output_.clear();
    if (output_.capacity() > 256) output_.shrink_to_fit();
  }

  Rooms rooms() const final { return {kLengthBytes, kTagBytes, kMaxPlain}; }

  Result<Bytes> seal(MutableBytes buffer) final {
    if (closed_) return fail(ErrorKind::closed, "sealing after close");
    if (!ciphers_) return fail(ErrorKind::crypto, "sealing before the handshake is done");
    if (buffer.size() < kLengthBytes + kTagBytes || buffer.size() > kLengthBytes + kLongestMessage) {
      return fail(ErrorKind::limit, fmt::format("a record of {} bytes cannot be sealed", buffer.size()));
    }
    // No plaintext: no record, since an empty one is the goodbye.
    if (buffer.size() == kLengthBytes + kTagBytes) return Bytes();
    return seal_record(buffer);
  }

  bool established() const final { return ciphers_.has_value(); }
  Bytes channel_binding() const final { return ciphers_ ? Bytes(binding_) : Bytes(); }

  void close() final {
    if (closed_) return;
    closed_ = true;
    if (!ciphers_ || error_) return;
    std::array<std::byte, kLengthBytes + kTagBytes> goodbye;
    if (const auto sealed = seal_record(goodbye)) output_.insert(output_.end(), sealed->begin(), sealed->end());
  }
  std::string describe() const final { return "chacha20"; }

 protected:
  virtual Result<Opened> open_handshake(MutableBytes wire) = 0;

  /// Queues a handshake message behind its length.
  void send_message(Bytes message) {
    std::array<std::byte, kLengthBytes> length;
    store_be(length.data(), static_cast<std::uint16_t>(message.size()));
    send(length);
    send(message);
  }
  void send(Bytes bytes) { output_.insert(output_.end(), bytes.begin(), bytes.end()); }

  Result<void> finish(const NoiseHandshake& handshake) {
    auto ciphers = handshake.split();
    if (!ciphers) return std::unexpected(std::move(ciphers.error()));
    ciphers_ = std::move(*ciphers);
    binding_ = handshake.hash();
    return {};
  }

 private:
  Result<Opened> open_record(MutableBytes wire) {
    if (wire.size() < kLengthBytes) return Opened{};
    const std::size_t length = load_be<std::uint16_t>(wire.data());
    if (length < kTagBytes) return fail(ErrorKind::crypto, fmt::format("a record of {} bytes is too short", length));
    if (wire.size() < kLengthBytes + length) return Opened{};
    const MutableBytes plain = wire.subspan(kLengthBytes, length - kTagBytes);
    const auto tag = Bytes(wire).subspan(kLengthBytes + plain.size()).first<kTagBytes>();
    if (auto opened = ciphers_->receive.open(plain, tag); !opened) return std::unexpected(std::move(opened.error()));
    if (plain.empty()) return fail(ErrorKind::closed, "the peer closed the tunnel");
    return Opened{kLengthBytes + length, plain};
  }

  Result<Bytes> seal_record(MutableBytes buffer) {
    const MutableBytes plain = buffer.subspan(kLengthBytes, buffer.size() - kLengthBytes - kTagBytes);
    store_be(buffer.data(), static_cast<std::uint16_t>(plain.size() + kTagBytes));
    if (auto sealed = ciphers_->send.seal(plain, buffer.last<kTagBytes>()); !sealed) {
      return std::unexpected(std::move(sealed.error()));
    }
    return Bytes(buffer);
  }

  std::optional<NoiseHandshake::Ciphers> ciphers_;
  std::array<std::byte, kHashBytes> binding_{};
  std::vector<std::byte> output_;
  std::optional<Error> error_;
  bool closed_ = false;
};

class NoiseClient final : public NoiseLayer {
 public:
  explicit NoiseClient(const NoiseKey& key)
      : hint_key_(key), handshake_(std::in_place, NoiseHandshake::Role::initiator, as_bytes(kPrologue), key.psk) {}
  ~NoiseClient() override { sodium_memzero(&hint_key_, sizeof hint_key_); }

  Result<void> start() override {
    const auto message = handshake_->write({});
    if (!message) return std::unexpected(message.error());
    const auto hint = make_hint(hint_key_, Bytes(*message).first(kKeyBytes));
    if (!hint) return std::unexpected(hint.error());
    send(*hint);
    send_message(*message);
    return {};
  }

 private:
  Result<Opened> open_handshake(MutableBytes wire) override {
    if (wire.size() < kLengthBytes) return Opened{};
    if (load_be<std::uint16_t>(wire.data()) != kHandshakeOverhead) {
      return fail(ErrorKind::crypto, "the server does not speak crypto: chacha20 (" + describe_foreign(wire) + ")");
    }
    if (wire.size() < kLengthBytes + kHandshakeOverhead) return Opened{};
    if (!handshake_->read(wire.subspan(kLengthBytes, kHandshakeOverhead))) {
      return fail(ErrorKind::crypto,
                  "the server's handshake does not authenticate (another token or chacha20.psk on its side?)");
    }
    if (auto finished = finish(*handshake_); !finished) return std::unexpected(std::move(finished.error()));
    handshake_.reset();
    return Opened{kLengthBytes + kHandshakeOverhead, {}};
  }

  NoiseKey hint_key_;
  std::optional<NoiseHandshake> handshake_;
};

class NoiseServer final : public NoiseLayer {
 public:
  explicit NoiseServer(std::shared_ptr<const std::vector<NoiseKey>> keys) : keys_(std::move(keys)) {}

  Result<void> start() override { return {}; }

 private:
  Result<Opened> open_handshake(MutableBytes wire) override {
    constexpr std::size_t kBefore = kHintBytes + kLengthBytes;
    if (wire.size() < kBefore) return Opened{};
    if (load_be<std::uint16_t>(wire.data() + kHintBytes) != kHandshakeOverhead) {
      return fail(ErrorKind::crypto, "the peer does not speak crypto: chacha20 (" + describe_foreign(wire) + ")");
    }
    if (wire.size() < kBefore + kHandshakeOverhead) return Opened{};
    const Bytes message = wire.subspan(kBefore, kHandshakeOverhead);

    auto key = find_key(wire.first(kHintBytes), message.first(kKeyBytes));
    if (!key) return std::unexpected(std::move(key.error()));
    NoiseHandshake handshake(NoiseHandshake::Role::responder, as_bytes(kPrologue), (*key)->psk);
    if (!handshake.read(message)) return fail(ErrorKind::crypto, "the peer's handshake does not authenticate");
    const auto answer = handshake.write({});
    if (!answer) return std::unexpected(answer.error());
    send_message(*answer);
    if (auto finished = finish(handshake); !finished) return std::unexpected(std::move(finished.error()));
    keys_.reset();
    return Opened{kBefore + kHandshakeOverhead, {}};
  }

  /// Looks at every key, whichever fits, and compares in constant time.
  Result<const NoiseKey*> find_key(Bytes hint, Bytes ephemeral) const {
    const NoiseKey* found = nullptr;
    for (const NoiseKey& key : *keys_) {
      const auto own = make_hint(key, ephemeral);
      if (!own) return std::unexpected(own.error());
      if (sodium_memcmp(own->data(), hint.data(), kHintBytes) == 0) found = &key;
    }
    if (found != nullptr) return found;
    return fail(ErrorKind::denied,
                "no token here fits the peer's (it has another token or chacha20.psk, or speaks no QTRP)");
  }

  std::shared_ptr<const std::vector<NoiseKey>> keys_;
};

std::array<std::byte, 32> derive(std::string_view secret, std::string_view personal) {
  std::array<std::byte, 32> key;
  std::array<std::byte, crypto_generichash_blake2b_PERSONALBYTES> padded{};
  std::ranges::copy(as_bytes(personal), padded.begin());
  crypto_generichash_blake2b_salt_personal(raw(key.data()), key.size(), raw(as_bytes(secret).data()), secret.size(),
                                           nullptr, 0, nullptr, raw(padded.data()));
  return key;
}

}  // namespace

NoiseKey derive_noise_key(std::string_view secret) {
  return {derive(secret, "qtrp-psk"), derive(secret, "qtrp-hint")};
}

std::unique_ptr<RecordLayer> make_noise_client(const NoiseKey& key) {
  return std::make_unique<NoiseClient>(key);
}

std::unique_ptr<RecordLayer> make_noise_server(std::shared_ptr<const std::vector<NoiseKey>> keys) {
  return std::make_unique<NoiseServer>(std::move(keys));
}

}  // namespace qtrp::crypto
