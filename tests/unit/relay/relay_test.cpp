// The relay between a real socket, on both engines, and a session in memory that the test drives.
#include "qtrp/relay/relay.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "support/fake_session.h"
#include "support/loop_thread.h"

namespace qtrp::relay {
namespace {

using namespace test;
using session::ResetCode;

class RelayUnderTest final : public Relay {
 public:
  using Relay::Relay;
  std::vector<std::pair<End, ResetCode>> ends;

 private:
  void on_end(End end, ResetCode code) override { ends.emplace_back(end, code); }
};

class RelayTest : public testing::TestWithParam<std::string> {
 protected:
  RelayTest() : loop(GetParam()) {
    auto [near, far] = tcp_pair();
    socket = std::move(near);
    user = std::move(far);
    make_blocking(user.get());
    loop.call([&] {
      relay = std::make_unique<RelayUnderTest>(session, *loop, Relay::Side::server, Meters{&all, &proxy, &moved_much});
      id = *session.open(*relay, relay.get());
      relay->set_stream(id);
    });
  }
  ~RelayTest() override {
    loop.call([&] { relay.reset(); });
  }
  void connect() {
    loop.call([&] { relay->connect(std::move(socket)); });
  }
  void body(std::string_view text) {
    loop.call([&] { relay->on_body(as_bytes(text)); });
  }
  void finish() {
    loop.call([&] { relay->on_finished(); });
  }
  FakeSession::Stream& stream() { return session.streams.at(id); }
  // As a session would: pulls whenever the relay says that it is ready.
  bool await_sent(const std::string& text) {
    return loop.await("the bytes come out of the stream", [&] {
      session.pull(id);
      return stream().sent == text;
    });
  }
  bool await_end(End end, ResetCode code = ResetCode::unspecified) {
    if (!loop.await("the relay ends", [&] {
          session.pull(id);
          return !relay->ends.empty();
        }))
      return false;
    return loop.call([&] {
      EXPECT_EQ(relay->ends.size(), 1U);
      EXPECT_EQ(to_string(relay->ends[0].first), to_string(end));
      EXPECT_EQ(relay->ends[0].second, code);
      return true;
    });
  }

