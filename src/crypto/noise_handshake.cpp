// Noise_NNpsk0_25519_ChaChaPoly_BLAKE2b on libsodium's X25519 and BLAKE2b.
#include "crypto/noise_handshake.h"

#include "qtrp/identity/identity.h"

namespace qtrp::crypto {
namespace {

constexpr std::string_view kProtocolName = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2b";
static_assert(kProtocolName.size() <= kHashBytes);  // so it is padded with zeros, not hashed (Noise, section 5.2)
constexpr std::size_t kBlockBytes = 128;            // BLOCKLEN of BLAKE2b

using Hash = std::array<std::byte, kHashBytes>;

unsigned char* raw(std::byte* bytes) {
  return reinterpret_cast<unsigned char*>(bytes);
}
const unsigned char* raw(const std::byte* bytes) {
  return reinterpret_cast<const unsigned char*>(bytes);
}

/// BLAKE2b-512 of parts one after another.
class Blake2b {
 public:
  Blake2b() { crypto_generichash_blake2b_init(&state_, nullptr, 0, kHashBytes); }
  ~Blake2b() { sodium_memzero(&state_, sizeof state_); }
  Blake2b(const Blake2b&) = delete;
  Blake2b& operator=(const Blake2b&) = delete;
  Blake2b& add(Bytes part) {
    crypto_generichash_blake2b_update(&state_, raw(part.data()), part.size());
    return *this;
  }
  void finish(std::span<std::byte, kHashBytes> out) {
    crypto_generichash_blake2b_final(&state_, raw(out.data()), kHashBytes);
  }

