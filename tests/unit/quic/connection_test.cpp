// The connection over a simulated link: handshake, streams, half-close, reset, limits, and the same under bad weather.
#include "simulation.h"

namespace qtrp::quic::test {
namespace {

using session::ResetCode;

TEST(Connection, BothEndsAgreeOnTheChannelBinding) {
  Pair pair;
  ASSERT_TRUE(pair.establish());
  PatternSource source(1, 10);
  ASSERT_EQ(pair.client.connection->open(source, nullptr), 0u);
  ASSERT_TRUE(pair.run_until([&] { return pair.server.established; }));
  Bytes ours = pair.client.connection->channel_binding(), theirs = pair.server.connection->channel_binding();
  EXPECT_EQ(ours.size(), 32u);
  EXPECT_TRUE(std::equal(ours.begin(), ours.end(), theirs.begin(), theirs.end()));
  EXPECT_TRUE(pair.client.connection->preface(true).empty());
  EXPECT_EQ(pair.server.connection->peer(), "192.0.2.1:40000");
  EXPECT_THAT(pair.client.connection->stats().cipher, testing::HasSubstr("TLS 1.3 AES-128-GCM"));
}

TEST(Connection, HandshakeAndFirstWordsTakeTwoRoundTrips) {
  Pair pair({.delay = 50ms});
  TimePoint start = pair.now;
  ASSERT_TRUE(pair.establish());
  EXPECT_LT(pair.now - start, 110ms);
  PatternSource source(1, 300);
  ASSERT_TRUE(pair.client.connection->open(source, nullptr));
  ASSERT_TRUE(pair.run_until([&] { return pair.server.streams[0].finished; }));
  EXPECT_LT(pair.now - start, 160ms);  // with the client's Finished
}

TEST(Connection, ServerOpensStreamsAndBothDirectionsCarryTheirBytes) {
  Tunnel t;
  ASSERT_TRUE(t.start());
  PatternSource down(1, 3'000'000), up(2, 2'000'000);
  int owner = 0;
  t.client.on_opened = [&](session::StreamId id) {
    t.client.streams[id].seed = 1;
    t.client.connection->attach(id, up, &owner);
    t.client.connection->ready(id);
  };
  auto id = t.server.connection->open(down, nullptr);
  ASSERT_TRUE(id);
  t.server.streams[*id].seed = 2;
  ASSERT_TRUE(t.run_until([&] { return t.client.streams[*id].finished && t.server.streams[*id].finished; }));
  EXPECT_EQ(t.client.streams[*id].bytes, 3'000'000u);
  EXPECT_EQ(t.server.streams[*id].bytes, 2'000'000u);
  EXPECT_TRUE(t.client.streams[*id].right);
  EXPECT_TRUE(t.server.streams[*id].right);
  EXPECT_EQ(t.client.streams[*id].owner, &owner);
  t.run_for(1s);
  EXPECT_EQ(t.server.connection->stats().streams, 1u);  // the control stream
  EXPECT_EQ(t.client.connection->stats().streams, 1u);
}

TEST(Connection, HalfCloseLeavesTheOtherDirectionOpen) {
  Tunnel t;
  ASSERT_TRUE(t.start());
  PatternSource down(1, 1000), up(2, 10, PatternSource::After::block);
  t.client.on_opened = [&](session::StreamId id) { t.client.connection->attach(id, up, nullptr); };
  auto id = t.server.connection->open(down, nullptr);
  ASSERT_TRUE(t.run_until([&] { return t.client.streams[*id].finished; }));
  t.run_for(2s);
  EXPECT_FALSE(t.server.streams[*id].finished);
  up.extend(5000, PatternSource::After::end);
  t.client.connection->ready(*id);
  ASSERT_TRUE(t.run_until([&] { return t.server.streams[*id].finished; }));
  EXPECT_EQ(t.server.streams[*id].bytes, 5010u);
}

TEST(Connection, AResetArrivesAsTheSameReset) {
  Tunnel t;
  ASSERT_TRUE(t.start());
  PatternSource down(1, 1 << 20, PatternSource::After::block);
  auto id = t.server.connection->open(down, nullptr);
  ASSERT_TRUE(t.run_until([&] { return t.client.streams[*id].opened; }));
  t.client.connection->reset(*id, ResetCode::refused);
  ASSERT_TRUE(t.run_until([&] { return t.server.streams[*id].reset.has_value(); }));
  EXPECT_EQ(*t.server.streams[*id].reset, ResetCode::refused);
  EXPECT_FALSE(t.server.streams[*id].finished);
  EXPECT_FALSE(t.client.streams[*id].reset) << "no event for one's own reset";
  t.run_for(1s);
  EXPECT_EQ(t.client.connection->stats().streams, 1u);
  EXPECT_EQ(t.server.connection->stats().streams, 1u);
}

TEST(Connection, AResetAfterOnesOwnEndStillArrives) {
  Tunnel t;
  ASSERT_TRUE(t.start());
  PatternSource down(1, 100), up(2, 1 << 20, PatternSource::After::block);
  t.client.on_opened = [&](session::StreamId id) {
    t.client.connection->attach(id, up, nullptr);
    t.client.connection->ready(id);
  };
  auto id = t.server.connection->open(down, nullptr);
  ASSERT_TRUE(t.run_until([&] { return t.client.streams[*id].finished && t.server.streams[*id].bytes > 0; }));
  t.server.connection->reset(*id, ResetCode::cancelled);  // its direction has ended already: STOP_SENDING alone tells
  ASSERT_TRUE(t.run_until([&] { return t.client.streams[*id].reset.has_value(); }));
  EXPECT_EQ(*t.client.streams[*id].reset, ResetCode::cancelled);
}

TEST(Connection, ASourcesErrorResetsTheStream) {
  Tunnel t;
  ASSERT_TRUE(t.start());
  PatternSource down(1, 10'000, PatternSource::After::error);
  auto id = t.server.connection->open(down, nullptr);
  ASSERT_TRUE(t.run_until([&] { return t.client.streams[*id].reset.has_value(); }));
  EXPECT_EQ(*t.client.streams[*id].reset, ResetCode::cancelled);
  EXPECT_FALSE(t.client.streams[*id].finished);
}

TEST(Connection, AStalledStreamHoldsItsWindowAndNobodyElse) {
  Options client;
  client.stream_window = 256 << 10;
  Tunnel t({}, client);
  ASSERT_TRUE(t.start());
  t.client.auto_moved = false;
  PatternSource stalled(1, 10 << 20), other(2, 100'000);
  auto a = t.server.connection->open(stalled, nullptr);
  t.run_for(2s);
  EXPECT_EQ(t.client.streams[*a].bytes, 256u << 10);
  EXPECT_LE(stalled.given, 256u << 10) << "read more than may be sent";
  auto b = t.server.connection->open(other, nullptr);
  ASSERT_TRUE(t.run_until([&] { return t.client.streams[*b].finished; }));
  t.client.auto_moved = true;
  t.client.connection->moved(*a, 256 << 10);
  ASSERT_TRUE(t.run_until([&] { return t.client.streams[*a].finished; }));
  EXPECT_EQ(t.client.streams[*a].bytes, 10u << 20);
}

TEST(Connection, StalledStreamsWithGrownWindowsLeaveRoomForOthers) {
  Tunnel t({.delay = 1ms});
  ASSERT_TRUE(t.start());
  std::deque<PatternSource> stalled;
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(t.server.connection->open(stalled.emplace_back(1, 1ull << 40), nullptr));
  t.run_for(30ms);  // taken as they come: windows grow
  t.client.auto_moved = false;
  t.run_for(2s);
  PatternSource other(2, 100'000);
  auto id = t.server.connection->open(other, nullptr);
  ASSERT_TRUE(id);
  EXPECT_TRUE(t.run_until([&] { return t.client.streams[*id].finished; }, 5s));
}

TEST(Connection, ReadersThatStoppedGoBeforeTheyStopEverybody) {
  Tunnel t({.delay = 1ms});
  ASSERT_TRUE(t.start());
  t.client.auto_moved = false;
  std::deque<PatternSource> sources;
  std::vector<session::StreamId> ids;
  for (int i = 0; i < 300; ++i) {  // 75 MiB would like to come, 64 may
    auto id = t.server.connection->open(sources.emplace_back(1, 1ull << 40), nullptr);
    ASSERT_TRUE(id);
    ids.push_back(*id);
  }
  const auto slow = ids.front();
  t.run_for(5s);
  PatternSource other(2, 100'000);
  auto id = t.server.connection->open(other, nullptr);
  ASSERT_TRUE(id);
  const auto resets = [&] {
    return std::ranges::count_if(ids, [&](auto each) { return t.client.streams[each].reset.has_value(); });
  };
  t.run_for(2s);
  EXPECT_EQ(resets(), 0) << "not before they have stood still for long";
  EXPECT_TRUE(t.run_until(
      [&] {
        t.client.connection->moved(slow, 100);
        return t.client.streams[*id].finished;
      },
      30s));
  EXPECT_FALSE(t.client.streams[slow].reset) << "it is slow, but it reads";
  EXPECT_GT(resets(), 30);
  EXPECT_LT(resets(), 100) << "no more than it takes";
  for (const auto each : ids) {
    const auto& reset = t.client.streams[each].reset;
    EXPECT_TRUE(!reset || *reset == ResetCode::limit);
  }
}

TEST(Connection, TheStreamWindowGrowsWithTheLink) {
  Options client;
  client.stream_window = 64 << 10;
  Tunnel t({.delay = 50ms}, client);
  ASSERT_TRUE(t.start());
  PatternSource down(1, 50 << 20);
  auto id = t.server.connection->open(down, nullptr);
  TimePoint start = t.now;
  ASSERT_TRUE(t.run_until([&] { return t.client.streams[*id].finished; }, 60s));
  // 64 KiB a round trip would take 80 s.
  EXPECT_LT(t.now - start, 10s);
}

TEST(Connection, TheStreamLimitIsToldAndLifted) {
  Options client;
  client.max_streams = 100;
  Tunnel t({}, client);
  ASSERT_TRUE(t.start());
  std::deque<PatternSource> sources;
  std::vector<session::StreamId> ids;
  for (int i = 0; i < 100; ++i) {
    auto id = t.server.connection->open(sources.emplace_back(1, 10, PatternSource::After::block), nullptr);
    ASSERT_TRUE(id);
    ids.push_back(*id);
  }
  auto refused = t.server.connection->open(sources.emplace_back(1, 10), nullptr);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, ErrorKind::limit);
  t.run_for(1s);
  EXPECT_FALSE(t.server.can_open);
  t.client.connection->reset(ids[5], ResetCode::refused);
  ASSERT_TRUE(t.run_until([&] { return t.server.can_open; }));
  EXPECT_TRUE(t.server.connection->open(sources.emplace_back(1, 10), nullptr));
}

TEST(Connection, TenThousandStreamsShareFewBuffers) {
  Tunnel t;
  ASSERT_TRUE(t.start());
  std::deque<PatternSource> sources;
  for (int i = 0; i < 10'000; ++i)
    ASSERT_TRUE(t.server.connection->open(sources.emplace_back(1, 20, PatternSource::After::block), nullptr));
  ASSERT_TRUE(t.run_until([&] { return t.client.opened.size() == 10'000; }));
  ASSERT_TRUE(t.run_until([&] {
    return std::all_of(t.client.streams.begin(), t.client.streams.end(),
                       [](auto& s) { return !s.second.opened || s.second.bytes == 20; });
  }));
}

TEST(Connection, AnUnauthenticatedPeerGetsOneStreamAnd64KiB) {
  Pair pair;
  ASSERT_TRUE(pair.establish());
  PatternSource control(1, 1 << 20), second(2, 10);
  ASSERT_TRUE(pair.client.connection->open(control, nullptr));
  auto other = pair.client.connection->open(second, nullptr);
  ASSERT_TRUE(other);
  ASSERT_TRUE(pair.run_until([&] { return pair.client.streams[*other].reset.has_value(); }));
  EXPECT_EQ(*pair.client.streams[*other].reset, ResetCode::limit);
  EXPECT_EQ(pair.server.opened.size(), 1u);
  pair.run_for(2s);
  EXPECT_EQ(pair.server.streams[0].bytes, (64u << 10) - 1);  // the tunnel's first byte was the 65,536th
  pair.server.connection->authenticated();
  ASSERT_TRUE(pair.run_until([&] { return pair.server.streams[0].finished; }));
  EXPECT_EQ(pair.server.streams[0].bytes, 1u << 20);
}

TEST(Connection, StreamsThatOvertakeTheServersProofWaitForIt) {
  Pair pair;
  pair.trusting = false;
  ASSERT_TRUE(pair.establish());
  PatternSource control(1, 10, PatternSource::After::block), down(2, 5000);
  ASSERT_TRUE(pair.client.connection->open(control, nullptr));
  ASSERT_TRUE(pair.run_until([&] { return pair.server.streams[0].opened; }));
  pair.server.connection->authenticated();
  auto id = pair.server.connection->open(down, nullptr);
  ASSERT_TRUE(id);
  pair.run_for(1s);
  EXPECT_TRUE(pair.client.opened.empty());
  EXPECT_EQ(pair.client.streams[*id].bytes, 0u);
  pair.client.connection->authenticated();
  ASSERT_TRUE(pair.run_until([&] { return pair.client.streams[*id].finished; }));
  EXPECT_EQ(pair.client.opened.size(), 1u);
  EXPECT_EQ(pair.client.streams[*id].bytes, 5000u);
}

TEST(Connection, CloseDeliversWhatIsQueuedAndTheReason) {
  Tunnel t;
  ASSERT_TRUE(t.start());
  PatternSource down(1, 300'000, PatternSource::After::block);
  auto id = t.server.connection->open(down, nullptr);
  t.run_for(1ms);
  t.server.connection->close({ErrorKind::denied, "wrong token"});
  EXPECT_FALSE(t.server.connection->open(down, nullptr));
  ASSERT_TRUE(t.run_until([&] { return t.client.closed && t.server.closed; }));
  EXPECT_EQ(t.client.streams[*id].bytes, 300'000u);
  EXPECT_EQ(t.client.closed->kind, ErrorKind::denied);
  EXPECT_EQ(t.client.closed->message, "wrong token");
  EXPECT_EQ(t.server.closed->message, "wrong token");
}

TEST(Connection, AnOrderlyEndIsOne) {
  Tunnel t;
  ASSERT_TRUE(t.start());
  t.client.connection->close({ErrorKind::closed, "bye"});
  ASSERT_TRUE(t.run_until([&] { return t.server.closed.has_value(); }));
  EXPECT_EQ(t.server.closed->kind, ErrorKind::closed);
  ASSERT_TRUE(t.run_until([&] {
    return t.client.connection->state() == Connection::State::dead &&
           t.server.connection->state() == Connection::State::dead;
  }));
}

TEST(Connection, AbandonedEndsAtOnce) {
  Tunnel t;
  ASSERT_TRUE(t.start());
  t.client.connection->abandon();
  ASSERT_TRUE(t.run_until([&] { return t.server.closed.has_value(); }, 100ms));
  EXPECT_FALSE(t.client.closed) << "no event for one's own doing";
}

TEST(Connection, KeepAliveBridgesSilence) {
  Tunnel t;
  ASSERT_TRUE(t.start());
  t.run_for(5min);
  EXPECT_FALSE(t.client.closed);
  EXPECT_FALSE(t.server.closed);
}

TEST(Connection, ADeadLinkIsNoticedByBothEnds) {
  Tunnel t;
  ASSERT_TRUE(t.start());
  t.cut = true;
  ASSERT_TRUE(t.run_until([&] { return t.client.closed && t.server.closed; }, 2min));
  EXPECT_EQ(t.client.closed->kind, ErrorKind::timeout);
  EXPECT_EQ(t.server.closed->kind, ErrorKind::timeout);
}

TEST(Connection, NobodyAnswersTheHandshake) {
  Pair pair;
  pair.cut = true;
  ASSERT_TRUE(pair.run_until([&] { return pair.client.closed.has_value(); }, 1min));
  EXPECT_EQ(pair.client.closed->kind, ErrorKind::timeout);
}

TEST(Connection, AnotherPinIsRefused) {
  identity::Certificate certificate = make_certificate();
  Pair wrong({}, {}, {}, {.ca_file = "", .pins = {pin_of(certificate)}, .server_name = ""});
  ASSERT_TRUE(wrong.run_until([&] { return wrong.client.closed.has_value(); }));
  EXPECT_EQ(wrong.client.closed->kind, ErrorKind::crypto);
  EXPECT_THAT(wrong.client.closed->message, testing::HasSubstr("not the pinned one"));
  EXPECT_FALSE(wrong.client.established);
}

struct Storm {
  const char* name;
  Weather weather;
};
class UnderWeather : public testing::TestWithParam<Storm> {};

TEST_P(UnderWeather, EverythingArrivesRight) {
  Tunnel t(GetParam().weather);
  ASSERT_TRUE(t.start());
  std::deque<PatternSource> sources;
  std::map<session::StreamId, std::uint64_t> sizes;
  t.client.on_opened = [&](session::StreamId id) {
    t.client.streams[id].seed = id;
    t.client.connection->attach(id, sources.emplace_back(id + 1, 50'000), nullptr);
    t.client.connection->ready(id);
  };
  for (std::uint64_t i = 0; i < 20; ++i) {
    std::uint64_t seed = 4 * i + 1;
    auto id = t.server.connection->open(sources.emplace_back(seed, i * 37'123), nullptr);
    ASSERT_TRUE(id);
    ASSERT_EQ(*id, seed);
    t.server.streams[*id].seed = *id + 1;
    sizes[*id] = i * 37'123;
  }
  ASSERT_TRUE(t.run_until(
      [&] {
        return std::all_of(sizes.begin(), sizes.end(), [&](auto& s) {
          return t.client.streams[s.first].finished && t.server.streams[s.first].finished;
        });
      },
      600s));
  for (auto [id, size] : sizes) {
    EXPECT_EQ(t.client.streams[id].bytes, size);
    EXPECT_EQ(t.server.streams[id].bytes, 50'000u);
    EXPECT_TRUE(t.client.streams[id].right && t.server.streams[id].right) << id;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Connection, UnderWeather,
    testing::Values(Storm{"fine", {}}, Storm{"loss", {.loss = 0.05}}, Storm{"heavyLoss", {.loss = 0.2}},
                    Storm{"duplicates", {.duplicate = 0.3}}, Storm{"reordering", {.jitter = 20ms}},
                    Storm{"corruption", {.corrupt = 0.05}},
                    Storm{"everything",
                          {.loss = 0.05, .duplicate = 0.05, .corrupt = 0.03, .jitter = 10ms, .rate = 2'500'000}}),
    [](const auto& storm) { return storm.param.name; });

}  // namespace
}  // namespace qtrp::quic::test
