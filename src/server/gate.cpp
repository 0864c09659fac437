#include "server/gate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

namespace qtrp::server {

Gate::Gate(const std::vector<config::Token>& tokens) {
  for (const config::Token& token : tokens) tokens_.push_back(std::make_shared<TokenState>(token));
}

void Gate::replace(const std::vector<config::Token>& tokens) {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<TokenState>> now;
  for (const config::Token& token : tokens) {
    const auto known = std::ranges::find_if(tokens_, [&](const auto& t) { return t->config()->token == token.token; });
    if (known == tokens_.end()) {
      now.push_back(std::make_shared<TokenState>(token));
    } else {
      (*known)->set(token);
      now.push_back(*known);
    }
  }
  for (const auto& before : tokens_)
    if (std::ranges::find(now, before) == now.end()) before->revoked = true;
  tokens_ = std::move(now);
}

Gate::Verdict Gate::check(const Attempt& attempt, TimePoint now, std::int64_t wall_ms) {
  const std::lock_guard lock(mutex_);
  Verdict verdict;
  std::shared_ptr<TokenState> found;
  // Every token is tried, also after a match: how long it takes says nothing about which one fits.
  for (const auto& token : tokens_) {
    const protocol::Mac expected =
        protocol::client_proof(token->config()->token, attempt.channel_binding, attempt.client_preface, attempt.body);
    if (protocol::equal(expected, attempt.hmac)) found = token;
  }
  if (!found) {
    verdict.reason = "wrong token, or somebody in between";
  } else if (auto body = protocol::decode_auth_body(attempt.body); !body) {
    verdict.reason = body.error().message;
  } else if (attempt.channel_binding.empty() && std::abs(protocol::clock_difference(body->timestamp, wall_ms)) >
                                                    std::chrono::milliseconds(protocol::kClockTolerance).count()) {
    verdict.reason = fmt::format("its clock differs from ours by {} s; with crypto: none both must agree to 5 minutes",
                                 protocol::clock_difference(body->timestamp, wall_ms) / 1000);
  } else if (attempt.channel_binding.empty() && !nonces_.first_time(body->nonce, now)) {
    verdict.reason = "replayed: this very message was used before";
  } else {
    verdict.body = std::move(*body);
    verdict.token = std::move(found);
    return verdict;
  }
  verdict.delay = failures_.failed(attempt.address, now);
  return verdict;
}

}  // namespace qtrp::server
