// Brutal's arithmetic: rate = target / ack rate, window = rate * srtt * 2.
#include "qtrp/pacing/brutal.h"

#include <gtest/gtest.h>

namespace qtrp::pacing {
namespace {

using std::chrono::milliseconds;

TEST(Brutal, SendsAtTheTargetWithoutLoss) {
  Brutal brutal(1'000'000);
  brutal.on_packets(TimePoint(milliseconds(1)), 1000, 0);
  EXPECT_EQ(brutal.rate(TimePoint(milliseconds(2))), 1'000'000U);
  EXPECT_EQ(brutal.window(TimePoint(milliseconds(2)), milliseconds(100), 1400), 200'000U);
}

TEST(Brutal, MakesUpForLoss) {
  Brutal brutal(900'000);
  brutal.on_packets(TimePoint(milliseconds(1)), 900, 100);
  EXPECT_NEAR(static_cast<double>(brutal.rate(TimePoint(milliseconds(2)))), 1'000'000, 1);
}

TEST(Brutal, MakesUpForTwentyPercentAtMost) {
  Brutal brutal(800'000);
  brutal.on_packets(TimePoint(milliseconds(1)), 1, 999);
  EXPECT_EQ(brutal.rate(TimePoint(milliseconds(2))), 1'000'000U);
}

TEST(Brutal, LossNeverShrinksTheWindow) {
  Brutal brutal(1'000'000);
  const TimePoint now(milliseconds(1));
  const auto before = brutal.window(now, milliseconds(50), 1400);
  brutal.on_packets(now, 500, 500);
  EXPECT_GT(brutal.window(now, milliseconds(50), 1400), before);
}

TEST(Brutal, WindowHasAMinimumAndAGuessBeforeTheFirstRoundTrip) {
  Brutal slow(1000);
  const TimePoint now(milliseconds(1));
  EXPECT_EQ(slow.window(now, milliseconds(1), 1400), 14'000U);
  Brutal fast(10'000'000);
  EXPECT_EQ(fast.window(now, Duration(0), 1400), 2'000'000U);
}

TEST(Brutal, FollowsAChangedTarget) {
  Brutal brutal(1'000'000);
  brutal.set_target(2'000'000);
  EXPECT_EQ(brutal.rate(TimePoint(milliseconds(1))), 2'000'000U);
}

}  // namespace
}  // namespace qtrp::pacing
