// Windows that follow the link, and memory that stays within its bound, on a simulated link.
#include <gtest/gtest.h>

#include <deque>

#include "pair.h"

namespace qtrp::mux::test {
namespace {

/// A link with a rate and a delay, in steps of one millisecond of simulated time. Control frames back are delayed
/// likewise.
class Link {
 public:
  Link(Pair& pair, double bits_per_second, Duration round_trip)
      : pair_(pair), bytes_per_step_(static_cast<std::size_t>(bits_per_second / 8 / 1000)), delay_(round_trip / 2) {}

  /// Nobody measures the round trip.
  void keep_silent() { tells_ = false; }
  void run(Duration length) {
    for (Duration done{}; done < length; done += 1ms) step();
  }

 private:
  struct Piece {
    TimePoint arrives;
    std::vector<std::byte> bytes;
  };

  void step() {
    pair_.advance(1ms);
    if (++steps_ % 100 == 0 && tells_) {
      pair_.client.mux.set_rtt(2 * delay_);
      pair_.server.mux.set_rtt(2 * delay_);
    }
    send(pair_.client, to_server_, budget_to_server_);
    send(pair_.server, to_client_, budget_to_client_);
    arrive(to_server_, pair_.server);
    arrive(to_client_, pair_.client);
  }
  void send(End& from, std::deque<Piece>& queue, std::size_t& budget) {
    budget = std::min(budget + bytes_per_step_, bytes_per_step_ + 70000);
    while (budget > 0) {
      auto bytes = from.produce(std::min<std::size_t>(budget, 65536));
      if (bytes.empty()) return;
      budget -= bytes.size();
      queue.push_back({from.now + delay_, std::move(bytes)});
    }
  }
  static void arrive(std::deque<Piece>& queue, End& to) {
    while (!queue.empty() && queue.front().arrives <= to.now) {
      to.deliver(queue.front().bytes);
      queue.pop_front();
    }
  }

