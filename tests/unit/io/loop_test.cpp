// Both engines must behave alike: every case runs on each.
#include "qtrp/io/loop.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>

#include "qtrp/io/socket.h"
#include "support/loop_thread.h"

namespace qtrp::io {
namespace {

using qtrp::test::close_with_reset;
using std::chrono::milliseconds;
using std::chrono::seconds;

class LoopTest : public testing::TestWithParam<std::string> {
 protected:
  LoopTest() : loop(GetParam() == "net" ? make_asio_loop() : make_epoll_loop()) {}
  // Runs until stop(); a test that never gets there fails instead of hanging.
  void run() {
    loop->after(seconds(20), [this] {
      ADD_FAILURE() << "the awaited event did not come";
      loop->stop();
    });
    loop->run();
  }
  std::unique_ptr<Loop> loop;
};
INSTANTIATE_TEST_SUITE_P(Engines, LoopTest, testing::Values("net", "epoll"), [](const auto& p) { return p.param; });

// Collects what arrives; the test reacts in `on_change`.
struct Recorder final : SocketListener {
  void on_readable() override {
    std::byte buffer[4096];
    for (;;) {
      const IoResult r = socket->read(MutableBytes(buffer).first(chunk));
      if (r.status == IoResult::Status::would_block) break;
      if (r.status == IoResult::Status::end) ended = true;
      if (r.status == IoResult::Status::error) error = r.error;
      if (!r.ok()) break;
      text += as_text(Bytes(buffer).first(r.n));
      if (r.n < chunk) break;
    }
    if (!ended && error == 0) socket->await_readable();
    if (on_change) on_change();
  }
  void on_broken() override {
    broken = true;
    if (on_change) on_change();
  }
  std::unique_ptr<Socket> socket;
  std::size_t chunk = 4096;
  std::string text;
  bool ended = false, broken = false;
  int error = 0;
  std::function<void()> on_change;
};

TEST_P(LoopTest, RunsTimersInOrderAndPostsFromOtherThreads) {
  std::string order;
  loop->after(milliseconds(30), [&] { order += 'b'; });
  loop->after(milliseconds(10), [&] { order += 'a'; });
  const TimerId gone = loop->after(milliseconds(5), [&] { order += 'x'; });
  loop->cancel(gone);
  std::thread other([&] { loop->post([&] { order += 'p'; }); });
  loop->after(milliseconds(60), [&] { loop->stop(); });
  run();
  other.join();
  EXPECT_EQ(order, "pab");
}

TEST_P(LoopTest, RunsTurnEndWorkOnceATurnAndAfterTheHandlers) {
  std::string order;
  TurnEnd work([&] { order += 'e'; });
  loop->post([&] {
    order += '1';
    loop->at_turn_end(work);
    loop->at_turn_end(work);
    order += '2';
    loop->after(milliseconds(5), [&] { loop->stop(); });
  });
  run();
  EXPECT_EQ(order, "12e");
}

TEST_P(LoopTest, CarriesBytesAndTheEndBothWays) {
  Recorder server, client;
  auto listener = Listener::listen(*loop, *Endpoint::from_literal("127.0.0.1", 0), [&](Fd fd, const Endpoint&) {
    server.socket = std::make_unique<Socket>(*loop, std::move(fd), server);
    server.socket->await_readable();
    // The client's end arrives with its last bytes: a short read must not hide it.
    server.on_change = [&] {
      if (!server.ended) return;
      server.socket->write(as_bytes("answer"));
      server.socket->shutdown_write();
    };
  });
  ASSERT_TRUE(listener);
  Connector connector(*loop, {(*listener)->local()}, {}, [&](Result<Fd> fd) {
    ASSERT_TRUE(fd);
    client.socket = std::make_unique<Socket>(*loop, std::move(*fd), client);
    client.socket->write(as_bytes("question"));
    client.socket->shutdown_write();
    client.on_change = [&] {
      if (client.ended) loop->stop();
    };
    client.socket->await_readable();
  });
  run();
  EXPECT_EQ(server.text, "question");
  EXPECT_EQ(client.text, "answer");
  EXPECT_EQ(client.error, 0);
}

TEST_P(LoopTest, GivesUnreadBytesAgainWithoutANewEdge) {
  Recorder server;
  server.chunk = 3;  // each call reads three bytes and asks again
  std::string all(10'000, 'x');
  auto listener = Listener::listen(*loop, *Endpoint::from_literal("127.0.0.1", 0), [&](Fd fd, const Endpoint&) {
    server.socket = std::make_unique<Socket>(*loop, std::move(fd), server);
    server.socket->await_readable();
    server.on_change = [&] {
      if (server.ended) loop->stop();
    };
  });
  Recorder client;
  Connector connector(*loop, {(*listener)->local()}, {}, [&](Result<Fd> fd) {
    client.socket = std::make_unique<Socket>(*loop, std::move(*fd), client);
    client.socket->write(as_bytes(all));
    client.socket->shutdown_write();
  });
  run();
  EXPECT_EQ(server.text, all);
}

TEST_P(LoopTest, UrgentDataIsReadInItsPlaceAndHidesNothingBehindIt) {
  Recorder server;
  Fd peer;
  auto listener = Listener::listen(*loop, *Endpoint::from_literal("127.0.0.1", 0), [&](Fd fd, const Endpoint&) {
    server.socket = std::make_unique<Socket>(*loop, std::move(fd), server);
    server.socket->await_readable();
    server.on_change = [&] {
      if (server.text.size() == 13) loop->stop();
    };
    // Once it waits. All of it is announced by one edge, and no other one follows.
    loop->after(milliseconds(20), [&] {
      ASSERT_EQ(::send(peer.get(), "before", 6, 0), 6);
      ASSERT_EQ(::send(peer.get(), "!", 1, MSG_OOB), 1);
      ASSERT_EQ(::send(peer.get(), "behind", 6, 0), 6);
    });
  });
  const Endpoint to = (*listener)->local();
  peer = Fd(::socket(AF_INET, SOCK_STREAM, 0));
  ASSERT_EQ(::connect(peer.get(), to.data(), to.size()), 0);
  run();
  EXPECT_EQ(server.text, "before!behind");
}

TEST_P(LoopTest, AResetAfterUrgentDataIsNoticedWithoutReading) {
  Recorder server;
  Fd peer;
  server.on_change = [&] {
    if (server.broken) return loop->stop();
    if (server.text != "a!b") return;
    server.socket->pause_reading();
    close_with_reset(std::move(peer));
  };
  auto listener = Listener::listen(*loop, *Endpoint::from_literal("127.0.0.1", 0), [&](Fd fd, const Endpoint&) {
    server.socket = std::make_unique<Socket>(*loop, std::move(fd), server);
    server.socket->await_readable();
    ASSERT_EQ(::send(peer.get(), "a", 1, 0), 1);
    ASSERT_EQ(::send(peer.get(), "!", 1, MSG_OOB), 1);
    ASSERT_EQ(::send(peer.get(), "b", 1, 0), 1);
  });
  const Endpoint to = (*listener)->local();
  peer = Fd(::socket(AF_INET, SOCK_STREAM, 0));
  ASSERT_EQ(::connect(peer.get(), to.data(), to.size()), 0);
  run();
  EXPECT_TRUE(server.broken);
}

TEST_P(LoopTest, SpliceThatStopsAtUrgentDataIsNotTakenForDrained) {
  Recorder server;
  Fd peer;
  int pipe[2];
  ASSERT_EQ(::pipe2(pipe, O_NONBLOCK | O_CLOEXEC), 0);
  const Fd out(pipe[0]), in(pipe[1]);
  std::string spliced;
  bool stopped = false;
  auto listener = Listener::listen(*loop, *Endpoint::from_literal("127.0.0.1", 0), [&](Fd fd, const Endpoint&) {
    server.socket = std::make_unique<Socket>(*loop, std::move(fd), server);
    ASSERT_EQ(::send(peer.get(), "before", 6, 0), 6);
    ASSERT_EQ(::send(peer.get(), "!", 1, MSG_OOB), 1);
    ASSERT_EQ(::send(peer.get(), "behind", 6, 0), 6);
    loop->after(milliseconds(20), [&] {  // the engine has told of it by then
      const IoResult first = server.socket->splice_to(in.get(), 100);
      EXPECT_EQ(first.n, 6U);
      const IoResult second = server.socket->splice_to(in.get(), 100);
      EXPECT_EQ(second.status, IoResult::Status::error);
      EXPECT_EQ(second.error, EAGAIN);
      EXPECT_FALSE(server.socket->drained());
      stopped = true;
      server.socket->await_readable();
    });
    server.on_change = [&] {
      if (server.text.size() == 7) loop->stop();
    };
  });
  const Endpoint to = (*listener)->local();
  peer = Fd(::socket(AF_INET, SOCK_STREAM, 0));
  ASSERT_EQ(::connect(peer.get(), to.data(), to.size()), 0);
  run();
  EXPECT_TRUE(stopped);
  EXPECT_EQ(server.text, "!behind");
  EXPECT_TRUE(server.socket->drained());
}

TEST_P(LoopTest, TellsAResetFromAnEnd) {
  Recorder reading, idle;
  int accepted = 0;
  const auto settled = [&] {
    if (reading.error != 0 && idle.broken) loop->stop();
  };
  reading.on_change = idle.on_change = settled;
  std::vector<Fd> peers;
  auto listener = Listener::listen(*loop, *Endpoint::from_literal("127.0.0.1", 0), [&](Fd fd, const Endpoint&) {
    Recorder& mine = accepted++ == 0 ? reading : idle;
    mine.socket = std::make_unique<Socket>(*loop, std::move(fd), mine);
    if (&mine == &reading) mine.socket->await_readable();
    if (accepted == 2) {
      for (Fd& peer : peers) {
        const linger now{1, 0};
        ::setsockopt(peer.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
      }
      peers.clear();
    }
  });
  const Endpoint to = (*listener)->local();
  for (int i = 0; i < 2; ++i) {
    Fd fd(::socket(AF_INET, SOCK_STREAM, 0));
    ASSERT_EQ(::connect(fd.get(), to.data(), to.size()), 0);
    peers.push_back(std::move(fd));
  }
  run();
  EXPECT_EQ(reading.error, ECONNRESET);
  EXPECT_FALSE(reading.ended);
  // The one nobody read from still reports the reset when it is read.
  std::byte buffer[16];
  const IoResult r = idle.socket->read(buffer);
  EXPECT_EQ(r.status, IoResult::Status::error);
}

// Writes until the kernel says that enough stands unsent, which is long before write() would block; then the reader
// makes room, and the edge comes.
TEST_P(LoopTest, AWriterThatKeepsTheQueueShortIsToldWhenItIs) {
  auto [near, far] = qtrp::test::tcp_pair();
  const int lowat = 8192, small = 16384;
  ASSERT_EQ(::setsockopt(far.get(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small), 0);
  ASSERT_EQ(::setsockopt(near.get(), IPPROTO_TCP, TCP_NOTSENT_LOWAT, &lowat, sizeof lowat), 0);
  struct Writer final : SocketListener {
    void on_readable() override {}
    void on_writable() override {
      if (told) told();
    }
    std::unique_ptr<Socket> socket;
    std::function<void()> told;
  } writer;
  writer.socket = std::make_unique<Socket>(*loop, std::move(near), writer);
  const std::vector<std::byte> piece(4096);
  bool blocked = false;
  for (int i = 0; i < 1000 && writer.socket->wants_more() && !blocked; ++i) blocked = !writer.socket->write(piece).ok();
  EXPECT_FALSE(blocked);
  EXPECT_FALSE(writer.socket->writable());
  bool told = false;
  writer.told = [&] {
    told = true;
    EXPECT_TRUE(writer.socket->wants_more());
    loop->stop();
  };
  writer.socket->await_writable();
  std::function<void()> read_on = [&, fd = far.get()] {  // the window opens in steps
    std::vector<std::byte> into(1 << 20);
    while (::recv(fd, into.data(), into.size(), MSG_DONTWAIT) > 0) {
    }
    loop->after(milliseconds(2), [&] { read_on(); });
  };
  loop->after(milliseconds(1), [&] {
    EXPECT_FALSE(told);
    read_on();
  });
  run();
  EXPECT_TRUE(told);
}

TEST_P(LoopTest, TriesTheNextAddressAndSaysWhyAllFailed) {
  Fd reserved(::socket(AF_INET, SOCK_STREAM, 0));  // bound, not listening: refuses
  Endpoint refusing = *Endpoint::from_literal("127.0.0.1", 0);
  ASSERT_EQ(::bind(reserved.get(), refusing.data(), refusing.size()), 0);
  socklen_t size = Endpoint::capacity();
  ::getsockname(reserved.get(), refusing.data(), &size);

  auto listener = Listener::listen(*loop, *Endpoint::from_literal("127.0.0.1", 0), [](Fd, const Endpoint&) {});
  bool connected = false;
  std::unique_ptr<Connector> second;
  Connector first(*loop, {refusing, (*listener)->local()}, {}, [&](Result<Fd> fd) {
    connected = fd.has_value();
    second = std::make_unique<Connector>(*loop, std::vector{refusing}, Connector::Options{}, [&](Result<Fd> none) {
      ASSERT_FALSE(none);
      EXPECT_EQ(none.error().code, ECONNREFUSED);
      loop->stop();
    });
  });
  run();
  EXPECT_TRUE(connected);
}

TEST_P(LoopTest, AcceptsAgainOnceDescriptorsAreThere) {
  int accepted = 0;
  std::vector<Fd> kept;
  auto listener = Listener::listen(*loop, *Endpoint::from_literal("127.0.0.1", 0), [&](Fd, const Endpoint&) {
    ++accepted;
    loop->stop();
  });
  const Endpoint to = (*listener)->local();
  Fd client(::socket(AF_INET, SOCK_STREAM, 0));
  rlimit old{};
  ::getrlimit(RLIMIT_NOFILE, &old);
  rlimit low = old;
  low.rlim_cur = 64;
  ::setrlimit(RLIMIT_NOFILE, &low);
  for (int fd; (fd = ::dup(client.get())) >= 0;) kept.emplace_back(fd);
  ASSERT_EQ(::connect(client.get(), to.data(), to.size()), 0);
  loop->after(milliseconds(50), [&] {
    EXPECT_EQ(accepted, 0);
    kept.clear();
  });
  run();
  ::setrlimit(RLIMIT_NOFILE, &old);
  EXPECT_EQ(accepted, 1);
}

TEST_P(LoopTest, ResolvesLiteralsAndNamesWithoutBlocking) {
  Resolver resolver;
  auto wanted = std::make_shared<int>(0);
  int answers = 0;
  resolver.resolve(*loop, {"::1", 7}, wanted, [&](auto found) {
    ASSERT_TRUE(found);
    EXPECT_EQ(found->front().to_string(), "[::1]:7");
    if (++answers == 2) loop->stop();
  });
  resolver.resolve(*loop, {"localhost", 7}, wanted, [&](auto found) {
    ASSERT_TRUE(found);
    EXPECT_TRUE(found->front().is_loopback());
    EXPECT_EQ(found->front().port(), 7);
    if (++answers == 2) loop->stop();
  });
  resolver.resolve(*loop, {"::1", 8}, std::make_shared<int>(1),
                   [&](auto) { ADD_FAILURE() << "nobody waits for this one"; });
  run();
}

}  // namespace
}  // namespace qtrp::io
