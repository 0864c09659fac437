// Proofs against the worked example of docs/protocol.md; replay and guessing against scripted time.
#include "qtrp/protocol/proof.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <sstream>

#include "packed.h"
#include "qtrp/protocol/preface.h"
#include "samples.h"

namespace qtrp::protocol {
namespace {

using namespace std::chrono_literals;
using namespace test;

// The worked example. Made with another program: Python's hmac and hashlib, and msgpack by hand.
constexpr std::string_view kToken = "correct-horse-battery";
constexpr std::string_view kPreface = "51545250010200010000ffff0004000000000000000000000000000000000000";
constexpr std::string_view kBinding = "a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf";
constexpr std::string_view kAuthBody =
    "88a776657273696f6e01a8696e7374616e6365c410101112131415161718191a1b1c1d1e1fa372756ec410202122232425262728292a2b2c2d"
    "2e2fa674756e6e656c02a46e616d65a27069a474696d65cf0000018bcfe56800a56e6f6e6365c420404142434445464748494a4b4c4d4e4f50"
    "5152535455565758595a5b5c5d5e5fa8666561747572657392a36f6e65a374776f";
constexpr std::string_view kClientProof = "289a803d5c9a02e080b15328999c48b752581ad9b811f36b0f61451f0a8eb097";
constexpr std::string_view kAuthRespBody =
    "86a26f6bc3a56572726f72a0a773657373696f6ec410606162636465666768696a6b6c6d6e6fa56e6f6e6365c420808182838485868788898a"
    "8b8c8d8e8f909192939495969798999a9b9c9d9e9fa474696d65cf0000018bcfe5687ba8666561747572657390";
constexpr std::string_view kServerProof = "2aee26b79b6510aff9879fb2f62b6f4e455f641ffcdc2c6050be2e808d537f9e";

Mac mac_of(std::string_view digits) {
  Mac mac{};
  std::ranges::copy(hex(digits), mac.begin());
  return mac;
}

TEST(Proof, IsTheWorkedExample) {
  EXPECT_EQ(to_hex(encode(Preface{.flags = Preface::extensions, .initial_window = 256 << 10})), kPreface);
  EXPECT_EQ(to_hex(encode_body(sample_auth_body())), kAuthBody);
  EXPECT_EQ(to_hex(encode_body(sample_auth_resp_body())), kAuthRespBody);
  EXPECT_EQ(to_hex(client_proof(kToken, hex(kBinding), hex(kPreface), hex(kAuthBody))), kClientProof);
  EXPECT_EQ(to_hex(server_proof(kToken, hex(kBinding), hex(kPreface), hex(kPreface), mac_of(kClientProof),
                                hex(kAuthRespBody))),
            kServerProof);
}

TEST(Proof, TheWorkedExampleStandsInTheProtocolsText) {
  std::ifstream file(QTRP_PROTOCOL_TEXT);
  ASSERT_TRUE(file) << QTRP_PROTOCOL_TEXT;
  std::string text(std::istreambuf_iterator<char>(file), {});
  std::erase_if(text, [](char c) { return c == ' ' || c == '\n'; });
  for (const std::string_view value :
       {kToken, kPreface, kBinding, kAuthBody, kClientProof, kAuthRespBody, kServerProof})
    EXPECT_NE(text.find(value), std::string::npos) << value;
}

struct ClientInput {
  std::string token = "token", binding = "binding", preface = "preface", body = "body";
  Mac proof() const { return client_proof(token, as_bytes(binding), as_bytes(preface), as_bytes(body)); }
};
struct ServerInput {
  std::string token = "token", binding = "binding", client = "client", server = "server", body = "body";
  Mac peer{};
  Mac proof() const {
    return server_proof(token, as_bytes(binding), as_bytes(client), as_bytes(server), peer, as_bytes(body));
  }
};

TEST(Proof, EveryPartOfTheClientsCounts) {
  std::set<Mac> all{ClientInput{}.proof()};
  for (std::string ClientInput::* part :
       {&ClientInput::token, &ClientInput::binding, &ClientInput::preface, &ClientInput::body}) {
    ClientInput changed, longer, empty;
    (changed.*part)[0] ^= 1;
    (longer.*part) += '\0';
    (empty.*part).clear();
    all.insert({changed.proof(), longer.proof(), empty.proof()});
  }
  // A key is filled up with zeros by HMAC's definition (RFC 2104), so a token with a zero byte behind it is the same.
  EXPECT_EQ(all.size(), 1U + 4 * 3 - 1);
}

TEST(Proof, EveryPartOfTheServersCounts) {
  std::set<Mac> all{ServerInput{}.proof()};
  for (std::string ServerInput::* part :
       {&ServerInput::binding, &ServerInput::client, &ServerInput::server, &ServerInput::body, &ServerInput::token}) {
    ServerInput changed, empty;
    (changed.*part)[0] ^= 1;
    (empty.*part).clear();
    all.insert({changed.proof(), empty.proof()});
  }
  ServerInput other;
  other.peer[31] = std::byte{1};
  all.insert(other.proof());
  EXPECT_EQ(all.size(), 1U + 5 * 2 + 1);
}

TEST(Proof, BytesCannotMoveFromOnePartToTheNext) {
  ClientInput a, b;
  a.binding = "ab", a.preface = "c";
  b.binding = "a", b.preface = "bc";
  EXPECT_NE(a.proof(), b.proof());
  a = b = {};
  a.preface = "xy", a.body = "";
  b.preface = "", b.body = "xy";
  EXPECT_NE(a.proof(), b.proof());
  ServerInput c, d;
  c.client = "ab", c.server = "";
  d.client = "", d.server = "ab";
  EXPECT_NE(c.proof(), d.proof());
}

TEST(Proof, NoneOfOneSideServesTheOther) {
  // The same bytes said by a client and by a server: the labels differ, so a proof cannot be sent back to its maker.
  const Mac client = client_proof("t", {}, as_bytes("p"), as_bytes("b"));
  for (const char* preface : {"", "p"})
    EXPECT_NE(client, server_proof("t", {}, as_bytes("p"), as_bytes(preface), client, as_bytes("b")));
}

TEST(Proof, EqualLooksAtEveryByte) {
  const Mac mac = counting<32>(1);
  EXPECT_TRUE(equal(mac, mac));
  for (std::size_t i = 0; i < mac.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      Mac other = mac;
      other[i] ^= static_cast<std::byte>(1 << bit);
      EXPECT_FALSE(equal(mac, other));
    }
  }
}

TEST(ClockDifference, Saturates) {
  EXPECT_EQ(clock_difference(10, 3), 7);
  EXPECT_EQ(clock_difference(3, 10), -7);
  EXPECT_EQ(clock_difference(INT64_MIN, 1'700'000'000'000), -INT64_MAX);
  EXPECT_EQ(clock_difference(INT64_MIN, 0), -INT64_MAX);  // its absolute value exists
  EXPECT_EQ(clock_difference(INT64_MAX, -1), INT64_MAX);
}

// --- replay ---

Nonce nonce(std::uint32_t number) {
  Nonce n{};
  store_be<std::uint32_t>(n.data(), number);
  return n;
}
const TimePoint kStart = TimePoint{} + 1h;

TEST(NonceMemory, KnowsANonceForTwiceTheTolerance) {
  NonceMemory memory;
  EXPECT_TRUE(memory.first_time(nonce(1), kStart));
  EXPECT_FALSE(memory.first_time(nonce(1), kStart));
  EXPECT_TRUE(memory.first_time(nonce(2), kStart + 1s));
  EXPECT_FALSE(memory.first_time(nonce(1), kStart + 2 * kClockTolerance - 1ns));
  EXPECT_TRUE(memory.first_time(nonce(1), kStart + 2 * kClockTolerance));
}

TEST(NonceMemory, ATryDoesNotProlongIt) {
  NonceMemory memory;
  EXPECT_TRUE(memory.first_time(nonce(1), kStart));
  for (auto t = 1min; t < 2 * kClockTolerance; t += 1min) EXPECT_FALSE(memory.first_time(nonce(1), kStart + t));
  EXPECT_EQ(memory.size(), 1U);
  EXPECT_TRUE(memory.first_time(nonce(1), kStart + 2 * kClockTolerance));
}

TEST(NonceMemory, ForgetsWhatIsTooOldToMatter) {
  NonceMemory memory;
  for (std::uint32_t i = 0; i < 1000; ++i) memory.first_time(nonce(i), kStart + i * 1s);
  EXPECT_EQ(memory.size(), 600U);  // one a second over 10 minutes
  memory.first_time(nonce(5000), kStart + 24h);
  EXPECT_EQ(memory.size(), 1U);
}

TEST(NonceMemory, LooksAtEveryByte) {
  NonceMemory memory;
  Nonce n{};
  EXPECT_TRUE(memory.first_time(n, kStart));
  for (std::size_t i = 0; i < n.size(); ++i) {
    Nonce other = n;
    other[i] = std::byte{1};
    EXPECT_TRUE(memory.first_time(other, kStart)) << i;
  }
}

// --- guessing ---

TEST(FailureDelay, GrowsFromTheFourthFailureAndStopsAtEightSeconds) {
  FailureDelay delay;
  std::vector<Duration> waits;
  for (int i = 0; i < 9; ++i) waits.push_back(delay.failed("a", kStart));
  EXPECT_EQ(waits, (std::vector<Duration>{0s, 0s, 0s, 1s, 2s, 4s, 8s, 8s, 8s}));
}

TEST(FailureDelay, IsForEachAddressAlone) {
  FailureDelay delay;
  for (int i = 0; i < 10; ++i) delay.failed("a", kStart);
  EXPECT_EQ(delay.failed("b", kStart), 0s);
  EXPECT_EQ(delay.failures("a", kStart), 10U);
  EXPECT_EQ(delay.failures("b", kStart), 1U);
  EXPECT_EQ(delay.failures("c", kStart), 0U);
}

TEST(FailureDelay, OneFailureIsForgottenEveryTwentySeconds) {
  FailureDelay delay;
  for (int i = 0; i < 4; ++i) delay.failed("a", kStart);
  EXPECT_EQ(delay.failures("a", kStart + 19s), 4U);
  EXPECT_EQ(delay.failures("a", kStart + 20s), 3U);
  EXPECT_EQ(delay.failures("a", kStart + 60s), 1U);
  EXPECT_EQ(delay.failures("a", kStart + 80s), 0U);
  EXPECT_EQ(delay.failed("a", kStart + 60s), 0s);
}

TEST(FailureDelay, OneWhoGuessesForHoursIsForgivenInHalfAnHour) {
  FailureDelay delay;
  for (int i = 0; i < 10'000; ++i) delay.failed("a", kStart);
  EXPECT_EQ(delay.failures("a", kStart), 100U);
  EXPECT_EQ(delay.failures("a", kStart + 100 * 20s), 0U);
}

TEST(FailureDelay, RemembersABoundedNumberOfAddresses) {
  FailureDelay delay;
  for (std::uint32_t i = 0; i < FailureDelay::kMostAddresses + 5000; ++i) delay.failed(std::to_string(i), kStart + 1s);
  EXPECT_EQ(delay.size(), FailureDelay::kMostAddresses);
  // Those that time has cleared make room first, also for many newcomers.
  for (int i = 0; i < 5; ++i) delay.failed("guesser", kStart + 25s);
  EXPECT_LT(delay.size(), 10U);
  EXPECT_EQ(delay.failures("guesser", kStart + 25s), 5U);
}

}  // namespace
}  // namespace qtrp::protocol
