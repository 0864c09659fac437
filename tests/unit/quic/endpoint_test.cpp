// Server and Dialer over loopback UDP on both engines: sessions made, bytes carried, ends told.
#include "qtrp/quic/endpoint.h"

#include <gmock/gmock.h>

#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "simulation.h"

namespace qtrp::quic::test {
namespace {

/// A session with an owner that records.
struct Party final : session::SessionListener {
  std::unique_ptr<QuicSession> session;
  std::map<session::StreamId, Seen> streams;
  std::vector<session::StreamId> opened;
  bool established = false, trusting = false;
  std::optional<Error> closed;
  std::function<void(session::StreamId)> on_opened;
  std::function<void()> changed;

  void take(std::unique_ptr<QuicSession> s) {
    session = std::move(s);
    session->set_listener(this);
  }
  void on_events() override {
    while (session) {
      auto event = session->next_event();
      if (!event) break;
      Seen& seen = streams[event->stream];
      switch (event->kind) {
        case session::EventKind::established:
          established = true;
          if (trusting) session->authenticated();
          break;
        case session::EventKind::opened:
          opened.push_back(event->stream);
          if (on_opened) on_opened(event->stream);
          break;
        case session::EventKind::body:
          if (seen.seed)
            for (std::size_t i = 0; i < event->body.size(); ++i)
              seen.right = seen.right && event->body[i] == pattern(*seen.seed, seen.bytes + i);
          seen.bytes += event->body.size();
          session->moved(event->stream, event->body.size());
          break;
        case session::EventKind::finished: seen.finished = true; break;
        case session::EventKind::reset: seen.reset = event->code; break;
        case session::EventKind::can_open: break;
        case session::EventKind::closed: closed = *event->error; break;
      }
    }
    if (changed) changed();
  }
};

class Endpoint : public testing::TestWithParam<const char*> {
 protected:
  Endpoint() : loop(std::string_view(GetParam()) == "net" ? io::make_asio_loop() : io::make_epoll_loop()) {
    server_options.identity = make_certificate();
    client.trusting = true;
    client.changed = server.changed = [this] { check(); };
  }
  void listen() {
    auto made = Server::listen(*loop, *io::Endpoint::from_literal("127.0.0.1", 0), server_options,
                               [this](std::unique_ptr<QuicSession> s) {
                                 server.take(std::move(s));
                                 check();
                               });
    ASSERT_TRUE(made) << made.error().message;
    endpoint = std::move(*made);
    at = endpoint->local();
  }
  void dial() {
    dialer.emplace(*loop, std::vector{at}, client_options, [this](Result<std::unique_ptr<QuicSession>> result) {
      if (result) {
        client.take(std::move(*result));
      } else {
        dial_error = result.error();
      }
      check();
    });
  }
  /// Runs the loop until `done` holds; false after ten seconds. Once a test: a loop runs once.
  bool run_until(std::function<bool()> done) {
    done_ = std::move(done);
    bool late = false;
    io::Timer deadline(*loop);
    deadline.start(30s, [&] {
      late = true;
      loop->stop();
    });
    check();
    loop->run();
    return !late;
  }
  void check() {
    if (done_ && done_()) {
      done_ = nullptr;
      loop->post([this] { loop->stop(); });
    }
  }

  std::unique_ptr<io::Loop> loop;
  ServerOptions server_options;
  ClientOptions client_options;
  Party client, server;
  std::unique_ptr<Server> endpoint;
  std::optional<Dialer> dialer;
  std::optional<Error> dial_error;
  io::Endpoint at;

