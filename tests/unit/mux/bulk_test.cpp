// The zero-copy hooks: payload that never passes through produce() or receive(), with partial moves, mixed with
// everything else.
#include <gtest/gtest.h>

#include <random>

#include "frames.h"
#include "pair.h"

namespace qtrp::mux::test {
namespace {

Options with_frames(bool client, std::uint32_t max_frame) {
  Options options = make_options(Protocol::smux2, client, true);
  options.ours.max_frame = max_frame;
  return options;
}

/// Moves one frame as splice would: the header is ours, the body straight from the source. Nothing: no bulk to move.
std::optional<std::vector<std::byte>> splice(End& from, std::size_t least, std::size_t most) {
  const auto bulk = from.mux.next_bulk(least, from.now);
  if (!bulk) return std::nullopt;
  auto& source = dynamic_cast<PatternSource&>(*bulk->source);
  EXPECT_GE(bulk->max, least);
  const auto n = std::min<std::uint64_t>({bulk->max, most, source.available - source.given});
  std::vector<std::byte> body(n);
  for (std::size_t i = 0; i < n; ++i) body[i] = pattern(source.seed_, source.given + i);
  std::array<std::byte, Mux::kMaxHeader> header{};
  const auto size = from.mux.bulk_moved(*bulk, source.spliced(static_cast<std::int64_t>(n)), header, from.now);
  EXPECT_EQ(size > 0, n > 0);
  std::vector<std::byte> out(header.begin(), header.begin() + static_cast<std::ptrdiff_t>(size));
  out.insert(out.end(), body.begin(), body.end());
  return out;
}

TEST(Bulk, FramesAreAsLargeAsThePeerTakesWhenNobodyCompetesAndShorterWhenManyDo) {
  Pair pair(with_frames(true, 65535), with_frames(false, 262144));
  auto source = std::make_unique<PatternSource>(1, 1ULL << 40);
  source->splice = true;
  const auto id = pair.client.open(1ULL << 40);
  pair.client.streams[id].source->splice = true;
  EXPECT_FALSE(pair.client.mux.next_bulk(1, pair.client.now)) << "the open goes first";
  pair.server.deliver(pair.client.produce(16));
  pair.server.hold = false;
  auto bulk = pair.client.mux.next_bulk(65536, pair.client.now);
  ASSERT_TRUE(bulk);
  EXPECT_EQ(bulk->max, 262144U);
  EXPECT_FALSE(pair.client.mux.next_bulk(262145, pair.client.now)) << "less than asked for: by copy";
  for (int i = 0; i < 63; ++i) pair.client.streams[pair.client.open(1ULL << 40)].source->splice = true;
  pair.server.deliver(pair.client.produce(64 * 8));
  bulk = pair.client.mux.next_bulk(1, pair.client.now);
  ASSERT_TRUE(bulk);
  EXPECT_LE(bulk->max, 16384U);
}

TEST(Bulk, ASourceWithSomethingOfItsOwnToSayGoesByCopy) {
  Pair pair(with_frames(true, 65535), with_frames(false, 262144));
  pair.client.open(100000);
  pair.server.deliver(pair.client.produce(16));
  EXPECT_FALSE(pair.client.mux.next_bulk(1, pair.client.now));
}

TEST(Bulk, EverythingArrivesThroughAnyMixOfSpliceAndCopyOnBothSides) {
  std::mt19937 random(3);
  for (int round = 0; round < 10; ++round) {
    Pair pair(with_frames(true, 65535), with_frames(false, 262144));
    std::vector<std::pair<StreamId, std::uint64_t>> ids;
    for (int i = 0; i < 8; ++i) {
      const std::uint64_t size = random() % 2000000;
      ids.emplace_back(pair.client.open(size), size);
      pair.client.streams[ids.back().first].source->splice = i % 3 != 0;
    }
    for (int turn = 0; turn < 20000; ++turn) {
      std::vector<std::byte> out;
      if (random() % 2 == 0) {
        if (auto frame = splice(pair.client, 1 + random() % 1000, 1 + random() % 300000)) out = std::move(*frame);
      } else {
        out = pair.client.produce(20 + random() % 70000);
      }
      // The receiver bypasses what is left of a body after whatever it happened to read.
      Bytes wire(out);
      while (!wire.empty()) {
        const auto n = std::min<std::size_t>(wire.size(), 1 + random() % 100000);
        pair.server.deliver(wire.first(n));
        wire = wire.subspan(n);
        const auto ahead = pair.server.mux.body_ahead();
        if (!ahead || wire.empty()) continue;
        const auto bypass = std::min<std::size_t>({wire.size(), ahead->remaining, 1 + random() % 200000});
        auto& seen = pair.server.streams[ahead->stream];
        EXPECT_EQ(ahead->owner, &pair.server);
        for (std::size_t i = 0; i < bypass; ++i) {
          seen.intact = seen.intact && wire[i] == pattern(seen.expect_seed, seen.received + i);
        }
        seen.received += bypass;
        wire = wire.subspan(bypass);
        pair.server.mux.body_bypassed(bypass, pair.server.now);
        pair.server.mux.moved(ahead->stream, bypass);
        pair.server.drain();
      }
      Pair::carry(pair.server, pair.client);
    }
    for (const auto& [id, size] : ids) {
      EXPECT_EQ(pair.server.streams[id].received, size);
      EXPECT_TRUE(pair.server.streams[id].finished && pair.server.streams[id].intact);
    }
    EXPECT_EQ(pair.server.mux.counters().buffered, 0U);
    EXPECT_EQ(pair.client.mux.counters().streams, 0U);
  }
}

TEST(Bulk, TheEndAndTheErrorOfASplicedSourceAreTold) {
  Pair pair(with_frames(true, 65535), with_frames(false, 262144));
  const auto ended = pair.client.open(0);
  pair.client.streams[ended].source->splice = true;
  pair.server.deliver(pair.client.produce(16));
  auto bulk = pair.client.mux.next_bulk(1, pair.client.now);
  ASSERT_TRUE(bulk);
  std::array<std::byte, Mux::kMaxHeader> header{};
  EXPECT_EQ(
      pair.client.mux.bulk_moved(*bulk, {.n = 0, .status = Produced::Status::end, .code = {}}, header, pair.client.now),
      0U);
  ASSERT_TRUE(pair.settle());
  EXPECT_TRUE(pair.server.streams[ended].finished);

  const auto cut = pair.client.open(10);
  pair.client.streams[cut].source->splice = true;
  pair.server.deliver(pair.client.produce(16));
  bulk = pair.client.mux.next_bulk(1, pair.client.now);
  ASSERT_TRUE(bulk);
  pair.client.mux.bulk_moved(*bulk, {.n = 0, .status = Produced::Status::error, .code = ResetCode::cancelled}, header,
                             pair.client.now);
  ASSERT_TRUE(pair.settle());
  EXPECT_TRUE(pair.server.streams[cut].reset);
  EXPECT_EQ(pair.server.streams[cut].code, ResetCode::cancelled);
}

TEST(Bulk, NoMoreOfABodyMayBypassThanTheSessionHasRoomFor) {
  Pair pair(with_frames(true, 65535), with_frames(false, 65535));
  pair.server.mux.set_limits(8, 1000);
  pair.server.hold = true;
  const auto id = pair.client.open(3000);
  const auto out = pair.client.flush();
  pair.server.deliver({out.data(), 16 + 400});
  ASSERT_TRUE(pair.server.mux.body_ahead());
  EXPECT_EQ(pair.server.mux.body_ahead()->remaining, 600U);
  pair.server.mux.body_bypassed(600, pair.server.now);
  EXPECT_FALSE(pair.server.mux.body_ahead());
  EXPECT_EQ(pair.server.mux.counters().buffered, 1000U);
  // What was moved makes room again.
  pair.server.mux.moved(id, 100);
  ASSERT_TRUE(pair.server.mux.body_ahead());
  EXPECT_EQ(pair.server.mux.body_ahead()->remaining, 100U);
}

TEST(Bulk, ABodyOfAStreamThatWasResetIsNotAhead) {
  Pair pair(with_frames(true, 65535), with_frames(false, 65535));
  const auto id = pair.client.open(1000);
  const auto out = pair.client.flush();
  pair.server.deliver({out.data(), 16 + 500});
  ASSERT_TRUE(pair.server.mux.body_ahead());
  EXPECT_EQ(pair.server.mux.body_ahead()->remaining, 500U);
  pair.server.mux.reset(id, ResetCode::cancelled);
  EXPECT_FALSE(pair.server.mux.body_ahead());
  pair.server.deliver({out.data() + 516, out.size() - 516});
  EXPECT_EQ(pair.server.streams[id].received, 500U);
  EXPECT_FALSE(pair.server.closed);
}

}  // namespace
}  // namespace qtrp::mux::test
