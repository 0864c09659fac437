// A client that grants no more streams (a QUIC peer's MAX_STREAMS): users wait for a bounded time, in bounded number,
// and are served in order once it grants some.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/peer.h"
#include "server/worker.h"
#include "support/tunnel_ends.h"

namespace qtrp::server {
namespace {

using namespace protocol;
using namespace test;

constexpr std::size_t kBacklog = 1024;

/// A session that opens as many streams as the test grants.
class Granting final : public session::Session {
 public:
  Granting(std::unique_ptr<session::Session> inner, std::atomic<int>& grants)
      : inner_(std::move(inner)), grants_(grants) {}
  Result<session::StreamId> open(session::Source& source, void* owner) override {
    if (grants_ <= 0) return fail(ErrorKind::limit, "no more streams now");
    --grants_;
    return inner_->open(source, owner);
  }
  std::optional<session::Event> next_event() override {
    if (can_open.exchange(false)) return session::Event{.kind = session::EventKind::can_open};
    return inner_->next_event();
  }
  void attach(session::StreamId id, session::Source& source, void* owner) override {
    inner_->attach(id, source, owner);
  }
  void ready(session::StreamId id) override { inner_->ready(id); }
  void reset(session::StreamId id, ResetCode code) override { inner_->reset(id, code); }
  void moved(session::StreamId id, std::size_t n) override { inner_->moved(id, n); }
  void close(Error reason) override { inner_->close(std::move(reason)); }
  Bytes channel_binding() const override { return inner_->channel_binding(); }
  Bytes preface(bool own) const override { return inner_->preface(own); }
  std::string peer() const override { return inner_->peer(); }
  bool heard() override { return inner_->heard(); }
  session::SessionStats stats() override { return inner_->stats(); }
  void set_target(std::uint64_t target, bool alone) override { inner_->set_target(target, alone); }
  void authenticated() override { inner_->authenticated(); }

  std::atomic<bool> can_open = false;

 private:
  std::unique_ptr<session::Session> inner_;
  std::atomic<int>& grants_;
};

class Backlog : public testing::Test {
 protected:
  Backlog() : clients_("epoll") {
    config_.crypto = config::Crypto::none;
    config::Token token;
    token.token = "the token";
    config_.tokens = {token};
    shared_ =
        std::make_unique<Shared>(make_settings(config_, nullptr).value(), *io::Endpoint::from_literal("127.0.0.1", 0));
    worker_ = std::make_unique<Worker>(*shared_, io::make_epoll_loop());
    worker_->start();
  }
  ~Backlog() override {
    clients_.call([&] { end_.reset(); });
    worker_->loop().stop();
    worker_->join();
    shared_->registry.clear();
  }
  template <typename F>
  auto on_worker(F work) {
    std::packaged_task<std::invoke_result_t<F>()> task(std::move(work));
    auto result = task.get_future();
    worker_->loop().post([&task] { task(); });
    return result.get();
  }
  /// An authenticated client with one proxy; no streams are granted but its own.
  void join(Duration limit) {
    auto [a, b] = tcp_pair();
    on_worker([&, &fd = b] {
      auto peer = std::make_unique<Peer>(*worker_, *io::Endpoint::from_literal("127.0.0.1", 1234), limit);
      auto inner = std::make_unique<tunnel::TunnelSession>(worker_->loop(), std::move(fd), crypto::make_none(),
                                                           tunnel::Options{}, *peer);
      auto session = std::make_unique<Granting>(std::move(inner), grants_);
      session_ = session.get();
      peer_ = peer.get();
      peer->start(std::move(session));
      worker_->admit(std::move(peer));
    });
    clients_.call([&, &fd = a] { end_ = std::make_unique<TunnelEnd>(*clients_, std::move(fd), true); });
    ASSERT_TRUE(clients_.await("established", [&] { return end_->control != nullptr; }));
    clients_.call([&] {
      AuthBody body;
      body.instance.fill(std::byte{1});
      body.run.fill(std::byte{2});
      body.name = "tester";
      body.timestamp = wall_ms();
      Auth auth;
      auth.body = encode_body(body);
      auth.hmac = client_proof("the token", {}, end_->session->preface(true), auth.body);
      end_->say(auth);
      end_->say(NewProxy{.id = 1, .name = "p", .type = "tcp", .bind = "", .port = 0});
    });
    ASSERT_TRUE(clients_.await("its port", [&] { return end_->last<ProxyResp>() != nullptr; }));
    port_ = clients_.call([&] { return end_->last<ProxyResp>()->port; });
    token_ = shared_->registry.groups().at(0)->token();
  }
  io::Fd user() {
    io::Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_port = htons(port_);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&at), sizeof at), 0);
    make_blocking(fd.get());
    return fd;
  }
  bool await_connections(std::size_t n) {
    for (const auto until = Clock::now() + kDeadline; Clock::now() < until;)
      if (token_->connections == n) return true;
    ADD_FAILURE() << token_->connections << " connections, not " << n;
    return false;
  }
  void grant(int streams) {
    grants_ += streams;
    on_worker([&] {
      session_->can_open = true;
      peer_->on_events();
    });
  }

  config::ServerConfig config_;
  std::unique_ptr<Shared> shared_;
  std::unique_ptr<Worker> worker_;
  LoopThread clients_;
  std::unique_ptr<TunnelEnd> end_;
  Peer* peer_ = nullptr;
  Granting* session_ = nullptr;
  std::shared_ptr<TokenState> token_;
  std::atomic<int> grants_ = 0;
  std::uint16_t port_ = 0;
};

