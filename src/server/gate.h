// Who may come in: tokens and their limits, proofs, replay and clock checks, and the slowing-down of who guesses.
// Thread-safe.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "qtrp/config/config.h"
#include "qtrp/protocol/proof.h"

namespace qtrp::server {

/// A token of the configuration with what its clients use of it now. A reload may change its name and limits, never
/// its text. Thread-safe.
class TokenState {
 public:
  explicit TokenState(config::Token token) : config_(std::make_shared<const config::Token>(std::move(token))) {}

  std::shared_ptr<const config::Token> config() const {
    const std::lock_guard lock(mutex_);
    return config_;
  }
  void set(config::Token token) {
    auto fresh = std::make_shared<const config::Token>(std::move(token));
    const std::lock_guard lock(mutex_);
    config_.swap(fresh);
  }
  bool may_open_connection() const {
    const auto now = config();
    return !now->max_connections || connections.load(std::memory_order_relaxed) < *now->max_connections;
  }

  std::atomic<std::uint32_t> proxies{0}, connections{0};
  std::atomic<bool> revoked{false};  ///< a reload took it out of the file

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<const config::Token> config_;
};

class Gate {
 public:
  explicit Gate(const std::vector<config::Token>& tokens);

  struct Attempt {
    Bytes body;  ///< the encoded AuthBody, as sent
    protocol::Mac hmac;
    Bytes channel_binding;  ///< empty for crypto none: then clock and nonce are checked
    Bytes client_preface;
    std::string address;  ///< the peer's io::Endpoint::source()
  };
  struct Verdict {
    std::shared_ptr<TokenState> token;  ///< null: denied
    protocol::AuthBody body;            ///< when not denied
    std::string reason;                 ///< for our log only
    Duration delay{};                   ///< to wait before answering `denied`
  };
  /// `wall_ms`: ms since 1970, UTC.
  Verdict check(const Attempt& attempt, TimePoint now, std::int64_t wall_ms);

  /// From now on these tokens are let in. What is known of one that stays, by its text, is kept; one that is gone is
  /// marked revoked.
  void replace(const std::vector<config::Token>& tokens);

 private:
  std::mutex mutex_;
  std::vector<std::shared_ptr<TokenState>> tokens_;
  protocol::NonceMemory nonces_;
  protocol::FailureDelay failures_;
};

}  // namespace qtrp::server
