// Who is let in, against scripted time.
#include "server/gate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace qtrp::server {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

constexpr std::int64_t kWall = 1'700'000'000'000;
const TimePoint kNow = TimePoint{} + 1h;

class GateTest : public testing::Test {
 protected:
  static config::Token token(std::string text, std::string name) {
    config::Token t;
    t.token = std::move(text);
    t.name = std::move(name);
    return t;
  }
  // One that `token` proves, over `binding`.
  Gate::Verdict attempt(std::string_view token, std::int64_t timestamp = kWall, std::uint8_t nonce = 1,
                        TimePoint now = kNow) {
    protocol::AuthBody body;
    body.name = "me";
    body.timestamp = timestamp;
    body.nonce.fill(std::byte{nonce});
    bytes = protocol::encode_body(body);
    hmac = protocol::client_proof(token, as_bytes(binding), as_bytes(preface), bytes);
    return again(now);
  }
  // The same bytes once more.
  Gate::Verdict again(TimePoint now = kNow) {
    return gate.check({bytes, hmac, as_bytes(binding), as_bytes(preface), address}, now, kWall);
  }

  Gate gate{{token("first token", "a"), token("second token", "b"), token("third token", "c")}};
  std::string binding = "the channel", preface = "the preface", address = "192.0.2.1";
  std::vector<std::byte> bytes;
  protocol::Mac hmac{};
};

TEST_F(GateTest, LetsEveryTokenInAndKnowsWhichItWas) {
  for (const auto& [text, name] : {std::pair("first token", "a"), {"second token", "b"}, {"third token", "c"}}) {
    const auto verdict = attempt(text);
    ASSERT_TRUE(verdict.token) << verdict.reason;
    EXPECT_EQ(verdict.token->config()->name, name);
    EXPECT_EQ(verdict.body.name, "me");
    EXPECT_EQ(verdict.delay, 0s);
  }
}

TEST_F(GateTest, AWrongTokenIsDenied) {
  for (const char* wrong : {"", "first toke", "first token ", "First token", "second"}) {
    const auto verdict = attempt(wrong);
    EXPECT_FALSE(verdict.token) << wrong;
    EXPECT_THAT(verdict.reason, HasSubstr("wrong token"));
  }
}

TEST_F(GateTest, WhatTheProofCoversCannotBeChanged) {
  ASSERT_TRUE(attempt("first token").token);
  const auto right = bytes;
  for (std::size_t i = 0; i < right.size(); i += 7) {
    bytes = right;
    bytes[i] ^= std::byte{1};
    EXPECT_FALSE(again().token) << i;
  }
  bytes = right;
  EXPECT_TRUE(again().token);
  binding = "another channel";  // somebody in between
  EXPECT_FALSE(again().token);
  binding = "the channel";
  preface = "another preface";
  EXPECT_FALSE(again().token);
  preface = "the preface";
  hmac[5] ^= std::byte{1};
  EXPECT_FALSE(again().token);
  hmac = {};
  EXPECT_FALSE(again().token);
}

