// The client's side of a tunnel, with a server that says whatever the test wants, over real sockets on loopback.
#include "client/link.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>

#include "support/tunnel_ends.h"

namespace qtrp::client {
namespace {

using namespace protocol;
using namespace test;

class LinkTest : public testing::TestWithParam<std::string> {
 protected:
  LinkTest() : loop(GetParam()), servers("epoll") {
    service = io::Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    EXPECT_EQ(::bind(service.get(), reinterpret_cast<sockaddr*>(&at), sizeof at), 0);
    EXPECT_EQ(::listen(service.get(), 8), 0);
    EXPECT_EQ(::getsockname(service.get(), reinterpret_cast<sockaddr*>(&at), &size), 0);
    make_blocking(service.get());
    const io::Fd closed(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));  // a port where nobody listens
    sockaddr_in nobody{};
    nobody.sin_family = AF_INET;
    nobody.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::bind(closed.get(), reinterpret_cast<sockaddr*>(&nobody), sizeof nobody), 0);
    EXPECT_EQ(::getsockname(closed.get(), reinterpret_cast<sockaddr*>(&nobody), &size), 0);

    config.crypto = config::Crypto::none;
    config.token = "the token";
    config.name = "tester";
    config.proxies.resize(2);
    config.proxies[0].name = "service";
    config.proxies[0].remote_port = 7001;
    config.proxies[0].local = {"127.0.0.1", ntohs(at.sin_port)};
    config.proxies[1].name = "nobody";
    config.proxies[1].remote_port = 7002;
    config.proxies[1].local = {"127.0.0.1", ntohs(nobody.sin_port)};
    listener = servers.call([&] {
      return std::move(*io::Listener::listen(
          *servers, *io::Endpoint::from_literal("127.0.0.1", 0), [this](io::Fd fd, const io::Endpoint&) {
            ends.push_back(std::make_unique<TunnelEnd>(*servers, std::move(fd), false));
          }));
    });
    config.server = {"127.0.0.1", servers.call([&] { return listener->local().port(); })};
  }
  ~LinkTest() override {
    end_link();
    servers.call([&] {
      listener.reset();
      ends.clear();
    });
  }
  void begin() {
    shared = std::make_unique<Shared>(make_settings(config, nullptr).value());
    shared->tcp = std::move(*pacing::TcpControl::create(
        {config.brutal.mode, config.tcp.congestion, config.tcp.buffer, config.brutal.enabled}));
    shared->target = std::make_shared<pacing::TargetShare>(0);
    loop.call([&] {
      link = std::make_unique<Link>(*shared, *loop, 0);
      link->begin();
    });
  }
  void end_link() {
    loop.call([&] { link.reset(); });
  }
  // The n-th tunnel that the client opens, once it has said everything that it says at first.
  TunnelEnd* accept(std::size_t n = 0) {
    if (!servers.await("the client's first flight", [&] {
          return ends.size() > n && (ends[n]->messages.size() >= 1 + config.proxies.size() || ends[n]->closed);
        }))
      std::abort();
    return servers.call([&] { return ends[n].get(); });
  }
  AuthResp answer(const TunnelEnd& end, std::string_view token = "the token") {
    AuthRespBody body;
    body.ok = true;
    body.time = wall_ms();
    AuthResp response;
    response.body = encode_body(body);
    response.hmac = server_proof(token, {}, end.session->preface(true), end.session->preface(false),
                                 std::get<Auth>(end.messages[0]).hmac, response.body);
    return response;
  }
  // A server that has proved itself.
  TunnelEnd* accept_and_prove(std::size_t n = 0) {
    TunnelEnd* end = accept(n);
    servers.call([&] {
      end->say(answer(*end));
      end->say(ProxyResp{.id = 1, .code = "ok", .text = "", .port = 7001});
      end->say(ProxyResp{.id = 2, .code = "ok", .text = "", .port = 7002});
    });
    EXPECT_TRUE(loop.await("connected", [&] { return link->figures().connected; }));
    return end;
  }
  DataStream* user(TunnelEnd* end, std::uint32_t proxy, std::string_view more = "") {
    return servers.call([&] {
      const auto head = encode(NewConn{proxy, 1, "192.0.2.7:999", "192.0.2.1:7001"});
      return &end->open(std::string(as_text(head)) + std::string(more));
    });
  }
  bool service_was_dialed() {
    EXPECT_EQ(::fcntl(service.get(), F_SETFL, O_NONBLOCK), 0);
    return bool(io::Fd(::accept(service.get(), nullptr, nullptr)));
  }
  io::Fd service_accepts() {
    io::Fd fd(::accept4(service.get(), nullptr, nullptr, SOCK_CLOEXEC));
    EXPECT_TRUE(fd);
    make_blocking(fd.get());
    return fd;
  }

  config::ClientConfig config;
  LoopThread loop, servers;
  std::unique_ptr<Shared> shared;
  std::unique_ptr<Link> link;
  std::unique_ptr<io::Listener> listener;
  std::vector<std::unique_ptr<TunnelEnd>> ends;
  io::Fd service;
};
INSTANTIATE_TEST_SUITE_P(Engines, LinkTest, testing::Values("net", "epoll"), [](const auto& p) { return p.param; });

