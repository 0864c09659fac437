// Connecting, and giving it up.
#include <gtest/gtest.h>

#include "support/loop_thread.h"

namespace qtrp::io {
namespace {

using namespace qtrp::test;

class ConnectorTest : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Engines, ConnectorTest, testing::Values("net", "epoll"),
                         [](const auto& p) { return p.param; });

// A port that answers no SYN: its queue is full.
struct FullPort {
  FullPort() : listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    EXPECT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&at), sizeof at), 0);
    EXPECT_EQ(::listen(listener.get(), 0), 0);
    EXPECT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&at), &size), 0);
    address = Endpoint(reinterpret_cast<const sockaddr*>(&at), size);
    for (int i = 0; i < 8; ++i) {
      waiting.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
      ::connect(waiting.back().get(), address.data(), address.size());
    }
  }
  Fd listener;
  std::vector<Fd> waiting;
  Endpoint address;
};

TEST_P(ConnectorTest, TimesOut) {
  const FullPort port;
  LoopThread loop(GetParam());
  std::unique_ptr<Connector> connector;
  std::optional<Result<Fd>> result;
  loop.call([&] {
    connector = std::make_unique<Connector>(
        *loop, std::vector{port.address},
        Connector::Options{.timeout = std::chrono::milliseconds(50), .receive_buffer = 0, .before_connect = {}},
        [&](Result<Fd> r) {
          result = std::move(r);
          connector.reset();  // within its own answer
        });
  });
  ASSERT_TRUE(loop.await("the time-out", [&] { return result.has_value(); }));
  ASSERT_FALSE(*result);
  EXPECT_EQ(result->error().kind, ErrorKind::timeout);
}

TEST_P(ConnectorTest, MayBeGivenUpWhileItTries) {
  const FullPort port;
  LoopThread loop(GetParam());
  bool called = false;
  for (int i = 0; i < 3; ++i) {
    std::unique_ptr<Connector> connector;
    loop.call([&] {
      connector = std::make_unique<Connector>(*loop, std::vector{port.address, port.address}, Connector::Options{},
                                              [&](const Result<Fd>&) { called = true; });
    });
    for (int turn = 0; turn < i; ++turn) loop.call([] {});
    loop.call([&] { connector.reset(); });
  }
  loop.call([] {});
  EXPECT_FALSE(called);
}

TEST_P(ConnectorTest, MayBeGivenUpAfterTheLoopStoppedAsAtTheProgramsEnd) {
  const FullPort port;
  auto connector = std::unique_ptr<Connector>();
  {
    LoopThread loop(GetParam());
    loop.call([&] {
      connector = std::make_unique<Connector>(*loop, std::vector{port.address}, Connector::Options{},
                                              [](const Result<Fd>&) { ADD_FAILURE(); });
    });
    loop.call([] {});
    loop.stop();
    connector.reset();
  }
}

}  // namespace
}  // namespace qtrp::io
