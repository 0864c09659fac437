// Keep-alive, dead peers, half-closed streams of foreign peers, and going away.
#include <gtest/gtest.h>

#include "frames.h"
#include "pair.h"

namespace qtrp::mux::test {
namespace {

/// Advances one end alone, ticking at its deadlines, and returns what it sent.
std::vector<std::byte> live(End& end, Duration length) {
  std::vector<std::byte> out;
  const auto until = end.now + length;
  while (end.mux.next_deadline() <= until) {
    EXPECT_GE(end.mux.next_deadline(), end.now - 1s) << "a deadline long past would spin";
    end.now = std::max(end.now, end.mux.next_deadline());
    end.mux.tick(end.now);
    const auto bytes = end.flush();
    out.insert(out.end(), bytes.begin(), bytes.end());
    end.drain();
    if (end.closed) return out;
  }
  end.now = until;
  return out;
}

TEST(KeepAlive, ANopLeavesForEveryIntervalOfSilence) {
  Options options = make_options(Protocol::smux2, true);
  options.keepalive_timeout = 0s;
  End end(options, TimePoint{} + 1000s);
  EXPECT_EQ(live(end, 35s), smux(3, 0) + smux(3, 0) + smux(3, 0));
}

TEST(KeepAlive, WhatIsSentAnywayCountsAsSpeaking) {
  End end(make_options(Protocol::smux2, true), TimePoint{} + 1000s);
  for (int i = 0; i < 10; ++i) {
    end.open(10);
    end.flush();
    end.deliver(smux(3, 0));
    EXPECT_TRUE(live(end, 9s).empty());
  }
}

TEST(KeepAlive, AYamuxPeerIsPingedAndItsAnswerMeasuresTheRoundTrip) {
  End end(make_options(Protocol::yamux, true), TimePoint{} + 1000s);
  const auto ping = live(end, 10s);
  EXPECT_EQ(ping, yamux(2, 1, 0, 1));
  end.now += 42ms;
  end.deliver(yamux(2, 2, 0, 1));
  EXPECT_EQ(end.mux.ping_rtt(), 42ms);
}

TEST(KeepAlive, ASilentPeerIsGivenUpAfterTheTimeOut) {
  End end(make_options(Protocol::smux2, true), TimePoint{} + 1000s);
  live(end, 20s);
  end.deliver(smux(3, 0));
  live(end, 29s);
  EXPECT_FALSE(end.closed);
  live(end, 2s);
  EXPECT_TRUE(end.closed);
  EXPECT_EQ(end.error.kind, ErrorKind::timeout);
  EXPECT_EQ(end.mux.next_deadline(), TimePoint::max());
}

TEST(KeepAlive, AVersionOnePeerThatIsNotReadIsNotGivenUp) {
  Options options = make_options(Protocol::smux1, false);
  options.session_buffer = 1000;
  End end(options, TimePoint{} + 1000s);
  end.hold = true;
  end.deliver(smux(0, 3, 0, 1) + smux(2, 3, 1000, 1) + zeros(1000));
  EXPECT_FALSE(end.mux.wants_read());
  live(end, 300s);
  EXPECT_FALSE(end.closed);
  end.release_held(3);
  EXPECT_TRUE(end.mux.wants_read());
  live(end, 300s);
  EXPECT_TRUE(end.closed);
}

TEST(HalfClose, AForeignPeerThatEndedAndFellSilentLosesTheStreamInTime) {
  End end(make_options(Protocol::smux2, false), TimePoint{} + 1000s);
  end.answer_finish = false;
  end.deliver(smux(0, 3) + smux(1, 3) + smux(0, 5));
  for (int i = 0; i < 13; ++i) {
    live(end, 9s);
    end.deliver(smux(3, 0));
  }
  EXPECT_FALSE(end.streams[3].reset);
  live(end, 10s);
  EXPECT_TRUE(end.streams[3].reset);
  EXPECT_FALSE(end.streams[5].reset) << "still open both ways";
  EXPECT_EQ(end.mux.counters().streams, 1U);
}

TEST(HalfClose, AForeignPeerThatStillTakesTheAnswerKeepsTheStream) {
  End end(make_options(Protocol::smux2, false), TimePoint{} + 1000s);
  end.answer_size = 1 << 30;
  end.deliver(smux(0, 3) + smux(1, 3));
  std::uint32_t consumed = 0;
  for (int i = 0; i < 20; ++i) {
    live(end, 20s);
    consumed += 1000;
    end.deliver(smux_update(3, consumed, 65536));
  }
  EXPECT_FALSE(end.streams[3].reset);
}

TEST(HalfClose, BetweenOwnEndsItLastsAsLongAsItLikes) {
  Pair pair(Protocol::smux2, true);
  pair.server.answer = false;
  pair.server.answer_size = 10;
  const auto id = pair.client.open(10);
  ASSERT_TRUE(pair.settle());
  for (int i = 0; i < 100; ++i) {
    pair.advance(10s);
    ASSERT_TRUE(pair.settle());
  }
  pair.server.mux.ready(id);
  ASSERT_TRUE(pair.settle());
  EXPECT_TRUE(pair.client.streams[id].finished);
  EXPECT_EQ(pair.client.streams[id].received, 10U);
}

TEST(GoAway, ThePeersRunningStreamsFinishAndThenTheSessionEndsInOrder) {
  Pair pair(Protocol::yamux);
  pair.server.answer = false;
  pair.server.answer_size = 10;
  const auto id = pair.client.open(10);
  ASSERT_TRUE(pair.settle());
  pair.server.mux.go_away();
  ASSERT_TRUE(pair.settle());
  PatternSource source(1, 1);
  const auto refused = pair.client.mux.open(source, nullptr);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().kind, ErrorKind::closed);
  EXPECT_FALSE(pair.client.closed);
  pair.server.mux.ready(id);
  ASSERT_TRUE(pair.settle());
  EXPECT_EQ(pair.client.streams[id].received, 10U);
  EXPECT_TRUE(pair.client.closed);
  EXPECT_EQ(pair.client.error.kind, ErrorKind::closed);
}

TEST(GoAway, StreamsThatCrossedItAreReset) {
  Pair pair(Protocol::yamux);
  const auto id = pair.client.open(10);
  pair.server.mux.go_away();
  ASSERT_TRUE(pair.settle());
  EXPECT_TRUE(pair.client.streams[id].reset);
  EXPECT_TRUE(pair.server.streams.empty());
}

}  // namespace
}  // namespace qtrp::mux::test