TEST_P(LinkTest, SaysEverythingInItsFirstFlightAndProvesItself) {
  begin();
  TunnelEnd* end = accept();
  servers.call([&] {
    const auto& auth = std::get<Auth>(end->messages[0]);
    EXPECT_EQ(auth.hmac, client_proof("the token", {}, end->session->preface(true), auth.body));
    const auto body = decode_auth_body(auth.body).value();
    EXPECT_EQ(body.name, "tester");
    EXPECT_LT(std::abs(body.timestamp - wall_ms()), 60'000);
    EXPECT_NE(body.nonce, Nonce{});
    EXPECT_EQ(end->messages[1], Message(NewProxy{1, "service", "tcp", "", 7001}));
    EXPECT_EQ(end->messages[2], Message(NewProxy{2, "nobody", "tcp", "", 7002}));
  });
  loop.call([&] { EXPECT_FALSE(link->figures().connected); });
}

TEST_P(LinkTest, AServerThatDoesNotProveItselfIsLeftWhateverItSays) {
  AuthRespBody denied;
  denied.error = "denied";
  denied.time = INT64_MIN;
  AuthRespBody ok;
  ok.ok = true;
  const std::vector<Message> firsts{AuthResp{encode_body(denied), {}},
                                    AuthResp{encode_body(ok), {}},
                                    AuthResp{{std::byte{0xc1}}, {}},
                                    Ping{1},
                                    ProxyResp{.id = 1, .code = "ok", .text = "", .port = 1},
                                    Goodbye{"x"},
                                    CloseProxy{1},
                                    Unknown{"x"},
                                    NewConn{}};
  std::size_t n = 0;
  for (const Message& first : firsts) {
    begin();
    TunnelEnd* end = accept(n);
    servers.call([&] {
      end->say(first);
      for (const Message& more : firsts) end->say(more);
      end->say(answer(*end));  // too late
    });
    ASSERT_TRUE(servers.await("the client leaves", [&] { return end->closed.has_value(); }));
    loop.call([&] { EXPECT_FALSE(link->figures().connected); });
    end_link();
    n = servers.call([&] { return ends.size(); });
  }
  EXPECT_FALSE(service_was_dialed());
}

TEST_P(LinkTest, AnotherTokensProofIsNone) {
  begin();
  TunnelEnd* end = accept();
  servers.call([&] { end->say(answer(*end, "another token")); });
  ASSERT_TRUE(servers.await("the client leaves", [&] { return end->closed.has_value(); }));
  accept(1);  // and tries again
  loop.call([&] { EXPECT_FALSE(link->figures().connected); });
}

TEST_P(LinkTest, NoUserIsServedBeforeTheProof) {
  begin();
  TunnelEnd* end = accept();
  DataStream* stream = user(end, 1, "hello");
  ASSERT_TRUE(servers.await("refused", [&] { return stream->reset.has_value(); }));
  EXPECT_EQ(stream->reset, ResetCode::protocol);
  EXPECT_FALSE(service_was_dialed());
}

TEST_P(LinkTest, AUserReachesTheLocalService) {
  begin();
  TunnelEnd* end = accept_and_prove();
  DataStream* stream = user(end, 1, "hello");
  io::Fd local = service_accepts();
  EXPECT_EQ(receive_all(local.get(), 5).text, "hello");
  ASSERT_TRUE(send_all(local.get(), "welcome"));
  ASSERT_TRUE(servers.await("the answer", [&] { return stream->got == "welcome"; }));
  servers.call([&] { stream->say(" and bye", true); });
  const Received rest = receive_all(local.get());
  EXPECT_EQ(rest.text, " and bye");
  EXPECT_EQ(rest.end, 0);
  ASSERT_TRUE(send_all(local.get(), " bye"));
  local.reset();
  ASSERT_TRUE(servers.await("the end", [&] { return stream->finished; }));
  EXPECT_EQ(stream->got, "welcome bye");
  ASSERT_TRUE(loop.await("counted", [&] { return link->figures().connections == 0; }));
  loop.call([&] {
    const auto figures = link->figures();
    EXPECT_EQ(figures.proxies[0].in, 13U);
    EXPECT_EQ(figures.proxies[0].out, 11U);
    EXPECT_EQ(figures.proxies[0].total, 1U);
    EXPECT_EQ(figures.proxies[0].active, 0U);
  });
}

TEST_P(LinkTest, ALocalServiceThatResetsResetsTheStream) {
  begin();
  TunnelEnd* end = accept_and_prove();
  DataStream* stream = user(end, 1, "hello");
  io::Fd local = service_accepts();
  EXPECT_EQ(receive_all(local.get(), 5).text, "hello");  // so the client knows that it is connected
  close_with_reset(std::move(local));
  ASSERT_TRUE(servers.await("the reset", [&] { return stream->reset.has_value(); }));
  EXPECT_EQ(stream->reset, ResetCode::cancelled);
}

TEST_P(LinkTest, StreamsThatLeadNowhereAreResetWithAReason) {
  begin();
  TunnelEnd* end = accept_and_prove();
  DataStream* refused = user(end, 2, "hello");
  DataStream* unknown = user(end, 3, "hello");
  DataStream* nonsense = servers.call([&] { return &end->open("GET / HTTP/1.1\r\n\r\n"); });
  DataStream* other = servers.call([&] { return &end->open(as_text(encode(Ping{1}))); });
  DataStream* empty = servers.call([&] {
    DataStream* stream = &end->open("");
    stream->say("", true);
    return stream;
  });
  ASSERT_TRUE(servers.await(
      "all five", [&] { return refused->reset && unknown->reset && nonsense->reset && other->reset && empty->reset; }));
  EXPECT_EQ(refused->reset, ResetCode::refused);
  EXPECT_EQ(unknown->reset, ResetCode::unknown_proxy);
  EXPECT_EQ(nonsense->reset, ResetCode::protocol);
  EXPECT_EQ(other->reset, ResetCode::protocol);
  EXPECT_EQ(empty->reset, ResetCode::protocol);
  DataStream* fine = user(end, 1, "hello");
  EXPECT_EQ(receive_all(service_accepts().get(), 5).text, "hello");
  loop.call([&] { EXPECT_TRUE(link->figures().connected); });
  servers.call([&] { EXPECT_FALSE(fine->reset == ResetCode::protocol); });
}

TEST_P(LinkTest, ALostTunnelResetsItsConnectionsAndIsOpenedAnew) {
  begin();
  TunnelEnd* end = accept_and_prove();
  user(end, 1, "hello");
  io::Fd local = service_accepts();
  EXPECT_EQ(receive_all(local.get(), 5).text, "hello");
  servers.call([&] { end->session.reset(); });
  EXPECT_EQ(receive_all(local.get()).end, ECONNRESET);
  TunnelEnd* again = accept_and_prove(1);
  user(again, 1, "back");
  EXPECT_EQ(receive_all(service_accepts().get(), 4).text, "back");
}

TEST_P(LinkTest, ASilentServerIsGivenUp) {
  config.keepalive_interval = std::chrono::milliseconds(30);
  begin();
  TunnelEnd* end = accept_and_prove();
  ASSERT_TRUE(servers.await("pings that are answered", [&] {
    return std::ranges::count_if(end->messages, [](const Message& m) { return std::holds_alternative<Ping>(m); }) > 10;
  }));
  servers.call([&] { end->answers = false; });
  ASSERT_TRUE(servers.await("the client leaves", [&] { return end->closed.has_value(); }));
  accept(1);
}

TEST_P(LinkTest, ARefusedProxyIsAskedForAgain) {
  begin();
  TunnelEnd* end = accept_and_prove();
  servers.call([&] {
    end->messages.clear();
    end->say(ProxyResp{.id = 2, .code = "port_in_use", .text = "taken", .port = 0});
  });
  ASSERT_TRUE(servers.await("again", [&] { return end->last<NewProxy>() != nullptr; }));
  servers.call([&] { EXPECT_EQ(end->last<NewProxy>()->id, 2U); });
  loop.call([&] {
    EXPECT_EQ(link->figures().proxies[1].code, "port_in_use");
    EXPECT_EQ(link->figures().proxies[0].code, "ok");
  });
}

TEST_P(LinkTest, DrainingSaysGoodbyeAndLetsRunningConnectionsFinish) {
  begin();
  TunnelEnd* end = accept_and_prove();
  DataStream* running = user(end, 1, "hello");
  io::Fd local = service_accepts();
  std::atomic<int> drained = 0, closed = 0;
  loop.call([&] { link->drain([&] { ++drained; }); });
  ASSERT_TRUE(servers.await("goodbye", [&] { return end->last<Goodbye>() != nullptr; }));
  DataStream* late = user(end, 1, "too late");
  ASSERT_TRUE(servers.await("refused", [&] { return late->reset.has_value(); }));
  EXPECT_EQ(late->reset, ResetCode::shutting_down);
  EXPECT_EQ(drained, 0);
  ASSERT_TRUE(send_all(local.get(), "last words"));
  ASSERT_EQ(::shutdown(local.get(), SHUT_WR), 0);
  ASSERT_TRUE(servers.await("the end", [&] { return running->finished; }));
  EXPECT_EQ(running->got, "last words");
  servers.call([&] { running->say("", true); });
  ASSERT_TRUE(loop.await("drained", [&] { return drained == 1; }));
  loop.call([&] { link->close([&] { ++closed; }); });
  ASSERT_TRUE(servers.await("closed", [&] { return end->closed.has_value(); }));
  servers.call([&] { end->session.reset(); });
  ASSERT_TRUE(loop.await("closed here too", [&] { return closed == 1; }));
  EXPECT_EQ(drained, 1);
}

}  // namespace
}  // namespace qtrp::client