TEST_F(GateTest, ClocksMatterOnlyWithoutAChannelBinding) {
  for (const std::int64_t time : {std::int64_t{0}, INT64_MIN, INT64_MAX, kWall + 400'000}) {
    EXPECT_TRUE(attempt("first token", time).token);
  }
  binding.clear();
  std::uint8_t nonce = 10;
  for (const std::int64_t off : {0, 1, -1, 300'000, -300'000}) {
    EXPECT_TRUE(attempt("first token", kWall + off, ++nonce).token) << off;
  }
  for (const std::int64_t off : {300'001, -300'001, 86'400'000}) {
    const auto verdict = attempt("first token", kWall + off, ++nonce);
    EXPECT_FALSE(verdict.token) << off;
    EXPECT_THAT(verdict.reason, HasSubstr(std::to_string(off / 1000) + " s"));
  }
  for (const std::int64_t time : {INT64_MIN, INT64_MAX, std::int64_t{0}}) {
    EXPECT_FALSE(attempt("first token", time, ++nonce).token) << time;
  }
}

TEST_F(GateTest, WithoutAChannelBindingAnAuthServesOnce) {
  binding.clear();
  EXPECT_TRUE(attempt("first token").token);
  const auto replay = again();
  EXPECT_FALSE(replay.token);
  EXPECT_THAT(replay.reason, HasSubstr("replay"));
  // Nor with another token: nonces are random, whoever repeats one has seen it.
  EXPECT_FALSE(attempt("second token").token);
  EXPECT_TRUE(attempt("second token", kWall, 2).token);
  // Long after, its time has run out.
  EXPECT_FALSE(again(kNow + 9min).token);
}

TEST_F(GateTest, WithAChannelBindingItMayComeAgain) {
  EXPECT_TRUE(attempt("first token").token);
  EXPECT_TRUE(again().token);  // cannot happen over another channel
}

TEST_F(GateTest, NoncesOfWrongProofsAreNotRemembered) {
  binding.clear();
  EXPECT_FALSE(attempt("a guess", kWall, 3).token);
  EXPECT_TRUE(attempt("first token", kWall, 3).token);
}

TEST_F(GateTest, ABodyThatDoesNotDecodeIsDenied) {
  bytes = {std::byte{0xc1}};
  hmac = protocol::client_proof("first token", as_bytes(binding), as_bytes(preface), bytes);
  const auto verdict = again();
  EXPECT_FALSE(verdict.token);
  EXPECT_FALSE(verdict.reason.empty());
}

TEST_F(GateTest, GuessingSlowsDownTheGuesserAndNobodyElse) {
  std::vector<Duration> delays;
  for (int i = 0; i < 8; ++i) delays.push_back(attempt("a guess").delay);
  EXPECT_EQ(delays, (std::vector<Duration>{0s, 0s, 0s, 1s, 2s, 4s, 8s, 8s}));
  const auto right = attempt("first token");  // who knows the token is not held up
  EXPECT_TRUE(right.token);
  EXPECT_EQ(right.delay, 0s);
  EXPECT_EQ(attempt("a guess").delay, 8s);  // and that clears nothing
  address = "192.0.2.2";
  EXPECT_EQ(attempt("a guess").delay, 0s);
}

TEST_F(GateTest, ConnectionsOfATokenAreBounded) {
  const auto verdict = attempt("first token");
  ASSERT_TRUE(verdict.token);
  verdict.token->connections = 1'000'000;
  EXPECT_TRUE(verdict.token->may_open_connection());
  config::Token limited = token("first token", "a");
  limited.max_connections = 2;
  gate.replace({limited});
  EXPECT_FALSE(verdict.token->may_open_connection());
  verdict.token->connections = 1;
  EXPECT_TRUE(verdict.token->may_open_connection());
}

TEST_F(GateTest, AReloadKeepsWhatIsKnownOfATokenThatStays) {
  const auto before = attempt("first token").token;
  ASSERT_TRUE(before);
  before->connections = 5;
  config::Token renamed = token("first token", "renamed");
  renamed.max_proxies = 3;
  gate.replace({renamed, token("fourth token", "d")});
  const auto after = attempt("first token").token;
  EXPECT_EQ(after, before);
  EXPECT_EQ(after->config()->name, "renamed");
  EXPECT_EQ(after->config()->max_proxies, 3U);
  EXPECT_EQ(after->connections, 5U);
  EXPECT_FALSE(after->revoked);
  EXPECT_EQ(attempt("fourth token").token->config()->name, "d");
}

TEST_F(GateTest, AReloadRevokesTokensThatAreGone) {
  const auto gone = attempt("second token").token;
  ASSERT_TRUE(gone);
  gate.replace({token("first token", "a")});
  EXPECT_TRUE(gone->revoked);
  EXPECT_FALSE(attempt("second token").token);
  gate.replace({token("first token", "a"), token("second token", "b")});  // written in again: a new life
  const auto again = attempt("second token").token;
  ASSERT_TRUE(again);
  EXPECT_NE(again, gone);
  EXPECT_FALSE(again->revoked);
}

}  // namespace
}  // namespace qtrp::server