 private:
  std::function<bool()> done_;
};

TEST_P(Endpoint, CarriesBytesBothWays) {
  listen();
  PatternSource control(9, 10, PatternSource::After::block), down(1, 30 << 20), up(2, 20 << 20);
  std::optional<session::StreamId> id;
  client.on_opened = [&](session::StreamId stream) {
    client.streams[stream].seed = 1;
    client.session->attach(stream, up, nullptr);
    client.session->ready(stream);
  };
  server.on_opened = [&](session::StreamId stream) {
    EXPECT_EQ(stream, 0u);
    server.session->authenticated();
    id = *server.session->open(down, nullptr);
    server.streams[*id].seed = 2;
  };
  dialer.emplace(*loop, std::vector{at}, client_options, [&](Result<std::unique_ptr<QuicSession>> result) {
    ASSERT_TRUE(result) << result.error().message;
    client.take(std::move(*result));
    ASSERT_TRUE(client.session->open(control, nullptr));
    dialer.reset();
  });
  ASSERT_TRUE(run_until([&] { return id && client.streams[*id].finished && server.streams[*id].finished; }));
  EXPECT_EQ(client.streams[*id].bytes, 30u << 20);
  EXPECT_EQ(server.streams[*id].bytes, 20u << 20);
  EXPECT_TRUE(client.streams[*id].right && server.streams[*id].right);
  EXPECT_TRUE(client.established && server.established);
  Bytes ours = client.session->channel_binding(), theirs = server.session->channel_binding();
  EXPECT_TRUE(ours.size() == 32 && std::equal(ours.begin(), ours.end(), theirs.begin(), theirs.end()));
}

TEST_P(Endpoint, TheServersReasonReachesTheClient) {
  listen();
  PatternSource control(9, 10, PatternSource::After::block);
  server.on_opened = [&](session::StreamId) { server.session->close({ErrorKind::denied, "no such token"}); };
  dialer.emplace(*loop, std::vector{at}, client_options, [&](Result<std::unique_ptr<QuicSession>> result) {
    ASSERT_TRUE(result) << result.error().message;
    client.take(std::move(*result));
    ASSERT_TRUE(client.session->open(control, nullptr));
  });
  ASSERT_TRUE(run_until([&] { return client.closed && server.closed; }));
  EXPECT_EQ(client.closed->kind, ErrorKind::denied);
  EXPECT_EQ(client.closed->message, "no such token");
}

TEST_P(Endpoint, DestroyingTheClientsSessionEndsTheServers) {
  listen();
  PatternSource control(9, 10, PatternSource::After::block);
  server.on_opened = [&](session::StreamId) { loop->post([&] { client.session.reset(); }); };
  dialer.emplace(*loop, std::vector{at}, client_options, [&](Result<std::unique_ptr<QuicSession>> result) {
    ASSERT_TRUE(result) << result.error().message;
    client.take(std::move(*result));
    ASSERT_TRUE(client.session->open(control, nullptr));
  });
  ASSERT_TRUE(run_until([&] { return server.closed.has_value(); }));
  EXPECT_EQ(server.closed->kind, ErrorKind::closed);
}

TEST_P(Endpoint, DestroyingTheServerEndsItsSessions) {
  listen();
  PatternSource control(9, 10, PatternSource::After::block);
  server.on_opened = [&](session::StreamId) { loop->post([&] { endpoint.reset(); }); };
  dialer.emplace(*loop, std::vector{at}, client_options, [&](Result<std::unique_ptr<QuicSession>> result) {
    ASSERT_TRUE(result) << result.error().message;
    client.take(std::move(*result));
    ASSERT_TRUE(client.session->open(control, nullptr));
  });
  ASSERT_TRUE(run_until([&] { return client.closed.has_value(); }));
  EXPECT_EQ(client.closed->kind, ErrorKind::closed);
  auto event = server.session->next_event();
  ASSERT_TRUE(event);
  EXPECT_EQ(event->kind, session::EventKind::closed);
  EXPECT_FALSE(server.session->next_event());
  PatternSource more(1, 1);
  EXPECT_FALSE(server.session->open(more, nullptr));
}

TEST_P(Endpoint, NobodyListens) {
  listen();
  endpoint.reset();
  dial();
  ASSERT_TRUE(run_until([&] { return dial_error.has_value(); }));
  EXPECT_EQ(dial_error->kind, ErrorKind::system);
  EXPECT_EQ(dial_error->code, ECONNREFUSED);
}

TEST_P(Endpoint, TheSecondAddressAnswers) {
  listen();
  std::vector<io::Endpoint> addresses{at, at};
  {
    auto gone = Server::listen(*loop, *io::Endpoint::from_literal("127.0.0.1", 0), server_options, [](auto) {});
    ASSERT_TRUE(gone);
    addresses[0] = (*gone)->local();
  }
  dialer.emplace(*loop, addresses, client_options, [&](Result<std::unique_ptr<QuicSession>> result) {
    ASSERT_TRUE(result) << result.error().message;
    client.take(std::move(*result));
  });
  ASSERT_TRUE(run_until([&] { return client.established; }));
}

TEST_P(Endpoint, AWrongPinIsRefusedByTheClient) {
  listen();
  client_options.checks.pins = {pin_of(make_certificate())};
  dial();
  ASSERT_TRUE(run_until([&] { return dial_error.has_value(); }));
  EXPECT_EQ(dial_error->kind, ErrorKind::crypto);
  EXPECT_THAT(dial_error->message, testing::HasSubstr("pinned"));
}

TEST_P(Endpoint, TheRightPinIsAccepted) {
  listen();
  client_options.checks.pins = {pin_of(server_options.identity)};
  dial();
  ASSERT_TRUE(run_until([&] { return client.established; }));
}

TEST_P(Endpoint, UnderLoadTheAddressIsValidatedFirst) {
  server_options.retry_above = 0;
  listen();
  PatternSource control(9, 10, PatternSource::After::block);
  dialer.emplace(*loop, std::vector{at}, client_options, [&](Result<std::unique_ptr<QuicSession>> result) {
    ASSERT_TRUE(result) << result.error().message;
    client.take(std::move(*result));
    ASSERT_TRUE(client.session->open(control, nullptr));
  });
  ASSERT_TRUE(run_until([&] { return server.established; }));
}

TEST_P(Endpoint, ARefusingServerSaysSo) {
  listen();
  endpoint->stop_accepting();
  dial();
  ASSERT_TRUE(run_until([&] { return dial_error.has_value(); }));
  EXPECT_THAT(dial_error->message, testing::HasSubstr("0x2"));
}

TEST_P(Endpoint, ATunnelThatDoesNotAuthenticateIsDropped) {
  server_options.authentication_timeout = 200ms;
  listen();
  PatternSource control(9, 10, PatternSource::After::block);
  dialer.emplace(*loop, std::vector{at}, client_options, [&](Result<std::unique_ptr<QuicSession>> result) {
    ASSERT_TRUE(result) << result.error().message;
    client.take(std::move(*result));
    ASSERT_TRUE(client.session->open(control, nullptr));
  });
  ASSERT_TRUE(run_until([&] { return client.closed.has_value() && server.closed.has_value(); }));
  EXPECT_EQ(client.closed->kind, ErrorKind::timeout);
}

/// A UDP socket that says what no QUIC client would.
struct Raw final : io::Watcher {
  Raw(io::Loop& loop, const io::Endpoint& to, std::function<void()> changed)
      : fd(::socket(to.family(), SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)), changed_(std::move(changed)) {
    EXPECT_EQ(::connect(fd.get(), to.data(), to.size()), 0);
    watch_ = loop.watch(fd.get(), *this);
    watch_->arm_read();
  }
  void say(const std::string& datagram) {
    EXPECT_EQ(::send(fd.get(), datagram.data(), datagram.size(), 0), static_cast<ssize_t>(datagram.size()));
  }
  void on_ready(io::Readiness) override {
    char buffer[2048];
    for (ssize_t n; (n = ::recv(fd.get(), buffer, sizeof buffer, 0)) >= 0;)
      answers.emplace_back(buffer, static_cast<std::size_t>(n));
    watch_->arm_read();
    changed_();
  }
  io::Fd fd;
  std::vector<std::string> answers;

