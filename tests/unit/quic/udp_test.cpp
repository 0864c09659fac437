// The UDP socket on loopback: datagrams in batches, segmentation by the kernel and without it, ECN, source addresses,
// and which worker's socket a datagram comes to.
#include "quic/udp.h"

#include <gtest/gtest.h>
#include <netinet/udp.h>

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "qtrp/quic/endpoint.h"

#ifndef UDP_GRO
#define UDP_GRO 104
#endif

namespace qtrp::quic::test {
namespace {

using namespace std::chrono_literals;

struct Inbox final : UdpSocket::Owner {
  struct Item {
    Path path;
    std::uint8_t ecn;
    std::string text;
  };
  std::vector<Item> items;
  int error = 0;
  std::function<void()> changed;

  void on_datagram(UdpSocket&, const Received& datagram) override {
    items.push_back({datagram.path, datagram.ecn, std::string(as_text(datagram.bytes))});
  }
  void on_batch_end(UdpSocket&) override { changed(); }
  void on_writable(UdpSocket&) override {}
  void on_error(UdpSocket&, int e) override { error = e; }
};

io::Endpoint literal(const char* host, std::uint16_t port = 0) {
  return *io::Endpoint::from_literal(host, port);
}
io::Endpoint bound(int fd) {
  io::Endpoint at;
  socklen_t size = io::Endpoint::capacity();
  EXPECT_EQ(::getsockname(fd, at.data(), &size), 0);
  at.set_size(size);
  return at;
}

class Udp : public testing::Test {
 protected:
  Udp() : loop(io::make_epoll_loop()) {
    receiver_box.changed = sender_box.changed = [this] { check(); };
  }
  void receive_at(const char* host) {
    auto fd = UdpSocket::bind(literal(host), 1 << 20, false);
    ASSERT_TRUE(fd) << fd.error().message;
    at = bound(fd->get());
    receiver = std::make_unique<UdpSocket>(*loop, std::move(*fd), receiver_box);
  }
  /// `set` may change the socket before it is used.
  void send_from(const io::Endpoint& to, const std::function<void(int fd)>& set = [](int) {}) {
    auto fd = UdpSocket::connect(to, 1 << 20);
    ASSERT_TRUE(fd) << fd.error().message;
    set(fd->get());
    sender = std::make_unique<UdpSocket>(*loop, std::move(*fd), sender_box);
  }
  Departure departure(const std::string& text, std::size_t segment, std::uint8_t ecn = 0) {
    return {.path = {sender->local(), at}, .ecn = ecn, .segment = segment, .bytes = as_bytes(text)};
  }
  bool run_until(std::function<bool()> done) {
    done_ = std::move(done);
    bool late = false;
    io::Timer deadline(*loop);
    deadline.start(10s, [&] {
      late = true;
      loop->stop();
    });
    loop->run();
    return !late;
  }
  void check() {
    if (done_ && done_()) {
      done_ = nullptr;
      loop->post([this] { loop->stop(); });
    }
  }
  /// Text whose datagrams of `segment` bytes differ from each other.
  static std::string text_of(std::size_t size) {
    std::string text(size, '\0');
    for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * 2654435761u >> 13);
    return text;
  }
  void expect_segments(const std::string& text, std::size_t segment, std::size_t first = 0) {
    std::size_t count = (text.size() + segment - 1) / segment;
    ASSERT_GE(receiver_box.items.size(), first + count);
    for (std::size_t i = 0; i < count; ++i)
      EXPECT_EQ(receiver_box.items[first + i].text, text.substr(i * segment, segment)) << "datagram " << i;
  }

  std::unique_ptr<io::Loop> loop;
  Inbox receiver_box, sender_box;
  std::unique_ptr<UdpSocket> receiver, sender;
  io::Endpoint at;

