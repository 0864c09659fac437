// The server's side of a tunnel, with a client that says whatever the test wants, over real sockets on loopback.
#include "server/peer.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>

#include "server/worker.h"
#include "support/fake_session.h"
#include "support/tunnel_ends.h"

namespace qtrp::server {
namespace {

using namespace protocol;
using namespace test;
using testing::HasSubstr;

config::ServerConfig make_config(const std::string& engine) {
  config::ServerConfig config;
  config.transport = engine == "net" ? config::Transport::net : config::Transport::epoll;
  config.crypto = config::Crypto::none;
  config::Token token;
  token.token = "the token";
  token.name = "friends";
  config.tokens = {token};
  return config;
}

class PeerTest : public testing::TestWithParam<std::string> {
 protected:
  PeerTest() : config(make_config(GetParam())), clients("epoll") {}
  ~PeerTest() override {
    clients.call([&] { ends.clear(); });
    if (worker) {
      worker->loop().stop();
      worker->join();
      shared->registry.clear();
    }
  }
  // Once the test has set the configuration.
  void start() {
    shared =
        std::make_unique<Shared>(make_settings(config, nullptr).value(), *io::Endpoint::from_literal("127.0.0.1", 0));
    worker = std::make_unique<Worker>(*shared, GetParam() == "net" ? io::make_asio_loop() : io::make_epoll_loop());
    worker->start();
  }
  template <typename F>
  auto on_worker(F work) {
    std::packaged_task<std::invoke_result_t<F>()> task(std::move(work));
    auto result = task.get_future();
    worker->loop().post([&task] { task(); });
    return result.get();
  }
  std::size_t peers() {
    return on_worker([&] { return worker->peers().size(); });
  }
  bool await_peers(std::size_t n) {
    const auto until = Clock::now() + kDeadline;
    while (peers() != n) {
      if (Clock::now() > until) {
        ADD_FAILURE() << peers() << " peers, not " << n;
        return false;
      }
    }
    return true;
  }
  // Connected, its control stream open.
  TunnelEnd& dial() {
    if (!worker) start();
    auto [a, b] = tcp_pair();
    worker->loop().post([this, fd = std::move(b)]() mutable {
      worker->adopt(std::move(fd), *io::Endpoint::from_literal("127.0.0.1", 1234));
    });
    TunnelEnd& end = clients.call([&, &fd = a]() -> TunnelEnd& {
      return *ends.emplace_back(std::make_unique<TunnelEnd>(*clients, std::move(fd), true));
    });
    clients.await("established", [&] { return end.control != nullptr; });
    return end;
  }
  AuthBody body(std::uint8_t instance = 1, std::uint8_t run = 1, std::uint32_t tunnel = 0) {
    AuthBody b;
    b.instance.fill(std::byte{instance});
    b.run.fill(std::byte{run});
    b.tunnel = tunnel;
    b.name = "tester";
    b.timestamp = wall_ms();
    store_be<std::uint32_t>(b.nonce.data(), ++nonces);
    return b;
  }
  static Auth prove(TunnelEnd& end, const AuthBody& body, std::string_view token = "the token") {
    Auth auth;
    auth.body = encode_body(body);
    auth.hmac = client_proof(token, end.session->channel_binding(), end.session->preface(true), auth.body);
    return auth;
  }
  // An authenticated client.
  TunnelEnd& join(const AuthBody& as) {
    TunnelEnd& end = dial();
    clients.call([&] { end.say(prove(end, as)); });
    if (clients.await("the answer", [&] { return end.last<AuthResp>() || end.closed; })) {
      clients.call([&] {
        const AuthResp* response = end.last<AuthResp>();
        EXPECT_TRUE(response && decode_auth_resp_body(response->body)->ok);
      });
    }
    return end;
  }
  TunnelEnd& join() { return join(body()); }
  // The answer to `proxy`.
  ProxyResp add(TunnelEnd& end, const NewProxy& proxy) {
    const auto answers = [&] {
      return std::ranges::count_if(end.messages, [](const Message& m) { return std::holds_alternative<ProxyResp>(m); });
    };
    const auto before = clients.call([&] {
      end.say(proxy);
      return answers();
    });
    if (!clients.await("the answer", [&] { return answers() > before; })) return {};
    return clients.call([&] { return *end.last<ProxyResp>(); });
  }
  static NewProxy any_port(std::uint32_t id) { return {.id = id, .name = "p", .type = "tcp", .bind = "", .port = 0}; }
  static io::Fd user_of(std::uint16_t port) {
    io::Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_port = htons(port);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&at), sizeof at) != 0) return {};
    make_blocking(fd.get());
    return fd;
  }

  config::ServerConfig config;
  std::unique_ptr<Shared> shared;
  std::unique_ptr<Worker> worker;
  LoopThread clients;
  std::vector<std::unique_ptr<TunnelEnd>> ends;
  std::uint32_t nonces = 0;
};
INSTANTIATE_TEST_SUITE_P(Engines, PeerTest, testing::Values("net", "epoll"), [](const auto& p) { return p.param; });

