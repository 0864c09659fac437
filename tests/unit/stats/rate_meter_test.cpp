#include "qtrp/stats/rate_meter.h"

#include <gtest/gtest.h>

#include <thread>

#include "qtrp/stats/counters.h"

namespace qtrp::stats {
namespace {

using namespace std::chrono_literals;

constexpr TimePoint at(Duration since) {
  return TimePoint{} + since;
}

TEST(RateMeter, KnowsNothingBeforeTwoSamples) {
  RateMeter meter;
  EXPECT_EQ(meter.per_second(), 0);
  meter.add(at(1s), 1'000'000);
  EXPECT_EQ(meter.per_second(), 0);
}

TEST(RateMeter, IsTheSlopeOverTheWindow) {
  RateMeter meter(5s);
  for (int second = 0; second <= 20; ++second)
    meter.add(at(std::chrono::seconds(second)), static_cast<std::uint64_t>(second) * 1000);
  EXPECT_DOUBLE_EQ(meter.per_second(), 1000);
}

TEST(RateMeter, ForgetsWhatIsOlderThanTheWindow) {
  RateMeter meter(5s);
  meter.add(at(0s), 0);
  meter.add(at(1s), 50'000);
  for (int second = 2; second <= 6; ++second) meter.add(at(std::chrono::seconds(second)), 50'000);
  EXPECT_DOUBLE_EQ(meter.per_second(), 0);
  meter.add(at(7s), 60'000);
  EXPECT_DOUBLE_EQ(meter.per_second(), 2000);  // 10,000 in the 5 s since second 2
}

TEST(RateMeter, TakesTheLastTwoSamplesWhereTheyAreFurtherApartThanTheWindow) {
  RateMeter meter(5s);
  meter.add(at(0s), 0);
  meter.add(at(100s), 1000);
  EXPECT_DOUBLE_EQ(meter.per_second(), 10);
}

TEST(RateMeter, StartsOverWithACounterThatBeganAnew) {
  RateMeter meter(5s);
  meter.add(at(0s), 1'000'000);
  meter.add(at(1s), 10);
  EXPECT_EQ(meter.per_second(), 0);
  meter.add(at(2s), 30);
  EXPECT_DOUBLE_EQ(meter.per_second(), 20);
}

TEST(RateMeter, TwoSamplesOfOneMomentAreNoRate) {
  RateMeter meter(5s);
  meter.add(at(1s), 0);
  meter.add(at(1s), 1000);
  EXPECT_EQ(meter.per_second(), 0);
}

TEST(RateMeter, ManySamplesKeepTheNewest) {
  RateMeter meter(5s);
  for (int i = 0; i < 1000; ++i) meter.add(at(i * 10ms), static_cast<std::uint64_t>(i));
  EXPECT_NEAR(meter.per_second(), 100, 1e-9);
}

TEST(Counters, ReadersSeeWhatTheOneWriterAddedExactly) {
  Counters counters;
  constexpr std::uint64_t rounds = 200'000;
  std::thread writer([&] {
    for (std::uint64_t i = 0; i < rounds; ++i) {
      counters.opened();
      counters.add_in(3);
      counters.add_out(5);
      if (i % 2 == 0) counters.closed();
    }
  });
  std::uint64_t last = 0;
  bool monotonic = true;
  while (last < rounds) {
    const std::uint64_t now = counters.total.load(std::memory_order_relaxed);
    monotonic = monotonic && now >= last;
    last = now;
  }
  writer.join();
  EXPECT_TRUE(monotonic);
  EXPECT_EQ(counters.bytes_in, 3 * rounds);
  EXPECT_EQ(counters.bytes_out, 5 * rounds);
  EXPECT_EQ(counters.total, rounds);
  EXPECT_EQ(counters.active, rounds / 2);
}

}  // namespace
}  // namespace qtrp::stats
