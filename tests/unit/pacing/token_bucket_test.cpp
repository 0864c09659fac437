// The token bucket against scripted time: exact rate, bounded burst, no drift, no lost fractions.
#include "qtrp/pacing/token_bucket.h"

#include <gtest/gtest.h>

#include <deque>
#include <random>

namespace qtrp::pacing {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

constexpr TimePoint kStart{seconds(1000)};

TEST(TokenBucket, GrantsTheBurstThenTheRate) {
  TokenBucket bucket(1'000'000, milliseconds(10), 0);
  EXPECT_EQ(bucket.allowance(kStart), 10'000U);
  bucket.sent(10'000, kStart);
  EXPECT_EQ(bucket.allowance(kStart), 0U);
  EXPECT_EQ(bucket.allowance(kStart + milliseconds(3)), 3'000U);
}

TEST(TokenBucket, BurstIsBoundedInTimeAtAnyRate) {
  EXPECT_EQ(TokenBucket(125'000'000, milliseconds(2), 3000).burst(), 250'000U);
  EXPECT_EQ(TokenBucket(12'500, milliseconds(2), 3000).burst(), 3000U);
  TokenBucket bucket(1'000'000, milliseconds(4), 0);
  bucket.sent(4000, kStart);
  EXPECT_EQ(bucket.allowance(kStart + hours(100'000)), 4000U);
}

TEST(TokenBucket, FractionsOfAByteAreNotLost) {
  // 2.33 bytes are earned between two questions: rounding each step down would lose a seventh of the rate.
  TokenBucket bucket(333'333'333, milliseconds(2), 0);
  bucket.sent(bucket.allowance(kStart), kStart);
  std::uint64_t total = 0;
  TimePoint now = kStart;
  for (int i = 0; i < 1'000'000; ++i) {
    now += nanoseconds(7);
    const auto n = bucket.allowance(now);
    bucket.sent(n, now);
    total += n;
  }
  EXPECT_NEAR(static_cast<double>(total), 333'333'333.0 * 0.007, 1.0);
}

TEST(TokenBucket, LongRunRateIsExactWhenPolledAtRandom) {
  TokenBucket bucket(18'750'001, milliseconds(4), 3000);
  std::mt19937_64 random(1);
  std::uint64_t total = 0;
  TimePoint now = kStart;
  bucket.sent(bucket.allowance(now), now);
  while (now < kStart + seconds(1000)) {
    now += nanoseconds(1 + random() % 3'000'000);  // below the burst time, so nothing is forfeited
    const auto n = bucket.allowance(now);
    bucket.sent(n, now);
    total += n;
  }
  const double elapsed = std::chrono::duration<double>(now - kStart).count();
  EXPECT_NEAR(static_cast<double>(total), 18'750'001 * elapsed, 1.0);
}

TEST(TokenBucket, NoSecondExceedsTheRateByMoreThanTheBurst) {
  TokenBucket bucket(1'000'000, milliseconds(4), 0);
  std::mt19937_64 random(2);
  std::deque<std::pair<TimePoint, std::uint64_t>> window;
  std::uint64_t in_window = 0, most = 0;
  for (TimePoint now = kStart; now < kStart + seconds(60); now += nanoseconds(1 + random() % 20'000'000)) {
    const auto n = bucket.allowance(now);
    bucket.sent(n, now);
    window.emplace_back(now, n);
    in_window += n;
    while (window.front().first <= now - seconds(1)) {
      in_window -= window.front().second;
      window.pop_front();
    }
    most = std::max(most, in_window);
  }
  EXPECT_LE(most, 1'004'000U);
}

TEST(TokenBucket, DebtIsPaidBack) {
  TokenBucket bucket(1'000'000, milliseconds(1), 0);
  bucket.sent(101'000, kStart);
  EXPECT_EQ(bucket.allowance(kStart + milliseconds(99)), 0U);
  EXPECT_EQ(bucket.next_time(1, kStart + milliseconds(99)), kStart + milliseconds(100) + nanoseconds(1000));
  EXPECT_EQ(bucket.allowance(kStart + milliseconds(101)), 1000U);
}

TEST(TokenBucket, NextTimeIsTheFirstMomentThatGrants) {
  TokenBucket bucket(7'777'777, milliseconds(2), 0);
  bucket.sent(bucket.allowance(kStart), kStart);
  for (std::uint64_t n : {1U, 2U, 1400U, 9000U}) {
    const TimePoint when = bucket.next_time(n, kStart);
    EXPECT_LT(TokenBucket(bucket).allowance(when - nanoseconds(1)), n);
    EXPECT_GE(TokenBucket(bucket).allowance(when), n);
  }
  // More than a burst can never be there at once, so it asks for a burst.
  EXPECT_EQ(bucket.next_time(1U << 30U, kStart), bucket.next_time(bucket.burst(), kStart));
}

TEST(TokenBucket, RateChangesFromNowOn) {
  TokenBucket bucket(1'000'000, milliseconds(10), 0);
  bucket.sent(10'000, kStart);
  bucket.set_rate(2'000'000, kStart + milliseconds(5));
  EXPECT_EQ(bucket.allowance(kStart + milliseconds(6)), 5'000U + 2'000U);
  bucket.set_rate(100'000, kStart + milliseconds(6));
  EXPECT_EQ(bucket.allowance(kStart + milliseconds(6)), 1'000U);
  bucket.set_rate(0, kStart + milliseconds(6));
  EXPECT_EQ(bucket.allowance(kStart + seconds(60)), 0U);
  EXPECT_EQ(bucket.next_time(1, kStart), TimePoint::max());
}

TEST(TokenBucket, TimeGoingBackGrantsNothing) {
  TokenBucket bucket(1'000'000, milliseconds(1), 0);
  bucket.sent(1000, kStart);
  EXPECT_EQ(bucket.allowance(kStart - seconds(5)), 0U);
  EXPECT_EQ(bucket.allowance(kStart + nanoseconds(500'000)), 500U);
}

}  // namespace
}  // namespace qtrp::pacing