 private:
  std::function<bool()> done_;
};

TEST_F(Udp, SegmentsArriveAsTheDatagramsThatTheyAre) {
  receive_at("127.0.0.1");
  send_from(at);
  const std::string large = text_of(12 * 1200 + 345), small = text_of(77);
  const std::vector<Departure> batch{departure(large, 1200), departure(small, 77)};
  EXPECT_EQ(sender->send(batch), 2u);
  ASSERT_TRUE(run_until([&] { return receiver_box.items.size() == 14; }));
  expect_segments(large, 1200);
  expect_segments(small, 77, 13);
  EXPECT_EQ(receiver_box.items[0].path.remote, sender->local());
}

TEST_F(Udp, WhereTheKernelRefusesSegmentationEachDatagramLeavesByItself) {
  receive_at("127.0.0.1");
  // udp(7) does not say it, udp_send_skb() does: UDP_SEGMENT needs checksums, without them it is EINVAL.
  send_from(at, [](int fd) {
    const int on = 1;
    ASSERT_EQ(::setsockopt(fd, SOL_SOCKET, SO_NO_CHECK, &on, sizeof on), 0);
  });
  EXPECT_TRUE(sender->segments());
  const std::string first = text_of(40), large = text_of(9 * 1300 + 1), last = text_of(2 * 700);
  const std::vector<Departure> batch{departure(first, 40), departure(large, 1300), departure(last, 700)};
  EXPECT_EQ(sender->send(batch), 3u);
  EXPECT_FALSE(sender->segments());
  EXPECT_EQ(sender->send(batch), 3u);  // and from then on without trying
  ASSERT_TRUE(run_until([&] { return receiver_box.items.size() == 26; }));
  for (std::size_t round : {0u, 13u}) {
    expect_segments(first, 40, round);
    expect_segments(large, 1300, round + 1);
    expect_segments(last, 700, round + 11);
  }
  EXPECT_EQ(sender_box.error, 0);
}

TEST_F(Udp, WithoutGroDatagramsComeSingly) {
  receive_at("127.0.0.1");
  const int off = 0;
  ASSERT_EQ(::setsockopt(receiver->fd(), SOL_UDP, UDP_GRO, &off, sizeof off), 0);
  send_from(at);
  const std::string text = text_of(50 * 1000);
  EXPECT_EQ(sender->send(std::vector{departure(text, 1000)}), 1u);
  ASSERT_TRUE(run_until([&] { return receiver_box.items.size() == 50; }));
  expect_segments(text, 1000);
}

TEST_F(Udp, ADatagramTooLargeForThePathIsLostAndTheRestLeaves) {
  receive_at("127.0.0.1");
  send_from(at);
  const std::string huge = text_of(65'530), text = text_of(10);  // 65507 fit into IPv4
  EXPECT_EQ(sender->send(std::vector{departure(huge, huge.size()), departure(text, 10)}), 2u);
  ASSERT_TRUE(run_until([&] { return receiver_box.items.size() == 1; }));
  EXPECT_EQ(receiver_box.items[0].text, text);
  EXPECT_EQ(sender_box.error, 0);
}

struct Route {
  const char *name, *bind, *to;
};
class UdpEcn : public Udp, public testing::WithParamInterface<Route> {};

TEST_P(UdpEcn, IsSentAndReceived) {
  receive_at(GetParam().bind);
  at = literal(GetParam().to, at.port());
  send_from(at);
  const std::string a = text_of(3 * 500), b = text_of(100);
  std::vector<Departure> batch;
  for (const std::uint8_t ecn : std::array<std::uint8_t, 4>{0, 1, 2, 3}) {
    batch.push_back(departure(a, 500, ecn));
    batch.push_back(departure(b, 100, ecn));
  }
  EXPECT_EQ(sender->send(batch), batch.size());
  ASSERT_TRUE(run_until([&] { return receiver_box.items.size() == 16; }));
  for (std::size_t i = 0; i < 16; ++i) EXPECT_EQ(receiver_box.items[i].ecn, i / 4) << "datagram " << i;
}
INSTANTIATE_TEST_SUITE_P(Routes, UdpEcn,
                         testing::Values(Route{"ipv4", "127.0.0.1", "127.0.0.1"}, Route{"ipv6", "::1", "::1"},
                                         Route{"ipv4_to_dual_stack", "::", "127.0.0.1"},
                                         Route{"ipv6_to_dual_stack", "::", "::1"}),
                         [](const auto& route) { return std::string(route.param.name); });

class UdpWildcard : public Udp, public testing::WithParamInterface<Route> {};

TEST_P(UdpWildcard, AnswersFromTheAddressThatWasAsked) {
  receive_at(GetParam().bind);
  at = literal(GetParam().to, at.port());
  send_from(at);
  const std::string question = text_of(20), answer = text_of(3 * 30);
  EXPECT_EQ(sender->send(std::vector{departure(question, 20)}), 1u);
  receiver_box.changed = [&] {
    const Path& path = receiver_box.items.at(0).path;
    const Departure reply{.path = path, .ecn = 2, .segment = 30, .bytes = as_bytes(answer)};
    EXPECT_EQ(receiver->send({&reply, 1}), 1u);
  };
  // A connected socket hears only its peer: from any other address nothing would come.
  ASSERT_TRUE(run_until([&] { return sender_box.items.size() == 3; }));
  EXPECT_EQ(sender_box.items[2].text, answer.substr(60));
  EXPECT_EQ(sender_box.items[2].ecn, 2);
}
INSTANTIATE_TEST_SUITE_P(Routes, UdpWildcard,
                         testing::Values(Route{"ipv4", "0.0.0.0", "127.0.0.3"}, Route{"ipv6", "::", "::1"},
                                         Route{"ipv4_to_dual_stack", "::", "127.0.0.3"}),
                         [](const auto& route) { return std::string(route.param.name); });

/// The first byte of the destination connection id names the worker, whatever address the datagram comes from.
class UdpWorkers : public testing::TestWithParam<unsigned> {};

TEST_P(UdpWorkers, ADatagramComesToTheWorkerThatItsConnectionIdNames) {
  const unsigned workers = GetParam();
  auto sockets = bind_workers(literal("127.0.0.1"), workers);
  ASSERT_TRUE(sockets) << sockets.error().message;
  ASSERT_EQ(sockets->size(), workers);
  const io::Endpoint at = bound(sockets->front().get());
  for (const io::Fd& socket : *sockets) EXPECT_EQ(bound(socket.get()), at);
  for (unsigned id = 0; id < 256; id += 5) {
    for (const bool long_header : {true, false}) {
      io::Fd from(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));  // a port of its own each time
      std::string datagram(100, 'x');
      datagram[0] = static_cast<char>(long_header ? 0xc3 : 0x43);
      datagram[long_header ? 6 : 1] = static_cast<char>(id);
      ASSERT_EQ(::sendto(from.get(), datagram.data(), datagram.size(), 0, at.data(), at.size()), 100);
      std::optional<unsigned> came_to;
      for (unsigned worker = 0; worker < workers; ++worker) {
        char buffer[200];
        if (::recv((*sockets)[worker].get(), buffer, sizeof buffer, MSG_DONTWAIT) == 100) came_to = worker;
      }
      EXPECT_EQ(came_to, id % workers) << "id " << id << (long_header ? ", long" : ", short");
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Counts, UdpWorkers, testing::Values(1u, 2u, 3u, 4u));

}  // namespace
}  // namespace qtrp::quic::test