  LoopThread loop;
  FakeSession session;
  session::StreamId id = 0;
  stats::Counters all, proxy;
  std::atomic<TimePoint> moved_much{TimePoint{}};
  io::Fd socket, user;  // the relay's end until connect(), and the other one
  std::unique_ptr<RelayUnderTest> relay;
};
INSTANTIATE_TEST_SUITE_P(Engines, RelayTest, testing::Values("net", "epoll"), [](const auto& p) { return p.param; });

TEST_P(RelayTest, CarriesBothWaysAndCounts) {
  connect();
  body("from the stream");
  EXPECT_EQ(receive_all(user.get(), 15).text, "from the stream");
  ASSERT_TRUE(send_all(user.get(), "from the user"));
  ASSERT_TRUE(await_sent("from the user"));
  loop.call([&] {
    EXPECT_EQ(stream().moved, 15U);
    EXPECT_EQ(relay->bytes_to_socket(), 15U);
    EXPECT_EQ(relay->bytes_to_stream(), 13U);
    for (const stats::Counters* c : {&all, &proxy}) {  // at the server "in" is what users send
      EXPECT_EQ(c->bytes_in.load(), 13U);
      EXPECT_EQ(c->bytes_out.load(), 15U);
    }
  });
}

TEST_P(RelayTest, NotesWhenItHasMovedMuch) {
  connect();
  const auto noted = [&] { return moved_much.load() != TimePoint{}; };
  const std::string most(Meters::kMuch - 1, 'x');
  body(most);
  EXPECT_EQ(receive_all(user.get(), most.size()).text.size(), most.size());
  loop.call([&] { EXPECT_FALSE(noted()); });
  body("y");
  EXPECT_EQ(receive_all(user.get(), 1).text, "y");
  loop.call([&] {
    EXPECT_TRUE(noted());
    moved_much = TimePoint{};
  });
  std::thread sender([&] { EXPECT_TRUE(send_all(user.get(), most + "y")); });
  EXPECT_TRUE(await_sent(most + "y"));
  sender.join();
  loop.call([&] { EXPECT_TRUE(noted()); });
}

TEST_P(RelayTest, TheGreetingGoesFirstToTheSocketAndCountsForNothing) {
  loop.call([&] { relay->set_greeting(as_bytes("PROXY UNKNOWN\r\n")); });
  body("early");  // before there is a socket
  loop.call([&] { EXPECT_EQ(relay->sink_fd(), -1); });
  connect();
  body(" and late");
  EXPECT_EQ(receive_all(user.get(), 29).text, "PROXY UNKNOWN\r\nearly and late");
  loop.call([&] {
    EXPECT_EQ(stream().moved, 14U);
    EXPECT_EQ(relay->bytes_to_socket(), 14U);
    EXPECT_EQ(all.bytes_out.load(), 14U);
    EXPECT_GE(relay->sink_fd(), 0);  // bodies may be spliced from here on
  });
}

TEST_P(RelayTest, TheGreetingGoesOutThoughTheUserSaysNothing) {
  loop.call([&] { relay->set_greeting(as_bytes("hello")); });
  connect();
  EXPECT_EQ(receive_all(user.get(), 5).text, "hello");
  finish();
  EXPECT_EQ(receive_all(user.get()).end, 0);
  loop.call([&] { EXPECT_EQ(stream().moved, 0U); });
}

TEST_P(RelayTest, ThePrefixGoesFirstWhateverTheRoom) {
  const std::string prefix = pattern(1, 100);
  loop.call([&] {
    relay->set_prefix({as_bytes(prefix).begin(), as_bytes(prefix).end()});
    session.pull(id, 30);
    session.pull(id, 30, 7);
    EXPECT_EQ(stream().sent, prefix.substr(0, 60));
    session.pull(id);
    EXPECT_EQ(stream().sent, prefix);  // also before there is a socket
  });
  connect();
  ASSERT_TRUE(send_all(user.get(), "user"));
  await_sent(prefix + "user");
  loop.call([&] { EXPECT_EQ(relay->bytes_to_stream(), 4U); });
}

TEST_P(RelayTest, ReadsNothingThatIsNotAskedFor) {
  connect();
  // More than a socket's buffers hold: the user is stopped although nobody told him.
  ASSERT_EQ(::fcntl(user.get(), F_SETFL, O_NONBLOCK), 0);
  const std::string chunk(65536, 'x');
  std::size_t sent = 0;
  while (sent < 256U << 20) {
    const ssize_t n = ::send(user.get(), chunk.data(), chunk.size(), MSG_NOSIGNAL);
    if (n < 0) break;
    sent += static_cast<std::size_t>(n);
  }
  EXPECT_LT(sent, 256U << 20);
  loop.call([&] {
    EXPECT_EQ(relay->bytes_to_stream(), 0U);
    session.pull(id, 1000);
    EXPECT_EQ(relay->bytes_to_stream(), 1000U);
  });
  ASSERT_TRUE(loop.await("everything came", [&] {
    session.pull(id, SIZE_MAX, 65536);
    return stream().sent.size() == sent;
  }));
}

TEST_P(RelayTest, KeepsWhatTheSocketWillNotTakeAndGivesNoCreditForIt) {
  connect();
  const std::string text = pattern(2, 16 << 20);
  std::string_view rest = text;
  while (!rest.empty()) {
    body(rest.substr(0, 60'000));
    rest.remove_prefix(std::min<std::size_t>(rest.size(), 60'000));
  }
  loop.call([&] {
    EXPECT_LT(stream().moved, text.size());
    EXPECT_EQ(stream().moved, relay->bytes_to_socket());
  });
  finish();
  EXPECT_TRUE(receive_all(user.get()).text == text);
  loop.await("credit for all", [&] { return stream().moved == text.size(); });
}

TEST_P(RelayTest, WhatComesBeforeTheSocketIsKept) {
  body("early ");
  body("bytes");
  finish();
  loop.call([&] { EXPECT_EQ(stream().moved, 0U); });
  connect();
  const Received got = receive_all(user.get());
  EXPECT_EQ(got.text, "early bytes");
  EXPECT_EQ(got.end, 0);
  loop.call([&] {
    EXPECT_EQ(stream().moved, 11U);
    EXPECT_TRUE(relay->ends.empty());  // the user may still talk
  });
}

TEST_P(RelayTest, AnEndOfTheStreamIsAFinAndTheOtherDirectionGoesOn) {
  connect();
  body("last words");
  finish();
  const Received got = receive_all(user.get());
  EXPECT_EQ(got.text, "last words");
  EXPECT_EQ(got.end, 0);
  ASSERT_TRUE(send_all(user.get(), "still here"));
  ASSERT_TRUE(await_sent("still here"));
  user.reset();
  await_end(End::finished);
  loop.call([&] { EXPECT_TRUE(stream().ended); });
}

TEST_P(RelayTest, AFinOfTheSocketIsAnEndAndTheOtherDirectionGoesOn) {
  connect();
  ASSERT_TRUE(send_all(user.get(), "request"));
  ASSERT_EQ(::shutdown(user.get(), SHUT_WR), 0);
  ASSERT_TRUE(loop.await("the end", [&] {
    session.pull(id);
    return stream().ended;
  }));
  loop.call([&] {
    EXPECT_EQ(stream().sent, "request");
    EXPECT_TRUE(relay->ends.empty());
  });
  body("answer");
  finish();
  const Received got = receive_all(user.get());
  EXPECT_EQ(got.text, "answer");
  EXPECT_EQ(got.end, 0);
  await_end(End::finished);
}

TEST_P(RelayTest, AResetStreamIsNeverACleanEnd) {
  connect();
  body("half of it");
  EXPECT_EQ(receive_all(user.get(), 10).text, "half of it");
  loop.call([&] { relay->on_reset(ResetCode::unreachable); });
  EXPECT_EQ(receive_all(user.get()).end, ECONNRESET);
  await_end(End::stream_reset, ResetCode::unreachable);
  loop.call([&] { EXPECT_FALSE(stream().reset); });  // it is gone already, nothing is said back
}

TEST_P(RelayTest, ALostTunnelIsNeverACleanEnd) {
  connect();
  loop.call([&] { relay->session_lost(); });
  EXPECT_EQ(receive_all(user.get()).end, ECONNRESET);
  await_end(End::session_lost, ResetCode::session_lost);
}

TEST_P(RelayTest, AResetSocketResetsTheStreamWhileItIsRead) {
  connect();
  ASSERT_TRUE(send_all(user.get(), "x"));
  ASSERT_TRUE(await_sent("x"));
  close_with_reset(std::move(user));
  await_end(End::socket_broke);
  loop.call([&] { EXPECT_EQ(stream().reset, ResetCode::cancelled); });
}

TEST_P(RelayTest, AResetSocketResetsTheStreamAlsoWhileNobodyReads) {
  connect();
  // The tunnel takes nothing, so the relay does not read.
  close_with_reset(std::move(user));
  ASSERT_TRUE(loop.await("the relay ends", [&] { return !relay->ends.empty(); }));
  await_end(End::socket_broke);
  loop.call([&] { EXPECT_EQ(stream().reset, ResetCode::cancelled); });
}

TEST_P(RelayTest, AResetBehindTheUsersFinReachesTheStream) {
  connect();
  ASSERT_EQ(::shutdown(user.get(), SHUT_WR), 0);
  ASSERT_TRUE(loop.await("the end", [&] {
    session.pull(id);
    return stream().ended;
  }));
  close_with_reset(std::move(user));
  // A reset is known by writing at the latest.
  ASSERT_TRUE(loop.await("the relay ends", [&] {
    if (relay->ends.empty()) relay->on_body(as_bytes("more"));
    return !relay->ends.empty();
  }));
  await_end(End::socket_broke);
  loop.call([&] { EXPECT_EQ(stream().reset, ResetCode::cancelled); });
}

TEST_P(RelayTest, AbortResetsBothSides) {
  connect();
  loop.call([&] { relay->abort(ResetCode::shutting_down); });
  EXPECT_EQ(receive_all(user.get()).end, ECONNRESET);
  await_end(End::stream_reset, ResetCode::shutting_down);
  loop.call([&] { EXPECT_EQ(stream().reset, ResetCode::shutting_down); });
}

TEST_P(RelayTest, AbortWithoutASocketResetsTheStream) {
  body("kept");
  loop.call([&] {
    relay->abort(ResetCode::refused);
    EXPECT_EQ(stream().reset, ResetCode::refused);
    EXPECT_EQ(relay->ends.size(), 1U);
  });
}

TEST_P(RelayTest, NothingHappensAfterTheEnd) {
  connect();
  loop.call([&] {
    relay->on_reset(ResetCode::cancelled);
    relay->on_body(as_bytes("late"));
    relay->on_finished();
    relay->session_lost();
    relay->abort(ResetCode::limit);
    std::byte room[8];
    EXPECT_EQ(relay->produce(room).n, 0U);
    EXPECT_EQ(relay->ends.size(), 1U);
    EXPECT_FALSE(stream().reset);
  });
}

}  // namespace
}  // namespace qtrp::relay
