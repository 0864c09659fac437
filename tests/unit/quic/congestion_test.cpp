// Controllers: their answers to scripted acknowledgements and losses, that ngtcp2 really obeys them, and what they make
// of a lossy link.
#include <fmt/format.h>

#include "simulation.h"

namespace qtrp::quic::test {
namespace {

TEST(Brutal, LossRaisesTheRateAndNeverShrinksTheWindow) {
  auto brutal = make_brutal(10'000'000);
  TimePoint now{1h};
  PathState path{.smoothed_rtt = 100ms, .min_rtt = 100ms, .packet_size = 1200};
  // The target without the 35 bytes around each packet's payload.
  const auto payload_rate = [&] { return static_cast<double>(brutal->rate(path, now)) * 1165 / 1200; };
  EXPECT_NEAR(payload_rate(), 10'000'000, 2);
  EXPECT_EQ(brutal->window(path, now), 2'000'000u);  // rate x RTT x 2
  for (int i = 0; i < 90; ++i) brutal->on_acked({.bytes = 1200}, path, now);
  for (int i = 0; i < 10; ++i) brutal->on_lost({.bytes = 1200}, path, now);
  EXPECT_NEAR(payload_rate(), 11'111'111, 2);
  EXPECT_GT(brutal->window(path, now), 2'000'000u);
  for (int i = 0; i < 1000; ++i) brutal->on_lost({.bytes = 1200}, path, now);
  EXPECT_NEAR(payload_rate(), 12'500'000, 2);  // the floor: 0.8
  brutal->set_target(1'000'000);
  EXPECT_NEAR(payload_rate(), 1'250'000, 2);
  brutal->reset(path, now);
  EXPECT_NEAR(payload_rate(), 1'000'000, 2);
}

/// Feeds a controller one acknowledgement a round trip, as a link of `rate` would give it.
struct Script {
  std::unique_ptr<Controller> controller = make_bbr();
  PathState path{.smoothed_rtt = 100ms, .min_rtt = 100ms, .packet_size = 1200};
  TimePoint now{1h};
  std::uint64_t delivered = 0;
  void round(std::uint64_t link, std::uint64_t lost = 0, Duration rtt = 100ms) {
    std::uint64_t sent = controller->rate(path, now) == 0
                             ? controller->window(path, now)
                             : std::min(controller->window(path, now), controller->rate(path, now) / 10);
    std::uint64_t got = std::min(sent, link / 10);
    now += 100ms;
    path.delivery_rate = got * 10;
    path.in_flight = got;
    controller->on_acked({.bytes = got}, path, now);
    // Eight acknowledgements; the first seven tell of the round trip only.
    for (int i = 0; i < 7; ++i)
      controller->on_ack({.prior_in_flight = sent, .delivered_when_sent = 0, .rtt = rtt}, path, now);
    controller->on_ack(
        {.prior_in_flight = sent, .delivered = got, .lost = lost, .delivered_when_sent = delivered, .rtt = rtt}, path,
        now);
    delivered += got;
  }
};

TEST(Bbr, FindsTheLinksRateAndStaysThere) {
  Script script;
  for (int i = 0; i < 30; ++i) script.round(25'000'000);
  double sum = 0;
  for (int i = 0; i < 8; ++i) {
    script.round(25'000'000);
    sum += static_cast<double>(script.controller->rate(script.path, script.now));
  }
  EXPECT_NEAR(sum / 8, 25e6, 1.5e6);
  EXPECT_NEAR(static_cast<double>(script.controller->window(script.path, script.now)), 5e6, 0.5e6);
}

TEST(Bbr, LossAloneChangesNothing) {
  Script script;
  for (int i = 0; i < 30; ++i) script.round(25'000'000);
  std::uint64_t before = script.controller->window(script.path, script.now);
  for (int i = 0; i < 8; ++i) script.round(25'000'000, 500'000);
  EXPECT_GE(script.controller->window(script.path, script.now), before);
}

TEST(Bbr, FollowsALinkThatGetsSlower) {
  Script script;
  for (int i = 0; i < 30; ++i) script.round(25'000'000);
  for (int i = 0; i < 30; ++i) script.round(2'500'000);
  EXPECT_LE(script.controller->rate(script.path, script.now), 2'500'000u * 5 / 4);
}

TEST(Bbr, LetsAQueueOfItsOwnDrainAndDoesNotYieldToSomebodyElses) {
  Script script;
  for (int i = 0; i < 30; ++i) script.round(25'000'000);
  auto fastest_of = [&](int rounds) {
    std::uint64_t fastest = 0;
    for (int i = 0; i < rounds; ++i) {
      script.round(25'000'000, 0, 130ms);
      fastest = std::max(fastest, script.controller->rate(script.path, script.now));
    }
    return fastest;
  };
  script.round(25'000'000, 0, 130ms);  // the rest of a probe may be in it
  while (script.controller->rate(script.path, script.now) > 23'000'000) script.round(25'000'000, 0, 130ms);
  EXPECT_LE(fastest_of(10), 22'500'000u);
  fastest_of(16);
  EXPECT_GT(fastest_of(8), 25'000'000u);  // it probes again
}

TEST(Bbr, RestsNowAndThenToSeeTheEmptyPath) {
  Script script;
  std::uint64_t least = UINT64_MAX;
  for (int i = 0; i < 300; ++i) {
    script.path.smoothed_rtt = 100ms;
    script.round(25'000'000);
    if (i > 50) least = std::min(least, script.controller->window(script.path, script.now));
    script.path.in_flight = 0;
  }
  EXPECT_GT(least, 1'000'000u);
}

/// Bytes a second that a bulk stream from server to client gets through a link.
double goodput(const Weather& weather, Options options, Duration how_long = 8s) {
  Pair pair(weather, {}, options);
  PatternSource control(9, 8, PatternSource::After::block), bulk(1, 1ull << 40);
  if (!pair.establish() || !pair.client.connection->open(control, nullptr)) return 0;
  if (!pair.run_until([&] { return pair.server.streams[0].opened; })) return 0;
  pair.server.connection->authenticated();
  pair.run_for(500ms);
  auto id = pair.server.connection->open(bulk, nullptr);
  pair.run_for(3s);
  std::uint64_t before = pair.client.streams[*id].bytes;
  pair.run_for(how_long);
  EXPECT_FALSE(pair.client.closed);
  return static_cast<double>(pair.client.streams[*id].bytes - before) * 1e9 / static_cast<double>(how_long.count());
}

Weather lossy(double loss) {
  return {.delay = 50ms, .loss = loss, .rate = 25'000'000, .queue = 1'250'000};
}

struct Case {
  double loss, brutal_mbps, bbr_mbps;
};
class LossyLink : public testing::TestWithParam<Case> {};

TEST_P(LossyLink, BrutalDeliversItsTarget) {
  if (!has_own_congestion()) GTEST_SKIP() << "not in this build's ngtcp2";
  double mbps = goodput(lossy(GetParam().loss), {.brutal_target = 150'000'000}) * 8e-6;
  RecordProperty("mbps", std::to_string(mbps));
  EXPECT_GT(mbps, GetParam().brutal_mbps);
  EXPECT_LT(mbps, 153);
}

TEST_P(LossyLink, BbrDoesNotGiveWay) {
  if (!has_own_congestion()) GTEST_SKIP() << "not in this build's ngtcp2";
  double mbps = goodput(lossy(GetParam().loss), {}) * 8e-6;
  RecordProperty("mbps", std::to_string(mbps));
  EXPECT_GT(mbps, GetParam().bbr_mbps);
}

INSTANTIATE_TEST_SUITE_P(Congestion, LossyLink,
                         testing::Values(Case{0, 140, 161}, Case{0.01, 140, 161}, Case{0.05, 140, 135},
                                         Case{0.1, 135, 117}, Case{0.2, 105, 35}),
                         [](const auto& link) {
                           return fmt::format("loss{}", static_cast<int>(link.param.loss * 100));
                         });

TEST(Congestion, BurstsStayUnderAMillisecond) {
  if (!has_own_congestion()) GTEST_SKIP() << "not in this build's ngtcp2";
  Pair pair({.delay = 20ms}, {}, {.brutal_target = 80'000'000});
  PatternSource control(9, 8, PatternSource::After::block), bulk(1, 20 << 20);
  ASSERT_TRUE(pair.establish() && pair.client.connection->open(control, nullptr));
  ASSERT_TRUE(pair.run_until([&] { return pair.server.streams[0].opened; }));
  pair.server.connection->authenticated();
  pair.run_for(500ms);
  pair.largest_departure = 0;
  TimePoint start = pair.now;
  auto id = pair.server.connection->open(bulk, nullptr);
  ASSERT_TRUE(pair.run_until([&] { return pair.client.streams[*id].finished; }));
  EXPECT_LE(pair.largest_departure, 10'300u);  // a millisecond of 80 Mbit/s, and what is around each packet
  double mbps = (20 << 20) * 8e-6 / std::chrono::duration<double>(pair.now - start).count();
  EXPECT_NEAR(mbps, 76, 5);
}

/// A small message's way and back beside a bulk stream.
struct SmallMessage {
  double loss;
  std::uint64_t target;
  double p50, p95;
};
class MessagesBesideBulk : public testing::TestWithParam<SmallMessage> {};

TEST_P(MessagesBesideBulk, DoNotWaitAndALostOneIsMissedWithinARoundTrip) {
  if (!has_own_congestion()) GTEST_SKIP() << "not in this build's ngtcp2";
  Pair pair(lossy(GetParam().loss), {.brutal_target = GetParam().target}, {.brutal_target = GetParam().target});
  PatternSource control(9, 8, PatternSource::After::block), bulk(1, 1ull << 40),
      question(2, 0, PatternSource::After::block), answer(3, 0, PatternSource::After::block);
  ASSERT_TRUE(pair.establish() && pair.client.connection->open(control, nullptr));
  ASSERT_TRUE(pair.run_until([&] { return pair.server.streams[0].opened; }));
  pair.server.connection->authenticated();
  pair.run_for(500ms);
  auto echo = pair.server.connection->open(question, nullptr);
  pair.client.on_opened = [&](session::StreamId id) {
    pair.client.connection->attach(id, id == *echo ? static_cast<session::Source&>(answer) : bulk, nullptr);
    if (id != *echo) pair.client.connection->ready(id);
  };
  PatternSource silent(4, 1, PatternSource::After::block);
  ASSERT_TRUE(pair.server.connection->open(silent, nullptr));  // the client's bulk stream answers it
  pair.run_for(3s);
  std::vector<double> times;
  for (std::uint64_t i = 1; i <= 150; ++i) {
    const TimePoint start = pair.now;
    question.extend(100, PatternSource::After::block);
    pair.server.connection->ready(*echo);
    ASSERT_TRUE(pair.run_until([&] { return pair.client.streams[*echo].bytes == i * 100; }));
    answer.extend(100, PatternSource::After::block);
    pair.client.connection->ready(*echo);
    ASSERT_TRUE(pair.run_until([&] { return pair.server.streams[*echo].bytes == i * 100; }));
    times.push_back(std::chrono::duration<double, std::milli>(pair.now - start).count());
    pair.run_for(20ms);
  }
  std::sort(times.begin(), times.end());
  RecordProperty("p50", std::to_string(times[75]));
  RecordProperty("p95", std::to_string(times[142]));
  RecordProperty("p99", std::to_string(times[148]));
  EXPECT_LT(times[75], GetParam().p50);
  EXPECT_LT(times[142], GetParam().p95);  // one loss; the hundredth message loses twice
}
INSTANTIATE_TEST_SUITE_P(Congestion, MessagesBesideBulk,
                         testing::Values(SmallMessage{0.01, 0, 108, 230}, SmallMessage{0.05, 0, 110, 240},
                                         SmallMessage{0.05, 150'000'000, 103, 230}),
                         [](const auto& p) {
                           return fmt::format("loss{}{}", static_cast<int>(p.param.loss * 100),
                                              p.param.target > 0 ? "brutal" : "bbr");
                         });

TEST(Congestion, CubicAndRenoAreNgtcp2sOwn) {
  for (const char* name : {"cubic", "reno"}) {
    Options options;
    options.congestion = name;
    EXPECT_EQ(congestion_name(options), name);
    EXPECT_GT(goodput({.delay = 10ms, .rate = 12'500'000, .queue = 250'000}, options, 5s), 8e6) << name;
  }
}

TEST(Congestion, TheTargetCanChangeWhileRunning) {
  if (!has_own_congestion()) GTEST_SKIP() << "not in this build's ngtcp2";
  Pair pair({.delay = 10ms}, {}, {.brutal_target = 80'000'000});
  PatternSource control(9, 8, PatternSource::After::block), bulk(1, 1ull << 40);
  ASSERT_TRUE(pair.establish() && pair.client.connection->open(control, nullptr));
  ASSERT_TRUE(pair.run_until([&] { return pair.server.streams[0].opened; }));
  pair.server.connection->authenticated();
  pair.server.connection->set_target(8'000'000, true);
  auto id = pair.server.connection->open(bulk, nullptr);
  pair.run_for(2s);
  std::uint64_t before = pair.client.streams[*id].bytes;
  pair.run_for(4s);
  EXPECT_NEAR(static_cast<double>(pair.client.streams[*id].bytes - before), 4e6, 0.4e6);
  EXPECT_EQ(pair.server.connection->stats().target_bps, 8'000'000u);
  EXPECT_EQ(pair.server.connection->stats().congestion, "brutal");
}

}  // namespace
}  // namespace qtrp::quic::test