 private:
  std::function<void()> changed_;
  std::unique_ptr<io::Watch> watch_;
};

std::string long_header(std::uint32_t version, const std::string& destination, const std::string& source,
                        std::size_t size) {
  std::string out("\xc0", 1);
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(version >> shift);
  out += static_cast<char>(destination.size());
  out += destination;
  out += static_cast<char>(source.size());
  out += source;
  if (out.size() < size) out.resize(size, '\0');
  return out;
}

TEST_P(Endpoint, AnUnknownVersionIsAnsweredWithTheOnesSpoken) {
  listen();
  Raw raw(*loop, at, [this] { check(); });
  raw.say(long_header(0x0a0b0c0d, "aaaaaaaa", "tooshort", 1100));  // no answer: it could be made to amplify
  raw.say(long_header(0x0a0b0c0d, "aaaaaaaa", "bbbbbbbb", 1200));
  ASSERT_TRUE(run_until([&] { return !raw.answers.empty(); }));
  const std::string& answer = raw.answers.front();
  EXPECT_EQ(answer.substr(1, 4), std::string(4, '\0'));  // Version Negotiation
  EXPECT_EQ(answer.substr(6, 8), "bbbbbbbb");
  EXPECT_NE(answer.find(std::string("\0\0\0\1", 4), 23), std::string::npos);
}

/// An Initial packet's header (RFC 9000, section 17.2.2) in front of nonsense.
std::string initial(const std::string& destination, const std::string& source, const std::string& token) {
  std::string out = long_header(1, destination, source, 0);
  out += static_cast<char>(0x40 | token.size() >> 8);
  out += static_cast<char>(token.size() & 0xff);
  out += token;
  const std::size_t rest = 1200 - out.size() - 2;
  out += static_cast<char>(0x40 | rest >> 8);
  out += static_cast<char>(rest & 0xff);
  out.resize(1200, 'x');
  return out;
}

TEST_P(Endpoint, ARetryTokenIsGoodForTheAddressThatGotIt) {
  server_options.retry_above = 0;
  listen();
  Raw asker(*loop, at, [this] { check(); }), thief(*loop, at, [this] { check(); });
  std::string id, token;
  bool refused = false;
  asker.say(initial("aaaaaaaa", "bbbbbbbb", ""));
  ASSERT_TRUE(run_until([&] {
    if (id.empty() && !asker.answers.empty()) {
      const std::string& retry = asker.answers.front();
      EXPECT_EQ(retry[0] & 0xf0, 0xf0);  // Retry
      EXPECT_LT(retry.size(), 300u);     // far less than what provoked it
      EXPECT_EQ(retry.substr(6, 8), "bbbbbbbb");
      const auto length = static_cast<std::size_t>(retry[14]);
      id = retry.substr(15, length);
      token = retry.substr(15 + length, retry.size() - 15 - length - 16);  // the integrity tag is behind it
      thief.say(initial(id, "cccccccc", token));
      asker.say(initial(id, "bbbbbbbb", token));
    }
    refused = !thief.answers.empty();
    return refused;
  }));
  EXPECT_EQ(thief.answers.front()[0] & 0xf0, 0xc0);  // an Initial that closes: INVALID_TOKEN
  EXPECT_EQ(thief.answers.front().substr(6, 8), "cccccccc");
  EXPECT_EQ(asker.answers.size(), 1u);  // let in; what followed the token was nonsense, so it hears nothing more
}

TEST_P(Endpoint, AForgottenSessionIsResetStatelessly) {
  listen();
  Raw raw(*loop, at, [this] { check(); });
  raw.say("A" + std::string(60, 'x'));
  ASSERT_TRUE(run_until([&] { return !raw.answers.empty(); }));
  EXPECT_GE(raw.answers.front().size(), 21u);
  EXPECT_LT(raw.answers.front().size(), 61u);  // ever smaller: two such ends can't keep each other busy
  EXPECT_EQ(raw.answers.front()[0] & 0xc0, 0x40);
}

TEST_P(Endpoint, NonsenseHarmsNobody) {
  listen();
  Raw raw(*loop, at, [this] { check(); });
  std::mt19937 random(7);
  for (std::size_t i = 0; i < 500; ++i) {
    std::string datagram(1 + random() % 1400, '\0');
    for (char& c : datagram) c = static_cast<char>(random());
    if (i % 3 == 0) datagram[0] = static_cast<char>(datagram[0] | 0xc0);
    if (i % 3 == 0 && datagram.size() > 5) datagram.replace(1, 4, std::string("\0\0\0\1", 4));
    raw.say(datagram);
  }
  dial();
  ASSERT_TRUE(run_until([&] { return client.established; }));
}

INSTANTIATE_TEST_SUITE_P(Engines, Endpoint, testing::Values("net", "epoll"),
                         [](const auto& engine) { return std::string(engine.param); });

}  // namespace
}  // namespace qtrp::quic::test