 private:
  crypto_generichash_blake2b_state state_;
};

/// HMAC (RFC 2104) over BLAKE2b-512 of `first` and then `second`; the key is at most a block long.
void hmac(Bytes key, Bytes first, Bytes second, std::span<std::byte, kHashBytes> out) {
  Secret<kBlockBytes> inner;
  Secret<kBlockBytes> outer;
  std::ranges::copy(key, inner.data());
  std::ranges::copy(key, outer.data());
  for (std::size_t i = 0; i < kBlockBytes; ++i) {
    inner.data()[i] ^= std::byte{0x36};
    outer.data()[i] ^= std::byte{0x5c};
  }
  Secret<kHashBytes> middle;
  Blake2b().add(inner.span()).add(first).add(second).finish(middle.span());
  Blake2b().add(outer.span()).add(middle.span()).finish(out);
}

/// Noise's HKDF (section 4.3): `outputs` hashes from a chaining key and input key material.
template <std::size_t N>
std::array<Secret<kHashBytes>, N> hkdf(const Secret<kHashBytes>& chaining_key, Bytes input) {
  Secret<kHashBytes> temporary;
  hmac(chaining_key.span(), input, {}, temporary.span());
  std::array<Secret<kHashBytes>, N> outputs;
  Bytes previous;
  for (std::size_t i = 0; i < N; ++i) {
    const std::array<std::byte, 1> number{static_cast<std::byte>(i + 1)};
    hmac(temporary.span(), previous, number, outputs[i].span());
    previous = outputs[i].span();
  }
  return outputs;
}

}  // namespace

NoiseSymmetricState::NoiseSymmetricState() {
  std::ranges::copy(as_bytes(kProtocolName), hash_.begin());
  chaining_key_ = Secret<kHashBytes>(hash_);
}

void NoiseSymmetricState::mix_key(Bytes input) {
  const auto outputs = hkdf<2>(chaining_key_, input);
  chaining_key_ = outputs[0];
  key_ = Secret<kKeyBytes>(outputs[1].span().first<kKeyBytes>());
  nonce_ = 0;
}

void NoiseSymmetricState::mix_hash(Bytes data) {
  Blake2b().add(hash_).add(data).finish(hash_);
}

void NoiseSymmetricState::mix_key_and_hash(Bytes input) {
  const auto outputs = hkdf<3>(chaining_key_, input);
  chaining_key_ = outputs[0];
  mix_hash(outputs[1].span());
  key_ = Secret<kKeyBytes>(outputs[2].span().first<kKeyBytes>());
  nonce_ = 0;
}

Result<void> NoiseSymmetricState::encrypt_and_hash(Bytes plain, std::vector<std::byte>& message) {
  auto cipher = ChaChaPoly::create(key_.span(), true);
  if (!cipher) return std::unexpected(std::move(cipher.error()));
  cipher->set_nonce(nonce_);
  const std::size_t begin = message.size();
  message.insert(message.end(), plain.begin(), plain.end());
  message.resize(message.size() + kTagBytes);
  const MutableBytes text = MutableBytes(message).subspan(begin, plain.size());
  auto sealed = cipher->seal(text, MutableBytes(message).last<kTagBytes>(), hash_);
  if (!sealed) return sealed;
  nonce_ = cipher->nonce();
  mix_hash(Bytes(message).subspan(begin));
  return {};
}

Result<void> NoiseSymmetricState::decrypt_and_hash(Bytes cipher_text, std::vector<std::byte>& payload) {
  if (cipher_text.size() < kTagBytes) return fail(ErrorKind::crypto, "a handshake message is too short");
  auto cipher = ChaChaPoly::create(key_.span(), false);
  if (!cipher) return std::unexpected(std::move(cipher.error()));
  cipher->set_nonce(nonce_);
  const Bytes text = cipher_text.first(cipher_text.size() - kTagBytes);
  const std::size_t begin = payload.size();
  payload.insert(payload.end(), text.begin(), text.end());
  auto opened = cipher->open(MutableBytes(payload).subspan(begin), cipher_text.last<kTagBytes>(), hash_);
  if (!opened) return opened;
  nonce_ = cipher->nonce();
  mix_hash(cipher_text);
  return {};
}

std::pair<Secret<kKeyBytes>, Secret<kKeyBytes>> NoiseSymmetricState::split() const {
  const auto outputs = hkdf<2>(chaining_key_, {});
  return {Secret<kKeyBytes>(outputs[0].span().first<kKeyBytes>()),
          Secret<kKeyBytes>(outputs[1].span().first<kKeyBytes>())};
}

NoiseHandshake::NoiseHandshake(Role role, Bytes prologue, std::span<const std::byte, kKeyBytes> psk,
                               std::optional<Secret<kKeyBytes>> ephemeral)
    : role_(role), psk_(psk) {
  if (ephemeral) {
    ephemeral_ = *ephemeral;
  } else {
    identity::random_bytes(ephemeral_.span());
  }
  state_.mix_hash(prologue);
}

Result<void> NoiseHandshake::mix_ee() {
  Secret<kKeyBytes> shared;
  if (crypto_scalarmult_curve25519(raw(shared.data()), raw(ephemeral_.data()), raw(peer_ephemeral_.data())) != 0) {
    return fail(ErrorKind::crypto, "the peer sent a key of low order");
  }
  state_.mix_key(shared.span());
  ephemeral_.wipe();
  return {};
}

Result<std::vector<std::byte>> NoiseHandshake::write(Bytes payload) {
  const int turn = role_ == Role::initiator ? 0 : 1;
  if (messages_ != turn) return fail(ErrorKind::crypto, "a handshake message out of turn");
  if (turn == 0) state_.mix_key_and_hash(psk_.span());
  std::vector<std::byte> message(kKeyBytes);
  crypto_scalarmult_curve25519_base(raw(message.data()), raw(ephemeral_.data()));
  const auto own_ephemeral = message;
  state_.mix_hash(own_ephemeral);
  state_.mix_key(own_ephemeral);  // "e" in a PSK handshake (Noise, section 9.2)
  if (turn == 1) {
    if (auto mixed = mix_ee(); !mixed) return std::unexpected(std::move(mixed.error()));
  }
  if (auto sealed = state_.encrypt_and_hash(payload, message); !sealed)
    return std::unexpected(std::move(sealed.error()));
  ++messages_;
  return message;
}

Result<std::vector<std::byte>> NoiseHandshake::read(Bytes message) {
  const int turn = role_ == Role::initiator ? 1 : 0;
  if (messages_ != turn) return fail(ErrorKind::crypto, "a handshake message out of turn");
  if (message.size() < kHandshakeOverhead) return fail(ErrorKind::crypto, "a handshake message is too short");
  if (turn == 0) state_.mix_key_and_hash(psk_.span());
  std::ranges::copy(message.first(kKeyBytes), peer_ephemeral_.begin());
  state_.mix_hash(peer_ephemeral_);
  state_.mix_key(peer_ephemeral_);
  if (turn == 1) {
    if (auto mixed = mix_ee(); !mixed) return std::unexpected(std::move(mixed.error()));
  }
  std::vector<std::byte> payload;
  if (auto opened = state_.decrypt_and_hash(message.subspan(kKeyBytes), payload); !opened) {
    return std::unexpected(std::move(opened.error()));
  }
  ++messages_;
  return payload;
}

Result<NoiseHandshake::Ciphers> NoiseHandshake::split() const {
  const auto [initiators, responders] = state_.split();
  const bool initiator = role_ == Role::initiator;
  auto send = ChaChaPoly::create((initiator ? initiators : responders).span(), true);
  if (!send) return std::unexpected(std::move(send.error()));
  auto receive = ChaChaPoly::create((initiator ? responders : initiators).span(), false);
  if (!receive) return std::unexpected(std::move(receive.error()));
  return Ciphers{std::move(*send), std::move(*receive)};
}

}  // namespace qtrp::crypto
