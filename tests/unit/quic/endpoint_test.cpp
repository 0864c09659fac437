// Server and Dialer over loopback UDP on both engines: sessions made, bytes carried, ends told.
#include "qtrp/quic/endpoint.h"

#include <gmock/gmock.h>

#include <thread>

#include "simulation.h"

namespace qtrp::quic::test {
namespace {

/// A session with an owner that records.
struct Party final : session::SessionListener {
  std::unique_ptr<QuicSession> session;
  std::map<session::StreamId, Seen> streams;
  std::vector<session::StreamId> opened;
  bool established = false;
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
        case session::EventKind::established: established = true; break;
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
    deadline.start(10s, [&] {
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

INSTANTIATE_TEST_SUITE_P(Engines, Endpoint, testing::Values("net", "epoll"),
                         [](const auto& engine) { return std::string(engine.param); });

}  // namespace
}  // namespace qtrp::quic::test
