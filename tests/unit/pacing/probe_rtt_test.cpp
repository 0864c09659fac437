// The forecast of BBR's pauses against scripted samples.
#include "qtrp/pacing/probe_rtt.h"

#include <gtest/gtest.h>

namespace qtrp::pacing {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint32_t kCruising = 512;  // bbr_cwnd_gain in PROBE_BW
constexpr std::uint32_t kStartup = 739;

struct ProbeRttTest : testing::Test {
  ProbeRtt forecast;
  TimePoint now{seconds(100)};
  void run(Duration span, std::uint32_t min_rtt_us, std::uint32_t gain, Duration step = milliseconds(100)) {
    for (const TimePoint until = now + span; now < until; now += step) forecast.sample(now, min_rtt_us, gain);
  }
};

TEST_F(ProbeRttTest, NothingIsForeseenBeforeTheFirstSample) {
  EXPECT_FALSE(forecast.near(now));
  EXPECT_FALSE(forecast.near(now + seconds(10)));
}

TEST_F(ProbeRttTest, APauseIsDueTenSecondsAfterTheLatestLowerRoundTrip) {
  forecast.sample(now, 41'000, kStartup);
  EXPECT_TRUE(forecast.near(now + seconds(10)));
  now += seconds(3);
  forecast.sample(now, 41'000, kCruising);
  now += milliseconds(100);
  forecast.sample(now, 40'000, kCruising);
  EXPECT_FALSE(forecast.near(now + milliseconds(6900)));  // ten seconds after the first sample
  // It may have been right after the sample before.
  EXPECT_TRUE(forecast.near(now - milliseconds(100) + seconds(10) - ProbeRtt::kLead));
  EXPECT_TRUE(forecast.near(now + seconds(10)));
}

TEST_F(ProbeRttTest, ItIsNearWhileItGoesOnAndDueAgainTenSecondsAfterItsEnd) {
  run(seconds(10), 40'000, kCruising);
  run(milliseconds(240), 40'000, ProbeRtt::kGain, ProbeRtt::kClose);
  EXPECT_TRUE(forecast.pausing());
  const TimePoint last = now - ProbeRtt::kClose;
  EXPECT_TRUE(forecast.near(last + seconds(2)));  // however long
  forecast.sample(now, 40'000, kCruising);
  EXPECT_FALSE(forecast.pausing());
  EXPECT_FALSE(forecast.near(now));
  EXPECT_FALSE(forecast.near(last + seconds(10) - ProbeRtt::kLead - milliseconds(1)));
  EXPECT_TRUE(forecast.near(last + seconds(10) - ProbeRtt::kLead));
}

TEST_F(ProbeRttTest, AForecastThatDoesNotComeTrueIsGivenUp) {
  run(seconds(9), 40'000, kCruising);
  const TimePoint due = TimePoint(seconds(110));
  EXPECT_TRUE(forecast.near(due));
  EXPECT_TRUE(forecast.near(due + ProbeRtt::kOverdue - milliseconds(1)));
  EXPECT_FALSE(forecast.near(due + ProbeRtt::kOverdue));
  now = due + seconds(5);
  forecast.sample(now, 40'000, kCruising);
  EXPECT_FALSE(forecast.near(now));
  // Seen by chance all the same: from then on it is known again.
  forecast.sample(now + seconds(1), 40'000, ProbeRtt::kGain);
  EXPECT_TRUE(forecast.near(now + seconds(1)));
}

TEST_F(ProbeRttTest, ItIsImminentARoundTripBeforeAndUntilItBeganOrDidNot) {
  constexpr Duration kRoundTrip = milliseconds(40);
  forecast.sample(now, 40'000, kCruising);
  const TimePoint due = now + seconds(10);
  EXPECT_FALSE(forecast.imminent(due - kRoundTrip - ProbeRtt::kLead - milliseconds(1), kRoundTrip));
  EXPECT_TRUE(forecast.imminent(due - kRoundTrip - ProbeRtt::kLead, kRoundTrip));
  EXPECT_TRUE(forecast.imminent(due + ProbeRtt::kLate - milliseconds(1), kRoundTrip));
  EXPECT_FALSE(forecast.imminent(due + ProbeRtt::kLate, kRoundTrip));
  forecast.sample(due, 40'000, ProbeRtt::kGain);
  EXPECT_FALSE(forecast.imminent(due, kRoundTrip));
}

TEST_F(ProbeRttTest, ARoundTripThatRisesWasRenewedAfterAnIdleTime) {
  forecast.sample(now, 40'000, kCruising);
  now += seconds(60);
  forecast.sample(now, 40'000, kCruising);
  now += milliseconds(100);
  forecast.sample(now, 44'000, kCruising);
  EXPECT_TRUE(forecast.near(now + seconds(10)));
  EXPECT_FALSE(forecast.near(now + seconds(9)));
}

}  // namespace
}  // namespace qtrp::pacing