TEST_F(Backlog, UsersWaitForAStreamAndGetItInTheirOrder) {
  join(Peer::kBacklogLimit);
  std::vector<io::Fd> users;
  for (const char* name : {"first", "second", "third"}) {
    users.push_back(user());
    ASSERT_TRUE(send_all(users.back().get(), name));
    ASSERT_TRUE(await_connections(users.size()));
  }
  clients_.call([&] { EXPECT_TRUE(end_->streams.empty()); });
  grant(2);
  ASSERT_TRUE(clients_.await("two streams", [&] {
    return end_->streams.size() == 2 && end_->streams[0]->got.ends_with("first") &&
           end_->streams[1]->got.ends_with("second");
  }));
  grant(5);
  ASSERT_TRUE(clients_.await("the third",
                             [&] { return end_->streams.size() == 3 && end_->streams[2]->got.ends_with("third"); }));
  clients_.call([&] { end_->streams[2]->say("hello", true); });
  EXPECT_EQ(receive_all(users[2].get()).text, "hello");
  users.push_back(user());  // nobody waits any more
  EXPECT_TRUE(clients_.await("the fourth", [&] { return end_->streams.size() == 4; }));
}

TEST_F(Backlog, NobodyWaitsLongerThanTheLimit) {
  join(std::chrono::milliseconds(300));
  const TimePoint begun = Clock::now();
  io::Fd first = user();
  ASSERT_TRUE(await_connections(1));
  io::Fd second = user();
  EXPECT_EQ(receive_all(first.get()).end, ECONNRESET);
  EXPECT_EQ(receive_all(second.get()).end, ECONNRESET);
  EXPECT_GE(Clock::now() - begun, std::chrono::milliseconds(300));
  EXPECT_LT(Clock::now() - begun, std::chrono::seconds(5));  // far from the keep-alive's 30 s
  ASSERT_TRUE(await_connections(0));
  grant(1);
  io::Fd third = user();
  EXPECT_TRUE(clients_.await("a stream", [&] { return end_->streams.size() == 1; }));
}

TEST_F(Backlog, TheNumberOfThoseWhoWaitIsBounded) {
  join(Peer::kBacklogLimit);
  std::vector<io::Fd> waiting;
  while (waiting.size() < kBacklog) waiting.push_back(user());
  ASSERT_TRUE(await_connections(kBacklog));
  io::Fd one_too_many = user();
  EXPECT_EQ(receive_all(one_too_many.get()).end, ECONNRESET);
  ASSERT_TRUE(await_connections(kBacklog));  // the reset is seen before the server has finished with it
  grant(static_cast<int>(kBacklog));
  EXPECT_TRUE(clients_.await("all of them", [&] { return end_->streams.size() == kBacklog; }));
}

TEST_F(Backlog, ATunnelThatEndsResetsThoseWhoWait) {
  join(Peer::kBacklogLimit);
  io::Fd waiting = user();
  ASSERT_TRUE(await_connections(1));
  clients_.call([&] { end_->session.reset(); });
  EXPECT_EQ(receive_all(waiting.get()).end, ECONNRESET);
  ASSERT_TRUE(await_connections(0));
}

}  // namespace
}  // namespace qtrp::server