// --- the first users ---

// A mux announces a stream before it sends what older streams have: a user who came before AuthResp had left was reset.
TEST_P(PeerTest, NoStreamOvertakesTheAnswer) {
  start();
  std::unique_ptr<Peer> peer;
  FakeSession* session = nullptr;
  std::vector<std::byte> said;
  on_worker([&] {
    peer = std::make_unique<Peer>(*worker, *io::Endpoint::from_literal("127.0.0.1", 1234));
    auto made = std::make_unique<FakeSession>();
    session = made.get();
    peer->start(std::move(made));
    session->events.push_back({.kind = session::EventKind::opened, .stream = 3});
    peer->on_events();
    Auth auth;
    auth.body = encode_body(body());
    auth.hmac = client_proof("the token", {}, {}, auth.body);
    said = encode(Message{auth});
    const auto proxy = encode(Message{any_port(1)});
    said.insert(said.end(), proxy.begin(), proxy.end());
    session->events.push_back(
        {.kind = session::EventKind::body, .stream = 3, .owner = session->streams.at(3).owner, .body = said});
    peer->on_events();
  });
  const auto await = [&](const char* what, const std::function<bool()>& done) {
    const auto until = Clock::now() + kDeadline;
    while (!on_worker(done)) ASSERT_LT(Clock::now(), until) << what;
  };
  std::uint16_t port = 0;
  await("its proxy", [&] {
    if (peer->group())
      for (const auto& figures : peer->group()->figures()) port = figures.port;
    return port != 0;
  });
  const io::Fd user = user_of(port);
  await("the user", [&] { return peer->group()->members().at(0)->connections == 1; });
  on_worker([&] {
    EXPECT_EQ(session->streams.size(), 1U) << "only the control stream before the answer has left";
    session->pull(3, 10, 10);
  });
  on_worker([&] {
    EXPECT_EQ(session->streams.size(), 1U) << "a part of the answer is not the answer";
    session->pull(3);
  });
  await("a stream for the user", [&] { return session->streams.size() == 2; });
  on_worker([&] {
    peer->give_up("");
    peer.reset();
  });
}

// --- before the proof ---

TEST_P(PeerTest, NothingBehindAWrongFirstMessageIsLookedAt) {
  const std::vector<Message> all{any_port(1),       CloseProxy{1}, Goodbye{"x"}, Ping{1},   Pong{1},
                                 ErrorMessage{"x"}, Unknown{"x"},  ProxyResp{},  NewConn{}, AuthResp{}};
  for (const Message& first : all) {
    TunnelEnd& end = dial();
    clients.call([&] {
      end.say(first);
      for (const Message& more : all) end.say(more);
      end.say(prove(end, body()));
    });
    ASSERT_TRUE(clients.await("it is dropped", [&] { return end.closed.has_value(); }));
    clients.call([&] { EXPECT_TRUE(end.messages.empty()); });
  }
  await_peers(0);
  EXPECT_TRUE(shared->registry.groups().empty());
}

