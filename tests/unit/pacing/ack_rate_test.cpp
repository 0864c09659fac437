// The ack-rate estimator and Brutal's floor against scripted time.
#include "qtrp/pacing/ack_rate.h"

#include <gtest/gtest.h>

namespace qtrp::pacing {
namespace {

using std::chrono::milliseconds;

TimePoint at(std::int64_t ms) {
  return TimePoint(milliseconds(ms));
}

TEST(AckRate, IsOneUntilFiftySamplesAreThere) {
  AckRate rate;
  rate.add(at(1000), 24, 25);
  EXPECT_EQ(rate.value(at(1000)), 1.0);
  rate.add(at(1001), 1, 0);
  EXPECT_EQ(rate.measured(at(1001)), 0.5);
}

TEST(AckRate, CountsAcrossSlots) {
  AckRate rate;
  for (int second = 0; second < 5; ++second) rate.add(at(second * 1000 + 10), 90, 10);
  EXPECT_DOUBLE_EQ(rate.value(at(4999)), 0.9);
}

TEST(AckRate, ForgetsWhatIsOlderThanFiveSlots) {
  AckRate rate;
  rate.add(at(0), 0, 1000);
  for (int second = 1; second <= 5; ++second) {
    rate.add(at(second * 1000), 100, 0);
    if (second < 5) {
      EXPECT_LT(rate.measured(at(second * 1000)), 0.5) << second;
    }
  }
  EXPECT_EQ(rate.measured(at(5000)), 1.0);
}

TEST(AckRate, ForgetsAcrossALongPauseEvenIfTheSlotIsNotReused) {
  AckRate rate;
  rate.add(at(2000), 50, 50);
  EXPECT_EQ(rate.measured(at(6999)), 0.5);
  EXPECT_EQ(rate.measured(at(7000)), 1.0);
  EXPECT_EQ(rate.measured(at(1'000'000)), 1.0);
}

TEST(AckRate, HasAFloor) {
  AckRate rate;
  rate.add(at(0), 10, 90);
  EXPECT_EQ(rate.value(at(0)), AckRate::kFloor);
  EXPECT_DOUBLE_EQ(rate.measured(at(0)), 0.1);
}

}  // namespace
}  // namespace qtrp::pacing
