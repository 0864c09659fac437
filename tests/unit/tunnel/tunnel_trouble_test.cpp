// TunnelSession in trouble: peers that don't fit, strangers, garbage, cut connections, and those who have not proved
// who they are.
#include <algorithm>

#include "tunnel/tunnel_pair.h"

namespace qtrp::tunnel {
namespace {

using namespace test;
using testing::AllOf;
using testing::HasSubstr;

class TunnelTroubleTest : public TunnelTest {
 protected:
  bool await_both_closed() {
    return loop.await("both ends know", [&] { return client.closed && server.closed; });
  }
};
INSTANTIATE_TEST_SUITE_P(EnginesAndCiphers, TunnelTroubleTest,
                         testing::Combine(testing::Values("net", "epoll"), testing::Values("none", "tls", "chacha20")),
                         name_of());

TEST_P(TunnelTroubleTest, AnotherMuxIsNamedOnBothEnds) {
  start({.mux = mux::Protocol::smux2}, {.mux = mux::Protocol::yamux});
  // The client speaks before it hears, as it does in life.
  ASSERT_TRUE(loop.await("the client is let speak", [&] { return client.established || client.closed; }));
  loop.call([&] {
    if (!client.closed) client.open(pattern(1, 3000));
  });
  ASSERT_TRUE(await_both_closed());
  loop.call([&] {
    EXPECT_THAT(client.closed->message, AllOf(HasSubstr("'smux' here"), HasSubstr("'yamux' there")));
    EXPECT_THAT(server.closed->message, AllOf(HasSubstr("'yamux' here"), HasSubstr("'smux' there")));
  });
}

TEST_P(TunnelTroubleTest, AnotherCipherEndsWithWordsOnBothEnds) {
  for (const std::string& other : {std::string("none"), std::string("tls"), std::string("chacha20")}) {
    if (other == cipher()) continue;
    client = {};
    server = {};
    start(cipher(), other);
    ASSERT_TRUE(loop.await("the server's verdict", [&] { return server.closed.has_value(); })) << other;
    loop.call([&] { server.session.reset(); });  // as its owner does
    ASSERT_TRUE(loop.await("the client's verdict", [&] { return client.closed.has_value(); })) << other;
    loop.call([&] {
      EXPECT_FALSE(server.closed->message.empty());
      EXPECT_FALSE(client.closed->message.empty());
      if (cipher() == "tls") {
        EXPECT_THAT(server.closed->message, HasSubstr("TLS")) << other;
      }
      EXPECT_TRUE(server.accepted.empty());
      client.session.reset();
    });
  }
}

TEST_P(TunnelTroubleTest, GarbageEndsTheSession) {
  for (const bool into_server : {true, false}) {
    client = {};
    server = {};
    start();
    authenticate();
    auto [there, here] = user("some");
    ASSERT_TRUE(loop.await("the stream works", [h = here] { return h->got == "some"; }));
    loop.call([&] {
      // Straight into the connection, past the session that owns it.
      const std::string garbage = pattern(9, 70'000);  // longer than any record
      EXPECT_GT(::send(into_server ? client.fd : server.fd, garbage.data(), garbage.size(), MSG_NOSIGNAL), 0);
    });
    End& victim = into_server ? server : client;
    ASSERT_TRUE(loop.await("it notices", [&] { return victim.closed.has_value(); }));
    loop.call([&, t = there, h = here] {
      EXPECT_TRUE(victim.closed->kind == ErrorKind::protocol || victim.closed->kind == ErrorKind::crypto)
          << victim.closed->message;
      EXPECT_FALSE(t->finished || h->finished);
      client.session.reset();
      server.session.reset();
    });
  }
}

TEST_P(TunnelTroubleTest, AStrangersFirstBytesAreEnough) {
  for (const std::string& hello : {std::string("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), std::string("SSH-2.0-x\r\n"),
                                   pattern(2, 100), std::string(100, '\0')}) {
    auto [a, b] = tcp_pair();
    End end;
    loop.call([&] {
      end.session = std::make_unique<TunnelSession>(*loop, std::move(b), make_layer(cipher(), false), Options{}, end);
    });
    ASSERT_TRUE(send_all(a.get(), hello));
    ASSERT_TRUE(loop.await("refused", [&] { return end.closed.has_value(); })) << hello.substr(0, 10);
    loop.call([&] {
      EXPECT_TRUE(end.accepted.empty());
      end.session.reset();
    });
  }
}

TEST_P(TunnelTroubleTest, ACutConnectionIsNeverACleanEnd) {
  for (const bool with_reset : {false, true}) {
    client = {};
    server = {};
    start();
    authenticate();
    auto [there, here] = user(pattern(3, 64 << 20), true);
    ASSERT_TRUE(loop.await("in the middle", [h = here] { return h->got.size() > 100'000; }));
    loop.call([&] {
      if (with_reset) {
        const linger now{1, 0};
        ::setsockopt(server.fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
      }
      server.session.reset();  // as if the process were killed
    });
    ASSERT_TRUE(loop.await("the client knows", [&] { return client.closed.has_value(); }));
    loop.call([&, h = here] {
      EXPECT_FALSE(h->finished);
      EXPECT_LT(h->got.size(), 64U << 20);
      EXPECT_TRUE(pattern(3, 64 << 20).starts_with(h->got));
      client.session.reset();
    });
  }
}

TEST_P(TunnelTroubleTest, AConnectionCutInTheHandshakeIsToldToo) {
  auto [a, b] = tcp_pair();
  loop.call([&] {
    client.session = std::make_unique<TunnelSession>(*loop, std::move(a), make_layer(cipher(), true),
                                                     Options{.client = true}, client);
  });
  b.reset();
  ASSERT_TRUE(loop.await("the client knows", [&] { return client.closed.has_value(); }));
}

TEST_P(TunnelTroubleTest, AnUnauthenticatedPeerGetsOneStream) {
  start();
  ASSERT_TRUE(loop.await("established", [&] { return client.established; }));
  std::vector<Talker*> talkers = loop.call([&] {
    std::vector<Talker*> all;
    for (int i = 0; i < 10; ++i) all.push_back(client.open("stream " + std::to_string(i)));
    return all;
  });
  ASSERT_TRUE(loop.await("nine are refused", [&] {
    return std::ranges::count_if(talkers, [](const Talker* t) { return t && t->reset.has_value(); }) == 9;
  }));
  loop.call([&] {
    EXPECT_EQ(server.accepted.size(), 1U);
    EXPECT_EQ(server.accepted[0]->got, "stream 0");
    for (std::size_t i = 1; i < 10; ++i) EXPECT_EQ(talkers[i]->reset, ResetCode::limit);
    server.session->authenticated();
  });
  loop.call([&] {
    for (int i = 0; i < 10; ++i) client.open("known");
  });
  loop.await("then they are welcome", [&] { return server.accepted.size() == 11; });
}

TEST_P(TunnelTroubleTest, AnUnauthenticatedPeerGets64KiBThatNobodyTakes) {
  loop.call([&] { server.hold_new = true; });
  start();
  ASSERT_TRUE(loop.await("established", [&] { return client.established; }));
  Talker* flood = loop.call([&] { return client.open(pattern(4, 8 << 20)); });
  // The stream is what it costs, not the server's memory.
  ASSERT_TRUE(loop.await("it is cut", [&] { return flood->reset || server.closed || client.closed; }));
  loop.call([&] {
    ASSERT_EQ(server.accepted.size(), 1U);
    EXPECT_LE(server.accepted[0]->got.size(), (64U << 10) + io::BufferPool::kLarge);
  });
}

class TunnelRecordTest : public TunnelTest {};
INSTANTIATE_TEST_SUITE_P(EnginesAndCiphers, TunnelRecordTest,
                         testing::Combine(testing::Values("net", "epoll"), testing::Values("tls", "chacha20")),
                         name_of());

TEST_P(TunnelRecordTest, AnUnfinishedRecordOfAStrangerHoldsNoBuffer) {
  auto [a, b] = tcp_pair();
  loop.call([&] {
    server.session =
        std::make_unique<TunnelSession>(*loop, std::move(b), make_layer(cipher(), false), Options{}, server);
  });
  // A handshake by hand, then the beginning of a record, byte by byte, that never ends.
  auto layer = make_layer(cipher(), true);
  ASSERT_TRUE(layer->start());
  make_blocking(a.get());
  std::string got;
  while (!layer->established()) {
    ASSERT_TRUE(send_all(a.get(), as_text(layer->output())));
    layer->clear_output();
    got += receive_all(a.get(), 1).text;
    auto opened = layer->open(MutableBytes(reinterpret_cast<std::byte*>(got.data()), got.size()));
    ASSERT_TRUE(opened) << opened.error().message;
    got.erase(0, opened->consumed);
  }
  const crypto::Rooms rooms = layer->rooms();
  std::vector<std::byte> record(rooms.head + 8000 + rooms.tail);
  const auto sealed = layer->seal(record);
  ASSERT_TRUE(sealed);
  const std::string wire = std::string(as_text(layer->output())) + std::string(as_text(*sealed));
  const auto heard = [&] { return loop.call([&] { return server.session->stats().wire_bytes_in; }); };
  const auto before = heard();
  for (const char& byte : wire.substr(0, 200)) ASSERT_TRUE(send_all(a.get(), {&byte, 1}));
  ASSERT_TRUE(send_all(a.get(), wire.substr(200, wire.size() - 201)));
  ASSERT_TRUE(loop.await("all but the last byte", [&] {
    return server.session->stats().wire_bytes_in >= before + wire.size() - 1 || server.closed;
  }));
  loop.call([&] {
    EXPECT_FALSE(server.closed);
    EXPECT_EQ((*loop).pool().lent(), 0U);
  });
  // It was all kept: the last byte makes it a record, which is no preface.
  ASSERT_TRUE(send_all(a.get(), wire.substr(wire.size() - 1)));
  ASSERT_TRUE(loop.await("the verdict", [&] { return server.closed.has_value(); }));
  EXPECT_THAT(server.closed->message, testing::Not(HasSubstr("authentic")));
  EXPECT_EQ(server.closed->kind, ErrorKind::protocol) << server.closed->message;
}

// A record layer that cannot even begin.
class Broken final : public crypto::RecordLayer {
 public:
  Result<void> start() override { return fail(ErrorKind::crypto, "no entropy"); }
  Result<Opened> open(MutableBytes) override { return fail(ErrorKind::crypto, "never begun"); }
  Bytes output() const override { return {}; }
  void clear_output() override {}
  crypto::Rooms rooms() const override { return {}; }
  Result<Bytes> seal(MutableBytes) override { return fail(ErrorKind::crypto, "never begun"); }
  bool established() const override { return false; }
  Bytes channel_binding() const override { return {}; }
  void close() override {}
  std::string describe() const override { return "broken"; }
};

TEST_P(TunnelTroubleTest, ARecordLayerThatCannotBeginEndsTheSessionAtOnce) {
  auto [a, b] = tcp_pair();
  loop.call([&] {
    client.session = std::make_unique<TunnelSession>(*loop, std::move(a), std::make_unique<Broken>(),
                                                     Options{.client = true}, client);
  });
  ASSERT_TRUE(loop.await("the end", [&] { return client.closed.has_value(); }));
  loop.call([&] { EXPECT_EQ(client.closed->message, "no entropy"); });
}

TEST_P(TunnelTroubleTest, MoreStreamsThanTheLimitAreRefused) {
  start({.max_streams = 5});
  authenticate();
  loop.call([&] {
    for (int i = 0; i < 8; ++i) server.open("user");
  });
  ASSERT_TRUE(loop.await("five and three", [&] {
    return client.accepted.size() == 5 &&
           std::ranges::count_if(server.talkers, [](const auto& t) { return t->reset == ResetCode::limit; }) == 3;
  }));
}

}  // namespace
}  // namespace qtrp::tunnel