TEST_P(PeerTest, AWrongTokenIsDeniedWithoutAReasonOrAProof) {
  TunnelEnd& end = dial();
  clients.call([&] {
    end.say(prove(end, body(), "a guess"));
    end.say(any_port(1));
  });
  ASSERT_TRUE(clients.await("it is dropped", [&] { return end.closed.has_value(); }));
  clients.call([&] {
    ASSERT_EQ(end.messages.size(), 1U);
    const auto& response = std::get<AuthResp>(end.messages[0]);
    EXPECT_EQ(response.hmac, Mac{});
    const auto said = decode_auth_resp_body(response.body).value();
    EXPECT_FALSE(said.ok);
    EXPECT_EQ(said.error, "denied");
    EXPECT_EQ(said.session, Id16{});
    EXPECT_LT(std::abs(said.time - wall_ms()), 60'000);
    end.session.reset();
  });
  await_peers(0);
  EXPECT_TRUE(shared->registry.groups().empty());
}

TEST_P(PeerTest, BrokenMessagesEndIt) {
  for (const bool known : {false, true}) {
    TunnelEnd& end = known ? join() : dial();
    clients.call([&] {
      // A message that does not decode, written past the channel: an Unknown with a type longer than any text may be.
      end.say(Unknown{std::string(2000, 'x')});
      end.say(any_port(1));
    });
    ASSERT_TRUE(clients.await("it is dropped", [&] { return end.closed.has_value(); }));
  }
  await_peers(0);
}

TEST_P(PeerTest, AFloodOfStrangersDropsItsOwnAndNotTheOneFromElsewhere) {
  start();
  const auto from = [&](const char* host) {
    auto [a, b] = tcp_pair();
    worker->loop().post([this, host, fd = std::move(b)]() mutable {
      worker->adopt(std::move(fd), *io::Endpoint::from_literal(host, 1234));
    });
    return std::move(a);
  };
  const auto ended = [](const io::Fd& fd) {
    char byte;
    const ssize_t n = ::recv(fd.get(), &byte, 1, MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN);
  };
  const io::Fd slow = from("192.0.2.1");  // the oldest of all
  std::vector<io::Fd> flood;
  for (int i = 0; i < 1100; ++i) flood.push_back(from(i % 2 == 0 ? "2001:db8::1" : "2001:db8::2"));  // one /64
  await_peers(1024);
  for (std::size_t i = 0; i < 77; ++i) {  // the kernel takes its time to deliver the FINs
    const auto until = Clock::now() + kDeadline;
    while (!ended(flood[i]) && Clock::now() < until) (void)peers();
    EXPECT_TRUE(ended(flood[i])) << i;
  }
  EXPECT_FALSE(ended(slow));
  for (std::size_t i = 77; i < flood.size(); ++i) EXPECT_FALSE(ended(flood[i])) << i;
}

TEST_P(PeerTest, GuessesFromOneIPv6NetworkCountTogether) {
  start();
  const auto guess = [&](const std::string& host) {
    auto [a, b] = tcp_pair();
    worker->loop().post([this, host, fd = std::move(b)]() mutable {
      worker->adopt(std::move(fd), *io::Endpoint::from_literal(host, 1234));
    });
    TunnelEnd& end = clients.call([&, &fd = a]() -> TunnelEnd& {
      return *ends.emplace_back(std::make_unique<TunnelEnd>(*clients, std::move(fd), true));
    });
    clients.await("established", [&] { return end.control != nullptr; });
    const TimePoint begun = Clock::now();
    clients.call([&] { end.say(prove(end, body(), "a guess")); });
    clients.await("denied", [&] { return end.last<AuthResp>() != nullptr; });
    return Clock::now() - begun;
  };
  for (const char* host : {"2001:db8::1", "2001:db8::2", "2001:db8::3"}) guess(host);
  EXPECT_GE(guess("2001:db8::4"), std::chrono::milliseconds(950));  // the fourth failure: a second
  EXPECT_LT(guess("2001:db8:0:1::1"), std::chrono::milliseconds(900));
}

TEST_P(PeerTest, OneThatLeavesWhileItIsLetInLeavesNothingBehind) {
  for (int i = 0; i < 20; ++i) {
    TunnelEnd& end = dial();
    clients.call([&] {
      end.say(prove(end, body(9, static_cast<std::uint8_t>(i))));
      end.session->close(Error{ErrorKind::closed, ""});
    });
  }
  clients.call([&] { ends.clear(); });
  await_peers(0);
  EXPECT_TRUE(on_worker([&] { return shared->registry.groups(); }).empty());
}

// --- a client at work ---

TEST_P(PeerTest, TheServerProvesItselfOverWhatBothSaid) {
  TunnelEnd& end = dial();
  Auth auth;
  clients.call([&] { end.say(auth = prove(end, body())); });
  ASSERT_TRUE(clients.await("the answer", [&] { return end.last<AuthResp>() != nullptr; }));
  clients.call([&] {
    const AuthResp& response = *end.last<AuthResp>();
    const auto said = decode_auth_resp_body(response.body).value();
    EXPECT_TRUE(said.ok);
    EXPECT_NE(said.session, Id16{});
    EXPECT_NE(said.nonce, Nonce{});
    EXPECT_EQ(response.hmac, server_proof("the token", {}, end.session->preface(true), end.session->preface(false),
                                          auth.hmac, response.body));
  });
}

TEST_P(PeerTest, AUsersConnectionBecomesAStream) {
  TunnelEnd& end = join();
  const ProxyResp proxy = add(end, any_port(5));
  ASSERT_EQ(proxy.code, "ok") << proxy.text;
  ASSERT_NE(proxy.port, 0);
  io::Fd user = user_of(proxy.port);
  ASSERT_TRUE(user);
  ASSERT_TRUE(send_all(user.get(), "hello"));
  ASSERT_TRUE(
      clients.await("the stream", [&] { return !end.streams.empty() && end.streams[0]->got.ends_with("hello"); }));
  clients.call([&] {
    const auto message = end.streams[0]->take_message();
    ASSERT_TRUE(message);
    const auto& conn = std::get<NewConn>(*message);
    EXPECT_EQ(conn.proxy, 5U);
    EXPECT_EQ(conn.destination, "127.0.0.1:" + std::to_string(proxy.port));
    EXPECT_TRUE(conn.user.starts_with("127.0.0.1:"));
    EXPECT_EQ(end.streams[0]->got, "hello");
    end.streams[0]->say("welcome", true);
  });
  const Received got = receive_all(user.get());
  EXPECT_EQ(got.text, "welcome");
  EXPECT_EQ(got.end, 0);
  ASSERT_EQ(::shutdown(user.get(), SHUT_WR), 0);
  ASSERT_TRUE(clients.await("the end", [&] { return end.streams[0]->finished; }));
  const auto token = shared->registry.groups().at(0)->token();
  for (const auto until = Clock::now() + kDeadline; token->connections != 0 && Clock::now() < until;) (void)peers();
  EXPECT_EQ(token->connections, 0U);
}

TEST_P(PeerTest, AStreamThatIsResetResetsTheUser) {
  TunnelEnd& end = join();
  const ProxyResp proxy = add(end, any_port(1));
  io::Fd user = user_of(proxy.port);
  ASSERT_TRUE(clients.await("the stream", [&] { return !end.streams.empty(); }));
  clients.call([&] { end.session->reset(end.streams[0]->id, ResetCode::refused); });
  EXPECT_EQ(receive_all(user.get()).end, ECONNRESET);
}

TEST_P(PeerTest, ATunnelThatDiesResetsItsUsersAndFreesItsPorts) {
  TunnelEnd& end = join();
  const ProxyResp proxy = add(end, any_port(1));
  io::Fd user = user_of(proxy.port);
  ASSERT_TRUE(clients.await("the stream", [&] { return !end.streams.empty(); }));
  clients.call([&] { end.session.reset(); });
  EXPECT_EQ(receive_all(user.get()).end, ECONNRESET);
  await_peers(0);
  on_worker([] {});  // what the end posted has run
  EXPECT_FALSE(user_of(proxy.port));
  EXPECT_TRUE(shared->registry.groups().empty());
}

TEST_P(PeerTest, ProxiesThatCannotBeSayWhy) {
  io::Fd taken(::socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof at;
  ASSERT_EQ(::bind(taken.get(), reinterpret_cast<sockaddr*>(&at), sizeof at), 0);
  ASSERT_EQ(::listen(taken.get(), 1), 0);
  ASSERT_EQ(::getsockname(taken.get(), reinterpret_cast<sockaddr*>(&at), &size), 0);
  const std::uint16_t port = ntohs(at.sin_port);
  config.ports = {{1024, 65535}};
  config.tokens[0].max_proxies = 2;
  TunnelEnd& end = join();
  EXPECT_EQ(add(end, {.id = 1, .name = "", .type = "tcp", .bind = "", .port = port}).code, "port_in_use");
  EXPECT_EQ(add(end, {.id = 2, .name = "", .type = "tcp", .bind = "", .port = 80}).code, "port_not_allowed");
  EXPECT_EQ(add(end, {.id = 3, .name = "", .type = "udp", .bind = "", .port = 0}).code, "bad_request");
  EXPECT_EQ(add(end, {.id = 4, .name = "", .type = "tcp", .bind = "localhost", .port = 0}).code, "bad_request");
  EXPECT_EQ(add(end, {.id = 5, .name = "", .type = "tcp", .bind = "192.0.2.1", .port = 0}).code,
            "address_not_available");
  const ProxyResp first = add(end, any_port(6));
  EXPECT_EQ(first.code, "ok");
  EXPECT_EQ(add(end, any_port(6)), first);  // said twice, answered twice
  EXPECT_EQ(add(end, {.id = 6, .name = "", .type = "tcp", .bind = "", .port = 40'000}).code, "bad_request");
  EXPECT_EQ(add(end, any_port(7)).code, "ok");
  EXPECT_EQ(add(end, any_port(8)).code, "too_many_proxies");
  clients.call([&] { end.say(CloseProxy{6}); });
  EXPECT_EQ(add(end, any_port(8)).code, "ok");  // handled in order
  EXPECT_FALSE(user_of(first.port));
}

TEST_P(PeerTest, OddMessagesAreAnsweredAndTheSessionGoesOn) {
  TunnelEnd& end = join();
  clients.call([&] {
    end.say(Ping{4711});
    end.say(Unknown{"later"});
    end.say(NewConn{});
    end.say(prove(end, body()));  // twice
    end.say(ErrorMessage{"\x1b[31mred\n"});
    end.say(CloseProxy{99});
    end.say(Pong{-1});
  });
  ASSERT_TRUE(clients.await("answers", [&] { return end.messages.size() >= 5; }));
  clients.call([&] {
    EXPECT_EQ(*end.last<Pong>(), Pong{4711});
    EXPECT_THAT(std::get<ErrorMessage>(end.messages[2]).text, HasSubstr("'later'"));
    EXPECT_TRUE(std::holds_alternative<ErrorMessage>(end.messages[3]));
    EXPECT_TRUE(std::holds_alternative<ErrorMessage>(end.messages[4]));
  });
  EXPECT_EQ(add(end, any_port(1)).code, "ok");
}

TEST_P(PeerTest, OnlyTheServerOpensDataStreams) {
  TunnelEnd& end = join();
  DataStream& stream = clients.call([&]() -> DataStream& { return end.open("let me in"); });
  ASSERT_TRUE(clients.await("refused", [&] { return stream.reset.has_value(); }));
  EXPECT_EQ(*stream.reset, ResetCode::protocol);
  EXPECT_EQ(add(end, any_port(1)).code, "ok");
}

TEST_P(PeerTest, AfterGoodbyeThePortsAreFreeAndRunningConnectionsGoOn) {
  TunnelEnd& end = join();
  const ProxyResp proxy = add(end, any_port(1));
  io::Fd user = user_of(proxy.port);
  ASSERT_TRUE(clients.await("the stream", [&] { return !end.streams.empty(); }));
  clients.call([&] { end.say(Goodbye{"restart"}); });
  EXPECT_EQ(add(end, any_port(2)).code, "bad_request");  // leaving
  EXPECT_FALSE(user_of(proxy.port));
  clients.call([&] { end.streams[0]->say("still here", true); });
  EXPECT_EQ(receive_all(user.get()).text, "still here");
}

TEST_P(PeerTest, ATokensConnectionsAreBounded) {
  config.tokens[0].max_connections = 1;
  TunnelEnd& end = join();
  const ProxyResp proxy = add(end, any_port(1));
  io::Fd first = user_of(proxy.port);
  ASSERT_TRUE(clients.await("the stream", [&] { return !end.streams.empty(); }));
  io::Fd second = user_of(proxy.port);
  EXPECT_EQ(receive_all(second.get()).end, ECONNRESET);
  close_with_reset(std::move(first));
  ASSERT_TRUE(clients.await("the first one's end", [&] { return end.streams[0]->reset.has_value(); }));
  on_worker([] {});
  io::Fd third = user_of(proxy.port);
  EXPECT_TRUE(clients.await("the third one's stream", [&] { return end.streams.size() == 2; }));
}

// --- several tunnels, and coming back ---

TEST_P(PeerTest, TunnelsOfOneRunShareTheProxies) {
  TunnelEnd& one = join(body(1, 1, 0));
  TunnelEnd& two = join(body(1, 1, 1));
  const ProxyResp proxy = add(one, any_port(1));
  EXPECT_EQ(add(two, any_port(1)), proxy);
  EXPECT_EQ(shared->registry.groups().size(), 1U);
  std::vector<io::Fd> users;
  for (int i = 0; i < 10; ++i) users.push_back(user_of(proxy.port));
  ASSERT_TRUE(clients.await("ten", [&] { return one.streams.size() + two.streams.size() == 10; }));
  clients.call([&] {
    EXPECT_EQ(one.streams.size(), 5U);
    EXPECT_EQ(two.streams.size(), 5U);
    one.session.reset();
  });
  await_peers(1);
  users.push_back(user_of(proxy.port));  // the port stays while one tunnel is there
  EXPECT_TRUE(clients.await("at the other", [&] { return two.streams.size() == 6; }));
}

TEST(TunnelLoad, ABulkTransferOfTheLastSecondCountsForSixteenConnections) {
  LoopThread loop("epoll");
  Member member(*loop);
  const TimePoint now{std::chrono::hours(1)};
  member.connections = 3;
  EXPECT_GT(member.load(now), 1'000'000U) << "it has not answered: others first, whatever they carry";
  member.waits = false;
  EXPECT_EQ(member.load(now), 3U);
  member.moved_much = now - std::chrono::milliseconds(900);
  EXPECT_EQ(member.load(now), 19U);
  EXPECT_EQ(member.load(now + std::chrono::milliseconds(200)), 3U);
}

TEST_P(PeerTest, ATunnelOpenedAnewReplacesItsPredecessor) {
  TunnelEnd& old = join(body(1, 1, 0));
  const ProxyResp proxy = add(old, any_port(1));
  TunnelEnd& fresh = join(body(1, 1, 0));
  ASSERT_TRUE(clients.await("the old one goes", [&] { return old.closed.has_value(); }));
  EXPECT_EQ(add(fresh, any_port(1)), proxy);
  await_peers(1);
}

TEST_P(PeerTest, AClientThatComesBackTakesItsPortsFromItsSilentSelf) {
  LoopThread dead("epoll");
  auto [a, b] = tcp_pair();
  start();
  worker->loop().post([this, fd = std::move(b)]() mutable {
    worker->adopt(std::move(fd), *io::Endpoint::from_literal("127.0.0.1", 1));
  });
  auto old = dead.call([&, &fd = a] { return std::make_unique<TunnelEnd>(*dead, std::move(fd), true); });
  ASSERT_TRUE(dead.await("established", [&] { return old->control != nullptr; }));
  dead.call([&] {
    old->say(prove(*old, body(1, 1)));
    old->say(any_port(1));
  });
  ASSERT_TRUE(dead.await("its port", [&] { return old->last<ProxyResp>() != nullptr; }));
  const std::uint16_t port = old->last<ProxyResp>()->port;
  dead.stop();  // the machine is switched off: no byte comes from it any more

  TunnelEnd& back = join(body(1, 2));
  const ProxyResp proxy = add(back, {.id = 1, .name = "", .type = "tcp", .bind = "", .port = port});
  EXPECT_EQ(proxy.code, "ok") << proxy.text;
  await_peers(1);
  EXPECT_EQ(shared->registry.groups().size(), 1U);
  old.reset();
}

TEST_P(PeerTest, TwoLivingClientsWithOneInstanceBothWork) {
  TunnelEnd& one = join(body(1, 1));
  const ProxyResp proxy = add(one, any_port(1));
  TunnelEnd& two = join(body(1, 2));
  EXPECT_EQ(add(two, {.id = 1, .name = "", .type = "tcp", .bind = "", .port = proxy.port}).code, "port_in_use");
  EXPECT_EQ(add(two, any_port(2)).code, "ok");
  EXPECT_EQ(add(one, any_port(2)).code, "ok");
  EXPECT_EQ(peers(), 2U);
}

// --- shutting down ---

TEST_P(PeerTest, AtShutdownClientsHearGoodbyeAndStrangersAreDropped) {
  TunnelEnd& known = join();
  const ProxyResp proxy = add(known, any_port(1));
  io::Fd user = user_of(proxy.port);
  ASSERT_TRUE(clients.await("the stream", [&] { return !known.streams.empty(); }));
  for (int i = 0; i < 20; ++i) dial();
  await_peers(21);
  std::atomic<int> drained = 0, closed = 0;
  on_worker([&] { worker->drain([&] { ++drained; }); });
  ASSERT_TRUE(clients.await("goodbye", [&] { return known.last<Goodbye>() != nullptr; }));
  await_peers(1);
  EXPECT_EQ(drained, 0);
  clients.call([&] { known.streams[0]->say("the end", true); });
  EXPECT_EQ(receive_all(user.get()).text, "the end");
  user.reset();
  for (const auto until = Clock::now() + kDeadline; drained == 0 && Clock::now() < until;) (void)peers();
  EXPECT_EQ(drained, 1);
  on_worker([&] { worker->close_all([&] { ++closed; }); });
  ASSERT_TRUE(clients.await("closed", [&] { return known.closed.has_value(); }));
  clients.call([&] { ends.clear(); });
  await_peers(0);
  EXPECT_EQ(closed, 1);
  EXPECT_EQ(drained, 1);
}

}  // namespace
}  // namespace qtrp::server