  Pair& pair_;
  std::size_t bytes_per_step_;
  Duration delay_;
  std::size_t steps_ = 0;
  bool tells_ = true;
  std::size_t budget_to_server_ = 0, budget_to_client_ = 0;
  std::deque<Piece> to_server_, to_client_;
};

constexpr std::uint64_t kEndless = 1ULL << 40;

Options own(Protocol protocol, bool client) {
  Options options = make_options(protocol, client, true);
  options.ours.initial_window = 64 << 10;
  return options;
}

double rate(End& to, StreamId id, Link& link, Duration length) {
  const auto before = to.streams[id].received;
  link.run(length);
  return static_cast<double>(to.streams[id].received - before) * 8 / std::chrono::duration<double>(length).count();
}

class FollowingWindow : public testing::TestWithParam<Protocol> {};

TEST_P(FollowingWindow, OneStreamFills90PercentOfAGigabitAt100MillisecondsWithoutConfiguration) {
  Pair pair(own(GetParam(), true), own(GetParam(), false));
  pair.server.check = false;
  Link link(pair, 1e9, 100ms);
  const auto id = pair.client.open(kEndless);
  link.run(3s);
  EXPECT_GE(rate(pair.server, id, link, 2s), 0.9e9);
}

TEST_P(FollowingWindow, GrowsAlsoWhereTheRoundTripIsUnknown) {
  Pair pair(own(GetParam(), true), own(GetParam(), false));
  pair.server.check = false;
  Link link(pair, 100e6, 100ms);
  link.keep_silent();
  const auto id = pair.client.open(kEndless);
  link.run(3s);
  EXPECT_GE(rate(pair.server, id, link, 2s), 0.9e8);
}

TEST_P(FollowingWindow, GrowsNoFurtherThanTheLinkNeeds) {
  Pair pair(own(GetParam(), true), own(GetParam(), false));
  pair.server.check = false;
  Link link(pair, 100e6, 20ms);  // 250 KB in flight
  const auto id = pair.client.open(kEndless);
  link.run(3s);
  EXPECT_GE(rate(pair.server, id, link, 1s), 0.9e8);
  pair.server.hold = true;  // what the peer may still send now is the window
  link.run(1s);
  EXPECT_LE(pair.server.streams[id].unmoved, 2 * 16 * 250000U)
      << "16 round trips' worth, room for losses, doubled once";
}

TEST_P(FollowingWindow, ReadersThatAllStopAtOnceStayWithinTheBoundAndNobodyIsReset) {
  Pair pair(own(GetParam(), true), own(GetParam(), false));
  pair.server.check = false;
  Link link(pair, 1e9, 50ms);
  std::vector<StreamId> ids;
  const int streams = GetParam() == Protocol::yamux ? 20 : 100;  // yamux begins with 256 KiB each
  for (int i = 0; i < streams; ++i) ids.push_back(pair.client.open(kEndless));
  link.run(3s);
  pair.server.hold = true;
  link.run(3s);
  EXPECT_LE(pair.server.mux.counters().buffered, 16U << 20);
  EXPECT_GT(pair.server.mux.counters().buffered, 4U << 20);
  for (const auto id : ids) EXPECT_FALSE(pair.server.streams[id].reset);
  // A full buffer does not stop a newcomer.
  pair.server.hold = false;
  const auto fresh = pair.client.open(1 << 20);
  link.run(1s);
  EXPECT_TRUE(pair.server.streams[fresh].finished);
}

TEST_P(FollowingWindow, AStreamThatFellIdleGivesItsCreditBackForOthersToGrow) {
  Options client = own(GetParam(), true);
  Options server = own(GetParam(), false);
  Pair pair(client, server);
  pair.server.check = false;
  Link link(pair, 1e9, 100ms);
  const auto first = pair.client.open(200 << 20, 1, false);
  link.run(4s);
  ASSERT_EQ(pair.server.streams[first].received, 200U << 20);
  link.run(2s);  // idle: the 14 MiB it had grown to return
  const auto second = pair.client.open(kEndless);
  link.run(3s);
  EXPECT_GE(rate(pair.server, second, link, 2s), 0.9e9);
  // And the first works on.
  pair.client.streams[first].source->available = pair.client.streams[first].source->size_ = 201 << 20;
  pair.client.mux.ready(first);
  link.run(2s);
  EXPECT_EQ(pair.server.streams[first].received, 201U << 20);
}

INSTANTIATE_TEST_SUITE_P(OwnEnds, FollowingWindow, testing::Values(Protocol::smux2, Protocol::yamux),
                         [](const auto& variant) { return std::string(to_string(variant.param)); });

TEST(FixedWindow, AForeignPeerGetsTheConfiguredOne) {
  for (const Protocol protocol : {Protocol::smux2, Protocol::yamux}) {
    Pair pair(protocol);
    pair.server.check = false;
    Link link(pair, 1e9, 100ms);
    const auto id = pair.client.open(kEndless);
    link.run(2s);
    const double full = (2 << 20) * 8 / 0.1;  // a window each round trip
    const double reached = rate(pair.server, id, link, 2s);
    EXPECT_LE(reached, full * 1.05);
    EXPECT_GE(reached, full * 0.8);
  }
}

TEST(Negotiation, StreamsOpenedBeforeItAdaptToEitherInitialWindow) {
  for (const std::uint32_t initial : {8U << 10, 1U << 20}) {
    Options client = make_options(Protocol::smux2, true, true);
    Options server = make_options(Protocol::smux2, false, true);
    server.ours.initial_window = initial;
    Pair pair(client, server);
    End early(client, TimePoint{} + 1000s);
    End late(server, TimePoint{} + 1000s);
    late.hold = true;
    const auto id = early.open(4 << 20);
    // The client has not heard the server's preface: it may use the library's window.
    const auto before = early.flush();
    EXPECT_NEAR(static_cast<double>(before.size()), 262144, 200);
    late.mux.negotiate(client.ours);
    late.deliver(before);
    early.mux.negotiate(server.ours);
    late.deliver(early.flush());
    ASSERT_FALSE(late.closed) << late.error.message;
    EXPECT_EQ(late.streams[id].received, std::max<std::uint64_t>(initial, 262144));
    late.hold = false;
    late.release_held(id);
    for (int turn = 0; turn < 10000; ++turn) {
      early.deliver(late.flush());
      late.deliver(early.flush());
    }
    EXPECT_TRUE(late.streams[id].finished && late.streams[id].intact);
  }
}

TEST(Negotiation, APeerWithoutExtensionsGetsNone) {
  Options client = make_options(Protocol::smux2, true, true);
  client.max_frame = 1 << 20;
  Options server = make_options(Protocol::smux2, false, false);
  Pair pair(client, server);
  const auto id = pair.client.open(300000);
  const auto reset = pair.client.open(1000, 1, false);
  ASSERT_TRUE(pair.settle());
  pair.client.mux.reset(reset, ResetCode::cancelled);
  ASSERT_TRUE(pair.settle());
  EXPECT_FALSE(pair.server.closed) << pair.server.error.message;
  EXPECT_TRUE(pair.server.streams[id].finished && pair.server.streams[id].intact);
  EXPECT_TRUE(pair.server.streams[reset].finished);
}

TEST(Memory, MovedForStreamsThatEndedAndTooMuchOfItAreHarmless) {
  Pair pair(Protocol::smux2, true);
  pair.server.hold = true;
  const auto id = pair.client.open(1000);
  ASSERT_TRUE(pair.settle());
  EXPECT_EQ(pair.server.mux.counters().streams, 1U) << "ended, but its bytes are still held";
  pair.server.mux.moved(id, 1U << 30);
  EXPECT_EQ(pair.server.mux.counters().buffered, 0U);
  EXPECT_EQ(pair.server.mux.counters().streams, 0U);
  pair.server.mux.moved(id, 1000);
  EXPECT_EQ(pair.server.mux.counters().buffered, 0U);
}

}  // namespace
}  // namespace qtrp::mux::test
