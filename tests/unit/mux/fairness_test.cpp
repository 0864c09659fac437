// Whose turn it is: equal shares by bytes, and newcomers first.
#include <gtest/gtest.h>

#include "frames.h"
#include "pair.h"

namespace qtrp::mux::test {
namespace {

constexpr std::uint64_t kEndless = 1ULL << 40;

/// The stream of the first frame in the bytes.
std::uint32_t first_stream(const std::vector<std::byte>& bytes) {
  return load_le<std::uint32_t>(&bytes.at(4));
}

/// Carries `chunks` of `room` bytes to the server.
void carry(Pair& pair, int chunks, std::size_t room) {
  for (int i = 0; i < chunks; ++i) {
    Pair::carry(pair.client, pair.server, SIZE_MAX, room);
    Pair::carry(pair.server, pair.client);
  }
}

TEST(Fairness, StreamsThatSendAllTheyCanGetEqualSharesWhateverTheChunks) {
  for (const std::size_t room : {1000, 16384, 65536, 300000}) {
    Pair pair(Protocol::smux2, true);
    pair.server.check = false;
    std::vector<StreamId> ids;
    for (int i = 0; i < 10; ++i) ids.push_back(pair.client.open(kEndless));
    carry(pair, static_cast<int>((20U << 20) / room), room);
    for (const auto id : ids) EXPECT_NEAR(static_cast<double>(pair.server.streams[id].received), 2 << 20, 140000);
  }
}

TEST(Fairness, ThousandsThatCompeteTakeShortTurns) {
  Pair pair(Protocol::smux2, true);
  pair.server.check = false;
  std::vector<StreamId> ids;
  for (int i = 0; i < 2000; ++i) ids.push_back(pair.client.open(kEndless));
  carry(pair, 3000, 16384);
  std::uint64_t least = kEndless, most = 0;
  for (const auto id : ids) {
    least = std::min(least, pair.server.streams[id].received);
    most = std::max(most, pair.server.streams[id].received);
  }
  EXPECT_GT(least, 0U);
  EXPECT_LE(most - least, 2U * 4096U);
}

TEST(Fairness, AMessageOnAnIdleStreamGoesBeforeDownloads) {
  Pair pair(Protocol::smux2, true);
  pair.server.check = false;
  const auto quiet = pair.client.open(100, 1, false);
  for (int i = 0; i < 50; ++i) pair.client.open(kEndless);
  ASSERT_NO_FATAL_FAILURE(carry(pair, 200, 16384));
  for (int message = 0; message < 20; ++message) {
    auto& source = *pair.client.streams[quiet].source;
    source.available = source.size_ = source.size_ + 100;
    pair.client.mux.ready(quiet);
    const auto out = pair.client.produce(16384);
    // Control frames (updates) may come first, data of other streams may not.
    EXPECT_EQ(first_stream(out), quiet);
    pair.server.deliver(out);
    carry(pair, 100, 16384);  // a round for everybody
  }
}

TEST(Fairness, FreshOnlyGivesKeystrokesAndNothingOfADownload) {
  Pair pair(Protocol::smux2, true);
  pair.server.check = false;
  const auto quiet = pair.client.open(100, 1, false);
  const auto download = pair.client.open(kEndless);
  ASSERT_NO_FATAL_FAILURE(carry(pair, 20, 16384));  // the download is no newcomer any more
  pair.server.drain();
  const auto fresh = [&] {
    std::vector<std::byte> out(65536);
    out.resize(pair.client.mux.produce(out, pair.client.now, true));
    return out;
  };
  EXPECT_TRUE(fresh().empty());
  auto& source = *pair.client.streams[quiet].source;
  source.available = source.size_ = source.size_ + 100;
  pair.client.mux.ready(quiet);
  auto out = fresh();
  ASSERT_EQ(out.size(), 8U + 100U);
  EXPECT_EQ(first_stream(out), quiet);
  pair.server.deliver(out);
  // One that was idle and has much to say gets 2 KiB in, and then stands in line with the download.
  source.size_ = source.available = kEndless;
  ASSERT_NO_FATAL_FAILURE(carry(pair, 100, 16384));
  pair.client.mux.ready(quiet);
  out = fresh();
  EXPECT_LE(out.size(), 8U + 2048U);
  pair.server.deliver(out);
  EXPECT_TRUE(fresh().empty());
  const auto before = pair.server.streams[quiet].received, others = pair.server.streams[download].received;
  ASSERT_NO_FATAL_FAILURE(carry(pair, 200, 16384));
  const double one = static_cast<double>(pair.server.streams[quiet].received - before);
  EXPECT_NEAR(one / static_cast<double>(pair.server.streams[download].received - others), 1, 0.4);
}

TEST(Fairness, ManyChattyStreamsCannotStarveADownload) {
  Pair pair(Protocol::smux2, true);
  pair.server.check = false;
  const auto download = pair.client.open(kEndless);
  std::vector<StreamId> chatty;
  for (int i = 0; i < 20; ++i) chatty.push_back(pair.client.open(kEndless, 1, false));
  for (const auto id : chatty) pair.client.streams[id].source->available = 0;
  const auto before = pair.server.streams[download].received;
  for (int turn = 0; turn < 2000; ++turn) {
    // Each always has 2000 bytes and always pretends to have been idle.
    for (const auto id : chatty) {
      auto& source = *pair.client.streams[id].source;
      source.available = source.given + 2000;
      pair.client.mux.ready(id);
    }
    carry(pair, 1, 16384);
  }
  const double share = static_cast<double>(pair.server.streams[download].received - before) / (2000.0 * 16384);
  EXPECT_GT(share, 0.8 / 21);
}

TEST(Fairness, AFrameIsNeverLargerThanItsLimits) {
  Options client = make_options(Protocol::smux2, true, true);
  client.max_frame = 20000;
  Pair pair(client, make_options(Protocol::smux2, false, true));
  pair.client.open(kEndless);
  const auto out = pair.client.produce(65536);
  EXPECT_EQ(load_le<std::uint16_t>(&out.at(8 + 2)), 20000);
}

}  // namespace
}  // namespace qtrp::mux::test
