// Our multiplexer against xtaci/smux (versions 2 and 1) and hashicorp/yamux, as client and as server of each.
#include <gtest/gtest.h>
#include <signal.h>

#include "connection.h"

namespace qtrp::mux::interop {
namespace {

using namespace std::chrono_literals;

struct Variant {
  Protocol protocol;
  bool client;  ///< our end
};

std::string name(Protocol protocol) {
  return protocol == Protocol::smux2 ? "smux2" : std::string(to_string(protocol));
}

std::vector<std::string> arguments(Variant variant, const std::string& scenario, std::vector<std::string> more = {}) {
  std::vector<std::string> words{"-protocol", name(variant.protocol), "-scenario", scenario};
  if (!variant.client) words.emplace_back("-client");
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

Options options(Variant variant) {
  Options chosen;
  chosen.protocol = variant.protocol;
  chosen.client = variant.client;
  return chosen;
}

class Interop : public testing::TestWithParam<Variant> {};

TEST_P(Interop, HundredsOfStreamsBothWaysOfAllSizes) {
  constexpr int kStreams = 300;
  constexpr std::uint64_t kBig = 64 << 20;
  Connection connection(options(GetParam()), arguments(GetParam(), "exchange",
                                                       {"-open", std::to_string(kStreams), "-serve",
                                                        std::to_string(kStreams), "-big", std::to_string(kBig)}));
  for (std::uint64_t i = 0; i < kStreams; ++i) {
    if (i == 0) {
      connection.open(i, kBig, 0);
    } else if (i == 1) {
      connection.open(i, 0, kBig);
    } else if (i % 40 == 2) {
      connection.open(i, 1 << 20, 1 << 20);
    } else {
      connection.open(i, i * i % 20000, i * 37 % 10000);
    }
  }
  EXPECT_TRUE(connection.run([&] { return connection.completed + connection.broken == 2 * kStreams; }))
      << connection.error.message << "; completed " << connection.completed;
  EXPECT_EQ(connection.completed, 2U * kStreams);
  EXPECT_TRUE(connection.resets.empty());
  EXPECT_EQ(connection.mux.counters().buffered, 0U);
  EXPECT_EQ(connection.finish(), 0);
}

TEST_P(Interop, AStreamThatThePeerClosesWhileWeSendEndsWithinTheTimeLimit) {
  // xtaci/smux says FIN, drops the rest and never speaks of the stream again; yamux keeps what its window holds.
  Options chosen = options(GetParam());
  chosen.half_close_timeout = 1s;
  Connection connection(chosen, arguments(GetParam(), "closer"));
  connection.judge = false;
  const auto stream = connection.open(1, 1ULL << 40, 0);
  if (GetParam().protocol == Protocol::smux1) {
    // Version 1 has no windows: all of it may be sent for ever, and silence is when we have nothing to say.
    EXPECT_TRUE(connection.run([&] { return connection.mux.counters().bytes_out > 1 << 20; }));
    connection.mux.reset(stream, session::ResetCode::cancelled);
  } else {
    EXPECT_TRUE(connection.run([&] { return !connection.resets.empty(); })) << connection.error.message;
    EXPECT_EQ(connection.resets.count(stream), 1U);
  }
  EXPECT_EQ(connection.mux.counters().streams, 0U);
  EXPECT_EQ(connection.finish(), 0);
}

TEST_P(Interop, ASlowReaderOfTheirsHoldsUpOnlyItself) {
  Connection connection(options(GetParam()), arguments(GetParam(), "slow", {"-serve", "6"}));
  const auto slow = connection.open(0, 8 << 20, 0);
  // Its SYN must be the first, so that it is the one that stops.
  ASSERT_TRUE(connection.run([&] { return connection.mux.counters().bytes_out > 100; }));
  for (std::uint64_t i = 1; i < 6; ++i) connection.open(i, 3 << 20, 100000);
  const auto began = Clock::now();
  ASSERT_TRUE(connection.run([&] { return connection.completed >= 5; })) << connection.error.message;
  EXPECT_LT(Clock::now() - began, 30s);
  if (GetParam().protocol != Protocol::smux1) {
    EXPECT_EQ(connection.talks.count(slow), 1U) << "the slow one is not done";
  }
  EXPECT_TRUE(connection.run([&] { return connection.completed == 6; })) << connection.error.message;
  EXPECT_EQ(connection.finish(), 0);
}

TEST_P(Interop, ASlowReaderOfOursHoldsUpOnlyItself) {
  Connection connection(options(GetParam()), arguments(GetParam(), "exchange", {"-open", "60", "-big", "20000000"}));
  session::StreamId slow = 0;
  std::size_t kept = 0;
  bool hold = true;
  connection.keep = [&](session::StreamId stream, std::size_t n) {
    // Whichever stream first brings much.
    if (slow == 0 && connection.talks.contains(stream) && connection.talks[stream]->received() > 500000) slow = stream;
    if (!hold || stream != slow) return false;
    kept += n;
    return true;
  };
  if (GetParam().protocol == Protocol::smux1) {
    ASSERT_TRUE(connection.run([&] { return !connection.mux.wants_read() || connection.completed == 60; }));
  } else {
    ASSERT_TRUE(connection.run([&] { return connection.completed >= 59; })) << connection.error.message;
  }
  ASSERT_NE(slow, 0U);
  EXPECT_LE(connection.mux.counters().buffered, (16U << 20) + 262144U);
  hold = false;
  connection.mux.moved(slow, kept);
  EXPECT_TRUE(connection.run([&] { return connection.completed == 60; })) << connection.error.message;
  EXPECT_EQ(connection.finish(), 0);
}

TEST_P(Interop, AResetOfOursEndsTheirStream) {
  Connection connection(options(GetParam()), arguments(GetParam(), "reset"));
  // In the middle of a body: behind a FIN the peer may have seen the end before the reset comes.
  const auto stream = connection.open(1, 64 << 20, 0);
  ASSERT_TRUE(connection.run([&] { return connection.mux.counters().bytes_out >= 100024; }));
  ASSERT_LT(connection.mux.counters().bytes_out, 32U << 20);
  connection.mux.reset(stream, session::ResetCode::cancelled);
  // Their Close answers, for a stream that is gone here: passed over. The session goes on: they open a stream.
  ASSERT_TRUE(connection.run([&] { return connection.mux.counters().accepted > 0; })) << connection.error.message;
  EXPECT_FALSE(connection.closed) << connection.error.message;
  EXPECT_EQ(connection.finish(), 0);
}

TEST_P(Interop, IdleSessionsLiveOnBothSidesKeepAlives) {
  Options chosen = options(GetParam());
  chosen.keepalive_interval = 300ms;
  chosen.keepalive_timeout = 1500ms;
  Connection connection(chosen, arguments(GetParam(), "exchange", {"-serve", "1", "-keepalive", "500ms"}));
  const auto idle_until = Clock::now() + 4s;
  Connection::run({&connection}, [&] { return Clock::now() > idle_until; }, 4);
  ASSERT_FALSE(connection.closed) << connection.error.message;
  connection.open(1, 1000, 1000);
  EXPECT_TRUE(connection.run([&] { return connection.completed == 1; })) << connection.error.message;
  EXPECT_EQ(connection.mux.ping_rtt() > Duration::zero(), GetParam().protocol == Protocol::yamux);
  EXPECT_EQ(connection.finish(), 0);
}

TEST_P(Interop, APeerThatFallsSilentIsGivenUp) {
  Options chosen = options(GetParam());
  chosen.keepalive_interval = 300ms;
  chosen.keepalive_timeout = 1s;
  Connection connection(chosen, arguments(GetParam(), "exchange", {"-serve", "1", "-keepalive", "300ms"}));
  ASSERT_EQ(::kill(connection.peer(), SIGSTOP), 0);
  connection.run([&] { return connection.closed; });
  EXPECT_TRUE(connection.closed);
  EXPECT_EQ(connection.error.kind, ErrorKind::timeout) << connection.error.message;
}

INSTANTIATE_TEST_SUITE_P(GoLibraries, Interop,
                         testing::Values(Variant{Protocol::smux2, true}, Variant{Protocol::smux2, false},
                                         Variant{Protocol::smux1, true}, Variant{Protocol::smux1, false},
                                         Variant{Protocol::yamux, true}, Variant{Protocol::yamux, false}),
                         [](const auto& variant) {
                           return name(variant.param.protocol) + (variant.param.client ? "_as_client" : "_as_server");
                         });

TEST(InteropDefaults, IdleSessionsOutliveEveryDefaultTimeOut) {
  // smux gives a silent peer up after 30 s; yamux pings after 30 s and waits 10 s for the answer.
  std::vector<std::unique_ptr<Connection>> connections;
  std::vector<Connection*> all;
  for (const Protocol protocol : {Protocol::smux2, Protocol::smux1, Protocol::yamux}) {
    const Variant variant{protocol, protocol != Protocol::smux1};
    connections.push_back(
        std::make_unique<Connection>(options(variant), arguments(variant, "exchange", {"-serve", "1"})));
    all.push_back(connections.back().get());
  }
  const auto until = Clock::now() + 36s;
  Connection::run(all, [&] { return Clock::now() > until; }, 36);
  for (Connection* connection : all) {
    ASSERT_FALSE(connection->closed) << connection->error.message;
    connection->open(1, 1000, 1000);
    EXPECT_TRUE(connection->run([&] { return connection->completed == 1; })) << connection->error.message;
    EXPECT_EQ(connection->finish(), 0);
  }
}

class YamuxInterop : public testing::TestWithParam<bool> {};

TEST_P(YamuxInterop, TheirGoAwayLetsStreamsFinishAndThenEndsTheSession) {
  const Variant variant{Protocol::yamux, GetParam()};
  Connection connection(options(variant), arguments(variant, "goaway"));
  connection.open(1, 3 << 20, 2 << 20);
  EXPECT_TRUE(connection.run([&] { return connection.closed; }));
  EXPECT_EQ(connection.completed, 1U);
  EXPECT_EQ(connection.error.kind, ErrorKind::closed) << connection.error.message;
  Conversation unused;
  EXPECT_FALSE(connection.mux.open(unused, nullptr).has_value());
  EXPECT_EQ(connection.finish(), 0);
}

TEST_P(YamuxInterop, OurGoAwayRefusesNewStreamsAndLetsRunningOnesFinish) {
  const Variant variant{Protocol::yamux, GetParam()};
  Connection connection(options(variant), arguments(variant, "leave"));
  ASSERT_TRUE(connection.run([&] { return connection.mux.counters().accepted >= 1; }));
  connection.mux.go_away();
  EXPECT_TRUE(connection.run([&] { return connection.completed >= 1; })) << connection.error.message;
  EXPECT_TRUE(connection.run([&] { return connection.mux.counters().streams == 0; }));
  EXPECT_EQ(connection.finish(), 0);
}

INSTANTIATE_TEST_SUITE_P(GoLibraries, YamuxInterop, testing::Bool(),
                         [](const auto& variant) { return variant.param ? "as_client" : "as_server"; });

}  // namespace
}  // namespace qtrp::mux::interop
