// Two ends against each other: everything written arrives, once, in order, however the bytes are cut.
#include <gtest/gtest.h>

#include <random>

#include "pair.h"

namespace qtrp::mux::test {
namespace {

struct Variant {
  Protocol protocol;
  bool extensions;
};

class Exchange : public testing::TestWithParam<Variant> {
 protected:
  Protocol protocol() const { return GetParam().protocol; }
  Pair make() const { return Pair(protocol(), GetParam().extensions); }
};

TEST_P(Exchange, StreamsArriveWholeWhereverTheBytesAreCut) {
  for (std::size_t piece = 1; piece <= 40; ++piece) {
    Pair pair(protocol(), GetParam().extensions);
    pair.server.answer_size = 333;
    const auto a = pair.client.open(0);
    const auto b = pair.client.open(777);
    ASSERT_TRUE(pair.settle(piece));
    for (const auto id : {a, b}) {
      EXPECT_EQ(pair.server.streams[id].received, id == a ? 0U : 777U);
      EXPECT_TRUE(pair.server.streams[id].finished);
      EXPECT_TRUE(pair.server.streams[id].intact);
      // The client's streams expect seed 1 unless told: the server answers with its own.
      EXPECT_EQ(pair.client.streams[id].received, 333U);
      EXPECT_TRUE(pair.client.streams[id].finished);
    }
    EXPECT_EQ(pair.client.mux.counters().streams, 0U);
    EXPECT_EQ(pair.server.mux.counters().streams, 0U);
    EXPECT_FALSE(pair.client.mux.wants_write());
  }
}

TEST_P(Exchange, AnyRoomIsEnoughForAHeaderAndAByte) {
  for (std::size_t room = 17; room < 80; ++room) {
    Pair pair(protocol(), GetParam().extensions);
    const auto id = pair.client.open(500);
    ASSERT_TRUE(pair.settle(SIZE_MAX, room));
    EXPECT_EQ(pair.server.streams[id].received, 500U);
    EXPECT_TRUE(pair.server.streams[id].finished && pair.server.streams[id].intact);
  }
}

TEST_P(Exchange, ManyStreamsOfAllSizesBothWaysWithRandomCutsAndPauses) {
  std::mt19937 random(42);
  Pair pair(protocol(), GetParam().extensions);
  pair.server.answer_size = 100000;
  std::vector<std::pair<StreamId, std::uint64_t>> opened;
  for (int step = 0; step < 4000; ++step) {
    if (opened.size() < 300 && random() % 4 == 0) {
      const std::uint64_t size = random() % 3 == 0 ? random() % 600000 : random() % 300;
      const auto id = pair.client.open(size);
      pair.client.streams[id].expect_seed = pair.server.answer_seed;
      opened.emplace_back(id, size);
    }
    // One owner now and then sits on what it got.
    pair.server.hold = random() % 3 == 0;
    if (!pair.server.hold) {
      for (auto& [id, seen] : pair.server.streams) {
        if (seen.unmoved > 0) pair.server.release_held(id);
      }
    }
    const std::size_t piece = 1 + random() % 5000;
    if (random() % 2 == 0) {
      Pair::carry(pair.client, pair.server, piece, 20 + random() % 70000);
    } else {
      Pair::carry(pair.server, pair.client, piece, 20 + random() % 70000);
    }
  }
  pair.server.hold = false;
  for (auto& [id, seen] : pair.server.streams) pair.server.release_held(id);
  ASSERT_TRUE(pair.settle(1000));
  ASSERT_EQ(opened.size(), 300U);
  for (const auto& [id, size] : opened) {
    EXPECT_EQ(pair.server.streams[id].received, size);
    EXPECT_TRUE(pair.server.streams[id].finished && pair.server.streams[id].intact);
    EXPECT_EQ(pair.client.streams[id].received, 100000U);
    EXPECT_TRUE(pair.client.streams[id].finished && pair.client.streams[id].intact);
  }
  EXPECT_EQ(pair.client.mux.counters().streams, 0U);
  EXPECT_EQ(pair.server.mux.counters().streams, 0U);
  EXPECT_EQ(pair.server.mux.counters().buffered, 0U);
}

TEST_P(Exchange, HalfClosedStreamStillCarriesTheAnswer) {
  Pair pair = make();
  pair.server.answer = false;
  pair.server.answer_size = 5000;
  const auto id = pair.client.open(100);
  ASSERT_TRUE(pair.settle());
  EXPECT_TRUE(pair.server.streams[id].finished);
  EXPECT_FALSE(pair.client.streams[id].finished);
  EXPECT_EQ(pair.client.mux.counters().streams, 1U);
  pair.client.streams[id].expect_seed = 2;
  pair.server.mux.ready(id);
  ASSERT_TRUE(pair.settle());
  EXPECT_EQ(pair.client.streams[id].received, 5000U);
  EXPECT_TRUE(pair.client.streams[id].finished && pair.client.streams[id].intact);
  EXPECT_EQ(pair.client.mux.counters().streams, 0U);
  EXPECT_EQ(pair.server.mux.counters().streams, 0U);
}

TEST_P(Exchange, AStreamWhoseReaderStopsStopsOnlyItself) {
  Pair pair = make();
  pair.server.answer_size = 0;
  const auto slow = pair.client.open(32 << 20);
  pair.server.hold = true;
  ASSERT_TRUE(pair.settle());
  const auto stopped_at = pair.server.streams[slow].received;
  EXPECT_GT(stopped_at, 0U);
  EXPECT_LE(stopped_at, (16U << 20) + 65536);
  pair.server.hold = false;
  // smux 1 has no windows: all that it can do is not to read on.
  EXPECT_EQ(pair.server.mux.wants_read(), protocol() != Protocol::smux1);
  if (protocol() == Protocol::smux1) {
    pair.server.release_held(slow);
    ASSERT_TRUE(pair.settle());
    EXPECT_EQ(pair.server.streams[slow].received, 32U << 20);
    return;
  }
  const auto quick = pair.client.open(1 << 20);
  ASSERT_TRUE(pair.settle());
  EXPECT_EQ(pair.server.streams[quick].received, 1U << 20);
  EXPECT_EQ(pair.server.streams[slow].received, stopped_at);
  EXPECT_EQ(pair.server.mux.counters().buffered, stopped_at);
  pair.server.release_held(slow);
  ASSERT_TRUE(pair.settle());
  EXPECT_EQ(pair.server.streams[slow].received, 32U << 20);
  EXPECT_TRUE(pair.server.streams[slow].intact);
}

TEST_P(Exchange, ResetDropsWhatWasQueuedAndReachesThePeer) {
  Pair pair = make();
  pair.server.hold = true;
  const auto id = pair.client.open(8 << 20);
  Pair::carry(pair.client, pair.server);
  pair.client.mux.reset(id, ResetCode::cancelled);
  ASSERT_TRUE(pair.settle());
  if (pair.server.streams[id].reset) {
    EXPECT_EQ(pair.server.streams[id].code, GetParam().extensions ? ResetCode::cancelled : ResetCode::unspecified);
    EXPECT_EQ(pair.server.mux.counters().buffered, 0U);
    EXPECT_EQ(pair.server.mux.counters().streams, 0U);
  } else {
    EXPECT_FALSE(GetParam().extensions);
    EXPECT_TRUE(pair.server.streams[id].finished) << "foreign smux: a FIN is all there is";
  }
  EXPECT_EQ(pair.client.mux.counters().streams, 0U);
  // What the other end still sends for it is passed over.
  const auto next = pair.client.open(10);
  ASSERT_TRUE(pair.settle());
  EXPECT_TRUE(pair.server.streams[next].finished);
}

TEST_P(Exchange, ASourceThatIsCutOffResetsItsStream) {
  Pair pair = make();
  const auto id = pair.client.open(1000, 1, false);
  ASSERT_TRUE(pair.settle());
  pair.client.streams[id].source->cut = true;
  pair.client.mux.ready(id);
  ASSERT_TRUE(pair.settle());
  EXPECT_EQ(pair.server.streams[id].received, 1000U);
  EXPECT_TRUE(pair.server.streams[id].reset || !GetParam().extensions);
  EXPECT_EQ(pair.client.mux.counters().streams, 0U);
}

TEST_P(Exchange, AStreamResetBeforeItsFirstFlushIsNeverSeen) {
  Pair pair = make();
  const auto id = pair.client.open(10);
  pair.client.mux.reset(id, ResetCode::cancelled);
  ASSERT_TRUE(pair.settle());
  EXPECT_EQ(pair.server.events, 0U);
  EXPECT_EQ(pair.client.mux.counters().streams, 0U);
}

TEST_P(Exchange, TenThousandStreamsAtOnce) {
  Pair pair = make();
  pair.client.check = pair.server.check = false;
  pair.server.answer_size = 10;
  pair.server.answer_finish = false;
  std::vector<StreamId> ids;
  for (int i = 0; i < 10000; ++i) {
    auto source = std::make_unique<PatternSource>(1, 10);
    auto id = pair.client.mux.open(*source, nullptr);
    if (!id) {  // yamux bounds what is unacknowledged
      EXPECT_EQ(id.error().kind, ErrorKind::limit);
      ASSERT_TRUE(pair.settle());
      EXPECT_GT(pair.client.can_open, 0);
      id = pair.client.mux.open(*source, nullptr);
    }
    ASSERT_TRUE(id.has_value());
    pair.client.streams[*id].source = std::move(source);
    ids.push_back(*id);
  }
  ASSERT_TRUE(pair.settle());
  EXPECT_EQ(pair.server.mux.counters().streams, 10000U);
  for (const auto id : ids) {
    ASSERT_EQ(pair.server.streams[id].received, 10U);
    ASSERT_TRUE(pair.server.streams[id].finished);
    ASSERT_EQ(pair.client.streams[id].received, 10U);
    pair.client.mux.reset(id, ResetCode::cancelled);
  }
  ASSERT_TRUE(pair.settle());
  EXPECT_EQ(pair.client.mux.counters().streams, 0U);
}

TEST_P(Exchange, IdleStreamsAndSourcesAreNotAskedWithoutNeed) {
  Pair pair = make();
  const auto id = pair.client.open(100, 1, false);
  ASSERT_TRUE(pair.settle());
  const auto calls = pair.client.streams[id].source->calls;
  EXPECT_LE(calls, 2U);
  ASSERT_TRUE(pair.settle());
  EXPECT_EQ(pair.client.streams[id].source->calls, calls);
  EXPECT_FALSE(pair.client.mux.wants_write());
}

INSTANTIATE_TEST_SUITE_P(Protocols, Exchange,
                         testing::Values(Variant{Protocol::smux2, true}, Variant{Protocol::smux2, false},
                                         Variant{Protocol::smux1, false}, Variant{Protocol::yamux, true},
                                         Variant{Protocol::yamux, false}),
                         [](const auto& variant) {
                           return std::string(to_string(variant.param.protocol)) +
                                  (variant.param.extensions ? "_own" : "_foreign");
                         });

}  // namespace
}  // namespace qtrp::mux::test
