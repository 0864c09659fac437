// The connection and its path: addresses that change, what an unproven one gets, ECN, and connection ids that name
// their worker.
#include "simulation.h"

namespace qtrp::quic::test {
namespace {

TEST(Path, NatRebindingIsFollowed) {
  Tunnel t;
  ASSERT_TRUE(t.start());
  PatternSource down(1, 20 << 20);
  auto id = t.server.connection->open(down, nullptr);
  t.client.streams[*id].seed = 1;
  ASSERT_TRUE(t.run_until([&] { return t.client.streams[*id].bytes > 1'000'000; }));
  t.seen_as = *io::Endpoint::from_literal("192.0.2.1", 41111);
  ASSERT_TRUE(t.run_until([&] { return t.client.streams[*id].finished; }, 60s));
  EXPECT_TRUE(t.client.streams[*id].right);
  EXPECT_EQ(t.server.connection->peer(), "192.0.2.1:41111");
}

TEST(Path, TheClientMovesToAnotherAddressOfItsOwn) {
  Tunnel t;
  ASSERT_TRUE(t.start());
  PatternSource down(1, 20 << 20), up(2, 5 << 20);
  t.client.on_opened = [&](session::StreamId id) {
    t.client.streams[id].seed = 1;
    t.client.connection->attach(id, up, nullptr);
    t.client.connection->ready(id);
  };
  auto id = t.server.connection->open(down, nullptr);
  t.server.streams[*id].seed = 2;
  for (const char* local : {"203.0.113.1", "203.0.113.2", "203.0.113.3"}) {
    const std::uint64_t before = t.client.streams[*id].bytes;
    ASSERT_TRUE(t.run_until([&] { return t.client.streams[*id].bytes > before + 1'000'000; }));
    t.client.connection->migrate({*io::Endpoint::from_literal(local, 5000), t.client.connection->path().remote}, t.now);
  }
  ASSERT_TRUE(t.run_until([&] { return t.client.streams[*id].finished && t.server.streams[*id].finished; }, 60s));
  EXPECT_EQ(t.client.streams[*id].bytes, 20u << 20);
  EXPECT_EQ(t.server.streams[*id].bytes, 5u << 20);
  EXPECT_TRUE(t.client.streams[*id].right && t.server.streams[*id].right);
  EXPECT_EQ(t.server.connection->peer(), "203.0.113.3:5000");
}

TEST(Path, AnAddressThatHasNotAnsweredGetsThreeTimesWhatItSent) {
  Pair pair;
  ASSERT_TRUE(pair.run_until([&] { return pair.server.connection != nullptr; }));
  pair.cut_up = true;  // as from a forged address: no answer ever comes
  const std::uint64_t sent = pair.bytes_to_server;
  pair.run_for(9s);
  EXPECT_GT(pair.to_client, 1u);
  EXPECT_LE(pair.bytes_to_client, 3 * sent);  // RFC 9000, section 8.1
}

TEST(Path, AllConnectionIdsNameTheirWorker) {
  Tunnel t;
  t.worker = 2;
  t.workers = 3;
  ASSERT_TRUE(t.start());
  const std::string chosen_by_client = t.server.connection->identifiers().back();
  std::size_t own = 0;
  for (const ConnectionId& id : t.server.connection->identifiers()) {
    if (id == chosen_by_client) continue;
    EXPECT_EQ(static_cast<std::uint8_t>(id[0]) % 3, 2);
    ++own;
  }
  for (const ConnectionId& id : t.server.identifiers) EXPECT_EQ(static_cast<std::uint8_t>(id[0]) % 3, 2);
  EXPECT_GT(own, 1u) << "spare ones for migration";
}

TEST(Path, TheLargestDatagramThatFitsIsFound) {
  for (auto [mtu, found] :
       {std::pair<std::size_t, std::size_t>{65535, 1452}, {1452, 1452}, {1451, 1392}, {1391, 1200}}) {
    Tunnel t({.mtu = mtu});
    ASSERT_TRUE(t.start());
    PatternSource down(1, 5 << 20);
    auto id = t.server.connection->open(down, nullptr);
    t.client.streams[*id].seed = 1;
    ASSERT_TRUE(t.run_until([&] { return t.client.streams[*id].finished; }, 2min)) << mtu;
    EXPECT_TRUE(t.client.streams[*id].right);
    t.run_for(20s);
    EXPECT_EQ(t.server.connection->datagram_size(), found) << mtu;
  }
}

/// Downloads 20 MB; how many of the last thousand datagrams were sent as ECN-capable, and how long it took.
struct Download {
  std::uint64_t capable = 0;
  double seconds = 0;
};
Download download(const Weather& weather, const char* congestion = "bbr") {
  Options options;
  options.congestion = congestion;
  Tunnel t(weather, {}, options);
  EXPECT_TRUE(t.start());
  PatternSource down(1, 20 << 20);
  const TimePoint begun = t.now;
  auto id = t.server.connection->open(down, nullptr);
  EXPECT_TRUE(t.run_until([&] { return t.client.streams[*id].bytes > (15u << 20); }, 5min));
  const std::uint64_t before = t.ecn_capable, all_before = t.datagrams;
  EXPECT_TRUE(t.run_until([&] { return t.datagrams > all_before + 1000; }, 5min));
  Download out{.capable = t.ecn_capable - before};
  EXPECT_TRUE(t.run_until([&] { return t.client.streams[*id].finished; }, 5min));
  out.seconds = std::chrono::duration<double>(t.now - begun).count();
  return out;
}

TEST(Ecn, IsUsedOnAPathThatCarriesIt) {
  EXPECT_GT(download({.delay = 10ms, .rate = 12'500'000}).capable, 950u);
}
TEST(Ecn, IsGivenUpOnAPathThatErasesIt) {
  EXPECT_EQ(download({.delay = 10ms, .rate = 12'500'000, .bleach = true}).capable, 0u);
}
TEST(Ecn, ACongestionMarkCountsAsALossForCubicAndCostsNoByte) {
  const Weather fine{.delay = 10ms, .rate = 12'500'000, .queue = 8 << 20};
  Weather busy = fine;
  busy.mark = 0.01;
  const Download unmarked = download(fine, "cubic"), marked = download(busy, "cubic");
  EXPECT_GT(marked.capable, 950u);
  EXPECT_GT(marked.seconds, 2 * unmarked.seconds);
}

}  // namespace
}  // namespace qtrp::quic::test
