// The test link's queue model against scripted time: what it is asked for is what it does.
#include "link_queue.h"

#include <gtest/gtest.h>

#include "settings.h"

namespace qtrp::testlink {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr TimePoint kStart{seconds(1)};

struct Link : testing::Test {
  PacketPool pool;
  LinkDirection link{pool, 1};

  void set(std::initializer_list<std::string_view> settings, TimePoint now = kStart) {
    LinkParameters parameters = link.parameters(), other;
    for (const auto setting : settings) ASSERT_TRUE(apply(setting, parameters, other)) << setting;
    link.set(parameters, now);
  }
  void offer(std::uint32_t size, TimePoint now, std::byte mark = std::byte{}) {
    Packet packet = pool.take();
    packet->size = size;
    std::fill_n(packet->data, size, mark);
    link.offer(std::move(packet), now);
  }
  int drain(TimePoint now) {
    int count = 0;
    while (Packet packet = link.take(now)) {
      ++count;
      pool.give_back(std::move(packet));
    }
    return count;
  }
};

TEST_F(Link, DelaysByExactlyTheDelay) {
  set({"delay=50ms"});
  offer(1000, kStart);
  EXPECT_EQ(link.next(), kStart + milliseconds(50));
  EXPECT_EQ(drain(kStart + milliseconds(50) - std::chrono::nanoseconds(1)), 0);
  EXPECT_EQ(drain(kStart + milliseconds(50)), 1);
  EXPECT_EQ(link.next(), TimePoint::max());
}

TEST_F(Link, TransmitsAtTheRate) {
  set({"rate=12M", "queue=1s"});
  for (int i = 0; i < 10; ++i) offer(1500, kStart);  // 1 ms each
  for (int i = 1; i <= 10; ++i) {
    EXPECT_EQ(link.next(), kStart + milliseconds(i));
    EXPECT_EQ(drain(kStart + milliseconds(i)), 1);
  }
}

TEST_F(Link, RateIsExactInTheLongRun) {
  set({"rate=77.777k", "queue=1000s"});  // 1000 bytes take 102.858... ms
  constexpr int kPackets = 5000;
  for (int i = 0; i < kPackets; ++i) offer(1000, kStart);
  TimePoint last{};
  for (int i = 0; i < kPackets; ++i) {
    last = link.next();
    ASSERT_EQ(drain(last), 1);
  }
  EXPECT_NEAR(std::chrono::duration<double>(last - kStart).count(), kPackets * 8000.0 / 77'777, 1e-8);
}

TEST_F(Link, DropsAtTheTailOfAFullQueue) {
  set({"rate=8M", "queue=10kB"});
  for (int i = 0; i < 20; ++i) offer(1000, kStart);
  EXPECT_EQ(link.counters().dropped, 9U);  // one is being transmitted, ten wait
  offer(1000, kStart + milliseconds(1));   // one more has left the queue
  EXPECT_EQ(link.counters().dropped, 9U);
  EXPECT_EQ(drain(kStart + seconds(1)), 12);
  EXPECT_EQ(link.counters().queue_bytes_max, 10'000U);
}

TEST_F(Link, QueueInMillisecondsFollowsTheRate) {
  set({"rate=8M", "queue=5ms"});
  for (int i = 0; i < 20; ++i) offer(1000, kStart);
  EXPECT_EQ(link.counters().packets - link.counters().dropped, 6U);
  set({"rate=80M"});
  for (int i = 0; i < 100; ++i) offer(1000, kStart);
  EXPECT_EQ(link.counters().queue_bytes_max, 50'000U);
}

TEST_F(Link, LosesTheShareThatWasAskedFor) {
  set({"loss=5"});
  for (int i = 0; i < 200'000; ++i) {
    offer(100, kStart);
    drain(kStart);
  }
  EXPECT_NEAR(static_cast<double>(link.counters().lost), 10'000, 400);  // 4 standard deviations
  EXPECT_EQ(link.counters().delivered_packets + link.counters().lost, 200'000U);
}

TEST_F(Link, DuplicatesReordersAndCorrupts) {
  set({"duplicate=10%", "corrupt=10%", "reorder=10%", "reorder_by=3ms", "delay=1ms"});
  for (int i = 0; i < 10'000; ++i) offer(100, kStart, std::byte{0xab});
  EXPECT_NEAR(static_cast<double>(link.counters().reordered), 1000, 120);
  EXPECT_NEAR(static_cast<double>(link.counters().duplicated), 900, 120);
  int damaged = 0;
  const auto on_time = drain(kStart + milliseconds(3));
  int late = 0;
  for (; Packet packet = link.take(kStart + milliseconds(4)); ++late) {
    int bits = 0;
    for (std::uint32_t i = 0; i < packet->size; ++i) {
      bits += __builtin_popcount(static_cast<unsigned>(packet->data[i] ^ std::byte{0xab}));
    }
    EXPECT_LE(bits, 1);
    damaged += bits;
  }
  EXPECT_EQ(static_cast<std::uint64_t>(late), link.counters().reordered);
  EXPECT_EQ(static_cast<std::uint64_t>(on_time + late), 10'000 + link.counters().duplicated);
  EXPECT_NEAR(damaged, 100, 40);
}

TEST_F(Link, KeepsTheOrderWhenTheDelayIsLowered) {
  set({"delay=50ms"});
  offer(1, kStart);
  set({"delay=10ms"});
  offer(2, kStart + milliseconds(1));
  const Packet first = link.take(kStart + milliseconds(50)), second = link.take(kStart + milliseconds(50));
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->size, 1U);
  EXPECT_EQ(second->size, 2U);
}

TEST_F(Link, DownLosesWhatIsOnTheWire) {
  set({"delay=50ms"});
  offer(1000, kStart);
  set({"down"}, kStart + milliseconds(10));
  offer(1000, kStart + milliseconds(11));
  set({"up"}, kStart + milliseconds(12));
  EXPECT_EQ(link.next(), TimePoint::max());
  EXPECT_EQ(link.counters().lost, 2U);
  offer(1000, kStart + milliseconds(13));
  EXPECT_EQ(drain(kStart + milliseconds(63)), 1);
}

TEST_F(Link, StallHoldsTheQueueAndResumesAtTheRate) {
  set({"rate=8M", "queue=1s"});
  set({"stall"});
  for (int i = 0; i < 5; ++i) offer(1000, kStart);
  EXPECT_EQ(drain(kStart + milliseconds(100)), 0);
  EXPECT_EQ(link.next(), TimePoint::max());
  set({"up"}, kStart + milliseconds(100));
  EXPECT_EQ(drain(kStart + milliseconds(103)), 3);
  EXPECT_EQ(drain(kStart + milliseconds(105)), 2);
}

TEST_F(Link, RateChangeAppliesToWhatStillWaits) {
  set({"rate=8k", "queue=1000s"});  // 1000 bytes take a second
  for (int i = 0; i < 3; ++i) offer(1000, kStart);
  set({"rate=8M"}, kStart + milliseconds(500));
  EXPECT_EQ(drain(kStart + seconds(1) - microseconds(1)), 0);
  EXPECT_EQ(drain(kStart + seconds(1) + milliseconds(2)), 3);
}

TEST(Settings, NameDirectionsAndUnits) {
  LinkParameters a, b;
  ASSERT_TRUE(apply("a>b rate 2.5G", a, b));
  EXPECT_EQ(a.rate_bps, 2'500'000'000U);
  EXPECT_EQ(b.rate_bps, 0U);
  ASSERT_TRUE(apply("b>a loss=12.5%", a, b));
  EXPECT_EQ(b.loss, 0.125);
  EXPECT_EQ(a.loss, 0);
  ASSERT_TRUE(apply("queue 20kB", a, b));
  EXPECT_EQ(b.queue_bytes, 20'000U);
  ASSERT_TRUE(apply("queue 20", a, b));
  EXPECT_EQ(b.queue_bytes, 0U);
  EXPECT_EQ(b.queue_time, milliseconds(20));
}

TEST(Settings, RefuseWhatTheyDoNotKnow) {
  LinkParameters a, b;
  for (const auto* bad : {"", "speed 5", "loss", "loss x", "loss -1", "loss 5ms", "delay 5 6", "c>d loss 5", "downn"}) {
    EXPECT_FALSE(apply(bad, a, b)) << bad;
  }
}

}  // namespace
}  // namespace qtrp::testlink
