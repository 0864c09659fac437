#include "qtrp/protocol/proof.h"

#include <sodium.h>

#include <algorithm>

namespace qtrp::protocol {
namespace {

static_assert(sizeof(Mac) == crypto_auth_hmacsha256_BYTES);

class Hmac {
 public:
  explicit Hmac(std::string_view key) {
    crypto_auth_hmacsha256_init(&state_, reinterpret_cast<const unsigned char*>(key.data()), key.size());
  }
  ~Hmac() { sodium_memzero(&state_, sizeof state_); }
  Hmac(const Hmac&) = delete;
  Hmac& operator=(const Hmac&) = delete;
  // The length in front keeps the parts apart: no two different lists of parts give the same input.
  Hmac& part(Bytes bytes) {
    std::byte length[4];
    store_be<std::uint32_t>(length, static_cast<std::uint32_t>(bytes.size()));
    crypto_auth_hmacsha256_update(&state_, reinterpret_cast<const unsigned char*>(length), sizeof length);
    crypto_auth_hmacsha256_update(&state_, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
    return *this;
  }
  Mac end() {
    Mac mac;
    crypto_auth_hmacsha256_final(&state_, reinterpret_cast<unsigned char*>(mac.data()));
    return mac;
  }

 private:
  crypto_auth_hmacsha256_state state_;
};

}  // namespace

Mac client_proof(std::string_view token, Bytes channel_binding, Bytes client_preface, Bytes auth_body) {
  return Hmac(token)
      .part(as_bytes("qtrp client proof"))
      .part(channel_binding)
      .part(client_preface)
      .part(auth_body)
      .end();
}

Mac server_proof(std::string_view token, Bytes channel_binding, Bytes client_preface, Bytes server_preface,
                 const Mac& proof, Bytes auth_resp_body) {
  return Hmac(token)
      .part(as_bytes("qtrp server proof"))
      .part(channel_binding)
      .part(client_preface)
      .part(server_preface)
      .part(proof)
      .part(auth_resp_body)
      .end();
}

bool equal(const Mac& a, const Mac& b) {
  return sodium_memcmp(a.data(), b.data(), a.size()) == 0;
}

std::int64_t clock_difference(std::int64_t theirs, std::int64_t ours) {
  std::int64_t difference = 0;
  if (__builtin_sub_overflow(theirs, ours, &difference)) return theirs < ours ? -INT64_MAX : INT64_MAX;
  return std::max(difference, -INT64_MAX);
}

bool NonceMemory::first_time(const Nonce& nonce, TimePoint now) {
  while (!order_.empty() && order_.front().first <= now) {
    seen_.erase(order_.front().second);
    order_.pop_front();
  }
  const TimePoint until = now + 2 * kClockTolerance;
  const auto [it, inserted] = seen_.try_emplace(std::string(as_text(nonce)), until);
  if (inserted) order_.emplace_back(until, it->first);
  return inserted;
}

unsigned FailureDelay::decayed(const Entry& entry, TimePoint now) {
  // One failure is forgotten every 20 seconds.
  const auto forgotten = (now - entry.last) / std::chrono::seconds(20);
  return forgotten >= entry.count ? 0 : entry.count - static_cast<unsigned>(std::max<std::int64_t>(forgotten, 0));
}

Duration FailureDelay::failed(const std::string& address, TimePoint now) {
  if (addresses_.size() >= kMostAddresses && !addresses_.contains(address)) {
    // Now and then only: somebody with a whole network of addresses must not make every failure walk through all.
    if (now - swept_ >= std::chrono::seconds(20)) {
      swept_ = now;
      std::erase_if(addresses_, [&](const auto& item) { return decayed(item.second, now) == 0; });
    }
    if (addresses_.size() >= kMostAddresses) addresses_.erase(addresses_.begin());
  }
  Entry& entry = addresses_[address];
  entry.count = std::min(decayed(entry, now) + 1, 100U);
  entry.last = now;
  if (entry.count <= 3) return Duration::zero();
  return std::chrono::seconds(1U << std::min(entry.count - 4, 3U));
}

unsigned FailureDelay::failures(const std::string& address, TimePoint now) const {
  const auto it = addresses_.find(address);
  return it == addresses_.end() ? 0 : decayed(it->second, now);
}

}  // namespace qtrp::protocol
