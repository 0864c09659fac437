// Who is who: HMAC-SHA256 proofs keyed with the token, which itself never travels; the memory of nonces that stops
// replay where there is no channel binding; and the slowing-down of those who guess. Pure: no sockets, no clock.
#pragma once

#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>

#include "qtrp/base/time.h"
#include "qtrp/protocol/messages.h"

namespace qtrp::protocol {

/// HMAC-SHA256(token, "qtrp client proof" | binding | client preface | Auth body), each part behind its 4-byte
/// big-endian length.
Mac client_proof(std::string_view token, Bytes channel_binding, Bytes client_preface, Bytes auth_body);
/// HMAC-SHA256(token, "qtrp server proof" | binding | client preface | server preface | client proof | AuthResp body),
/// likewise. The client's proof stands for its nonce and everything else it said.
Mac server_proof(std::string_view token, Bytes channel_binding, Bytes client_preface, Bytes server_preface,
                 const Mac& client_proof, Bytes auth_resp_body);
/// Constant time.
bool equal(const Mac& a, const Mac& b);

inline constexpr std::chrono::minutes kClockTolerance{5};  ///< without a channel binding, both ways
/// `theirs` - `ours` in ms. Saturates at +-INT64_MAX: theirs is only the peer's word.
std::int64_t clock_difference(std::int64_t theirs, std::int64_t ours);

/// Remembers nonces for twice the tolerance, so that a recorded Auth cannot be used again.
class NonceMemory {
 public:
  /// False if it was seen before. Only nonces whose proof was right are remembered, so only holders of a token take
  /// memory.
  bool first_time(const Nonce& nonce, TimePoint now);
  std::size_t size() const { return seen_.size(); }

 private:
  std::unordered_map<std::string, TimePoint> seen_;
  std::deque<std::pair<TimePoint, std::string>> order_;
};

/// How long to make an address wait for its `denied`: nothing for the first three failures in a minute, then 1 s, 2 s,
/// 4 s, 8 s at most. A right proof is never delayed, and clears nothing: others behind the same address may go on
/// guessing. Bounded in memory and time: beyond kMostAddresses some are forgotten.
class FailureDelay {
 public:
  Duration failed(const std::string& address, TimePoint now);
  /// Failures of the last minute, decayed.
  unsigned failures(const std::string& address, TimePoint now) const;
  static constexpr std::size_t kMostAddresses = 65536;
  std::size_t size() const { return addresses_.size(); }

 private:
  struct Entry {
    unsigned count = 0;
    TimePoint last;
  };
  static unsigned decayed(const Entry& entry, TimePoint now);
  std::unordered_map<std::string, Entry> addresses_;
  TimePoint swept_{};  // all decayed addresses were forgotten then
};

}  // namespace qtrp::protocol
