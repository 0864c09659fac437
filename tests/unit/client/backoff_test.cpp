#include "client/backoff.h"

#include <gtest/gtest.h>

namespace qtrp::client {
namespace {

using namespace std::chrono_literals;

TEST(Backoff, TriesAtOnceThenDoublesUpToAMinute) {
  Backoff least, most;
  EXPECT_EQ(least.next(0), 0s);
  EXPECT_EQ(most.next(0xFFFFFFFF), 0s);
  for (const Duration whole : {Duration(500ms), Duration(1s), Duration(2s), Duration(4s), Duration(8s), Duration(16s),
                               Duration(32s), Duration(60s), Duration(60s)}) {
    EXPECT_EQ(least.next(0), whole / 2);
    const Duration longest = most.next(0xFFFFFFFF);
    EXPECT_LE(longest, whole);
    EXPECT_GT(longest, whole - 1ms);
  }
}

TEST(Backoff, StaysAMinuteForEver) {
  Backoff backoff;
  for (int i = 0; i < 10'000; ++i) EXPECT_LE(backoff.next(static_cast<std::uint32_t>(i) * 7919U), 60s);
  EXPECT_GE(backoff.next(0), 30s);
}

TEST(Backoff, BeginsAnewAfterATunnelThatLasted) {
  Backoff backoff;
  for (int i = 0; i < 10; ++i) backoff.next(0);
  backoff.reset();
  EXPECT_EQ(backoff.next(0), 0s);
  EXPECT_EQ(backoff.next(0), 250ms);
}

TEST(Backoff, RandomBitsSpreadTheWaits) {
  Duration last{-1};
  for (std::uint32_t bits = 0; bits <= 0xFFFF; bits += 0x1111) {
    Backoff backoff;
    backoff.next(bits);
    const Duration wait = backoff.next(bits);
    EXPECT_GT(wait, last);
    last = wait;
  }
}

}  // namespace
}  // namespace qtrp::client
