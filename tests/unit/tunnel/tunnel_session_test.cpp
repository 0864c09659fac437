// TunnelSession at work, on both engines and with every cipher: what goes in comes out, ends are ends and resets are
// resets, and a reader that stops stops nobody else.
#include "qtrp/tunnel/tunnel_session.h"

#include <algorithm>

#include "tunnel/tunnel_pair.h"

namespace qtrp::tunnel {
namespace {

using namespace test;

class TunnelSessionTest : public TunnelTest {};
INSTANTIATE_TEST_SUITE_P(EnginesAndCiphers, TunnelSessionTest,
                         testing::Combine(testing::Values("net", "epoll"), testing::Values("none", "tls", "chacha20")),
                         name_of());

TEST_P(TunnelSessionTest, BothEndsAgreeOnWhoTheyTalkTo) {
  start();
  authenticate();
  loop.call([&] {
    auto& c = *client.session;
    const auto& s = *server.session;
    EXPECT_EQ(as_text(c.channel_binding()), as_text(s.channel_binding()));
    EXPECT_EQ(c.channel_binding().size(), cipher() == "none" ? 0U : cipher() == "tls" ? 32U : 64U);
    for (const bool side : {true, false}) {
      EXPECT_EQ(as_text(c.preface(side)), as_text(s.preface(side)));
      EXPECT_TRUE(protocol::decode_preface(c.preface(side)));
    }
    EXPECT_TRUE(server.session->heard());
    EXPECT_FALSE(server.session->heard());
    const auto stats = c.stats();
    EXPECT_GT(stats.wire_bytes_in, 0U);
    EXPECT_GT(stats.wire_bytes_out, 0U);
    EXPECT_EQ(stats.streams, 1U);
    EXPECT_EQ(stats.mux, "smux");
    EXPECT_EQ(stats.transport, std::get<0>(GetParam()));
    EXPECT_TRUE(stats.cipher.starts_with(cipher())) << stats.cipher;
  });
}

TEST_P(TunnelSessionTest, EveryByteArrivesBothWays) {
  for (const auto mux : {mux::Protocol::smux2, mux::Protocol::yamux}) {
    client = {};
    server = {};
    start({.mux = mux}, {.mux = mux});
    authenticate();
    const std::string down = pattern(1, 6 << 20), up = pattern(2, 5 << 20);
    auto [there, here] = user(down, true);
    loop.call([&, h = here] { h->say(up, true); });
    ASSERT_TRUE(loop.await("both ends", [&, t = there, h = here] { return t->finished && h->finished; }));
    loop.call([&, t = there, h = here] {
      EXPECT_TRUE(h->got == down);
      EXPECT_TRUE(t->got == up);
      EXPECT_FALSE(t->reset || h->reset);
      EXPECT_GE(client.session->stats().wire_bytes_in, down.size());
      EXPECT_EQ(client.session->stats().streams, 1U);  // the control stream
      client.session.reset();
      server.session.reset();
    });
  }
}

TEST_P(TunnelSessionTest, ManyStreamsDoNotMix) {
  start();
  authenticate();
  constexpr std::uint32_t kStreams = 200;
  loop.call([&] {
    for (std::uint32_t i = 0; i < kStreams; ++i) server.open(pattern(i, 1000 + i * 97), true);
    client.prepare = [n = std::uint32_t{0}](Talker& t) mutable {
      t.out = pattern(1000 + n++, 5000);
      t.finish = true;
    };
  });
  ASSERT_TRUE(loop.await("all", [&] {
    return client.accepted.size() == kStreams &&
           std::ranges::all_of(client.accepted, [](const Talker* t) { return t->finished; }) &&
           std::ranges::all_of(server.talkers,
                               [&](const auto& t) { return t->finished || t.get() == server.accepted[0]; });
  }));
  loop.call([&] {
    for (std::uint32_t i = 0; i < kStreams; ++i) {
      EXPECT_TRUE(client.accepted[i]->got == pattern(i, 1000 + i * 97)) << i;
      EXPECT_TRUE(server.talkers[i + 1]->got == pattern(1000 + i, 5000)) << i;
    }
  });
}

TEST_P(TunnelSessionTest, AHalfClosedStreamGoesOnTheOtherWay) {
  start();
  authenticate();
  auto [there, here] = user("request", true);
  ASSERT_TRUE(loop.await("the end", [&, h = here] { return h->finished; }));
  for (int i = 0; i < 3; ++i) {
    loop.call([&, h = here] { h->say("answer " + std::to_string(i)); });
    ASSERT_TRUE(loop.await("the answer", [&, t = there] { return t->got.ends_with(std::to_string(i)); }));
  }
  loop.call([&, t = there, h = here] {
    EXPECT_FALSE(t->finished);
    h->say("", true);
  });
  ASSERT_TRUE(loop.await("the other end", [&, t = there] { return t->finished; }));
  loop.call([&, t = there] { EXPECT_EQ(t->got, "answer 0answer 1answer 2"); });
}

TEST_P(TunnelSessionTest, ResetsArriveWithTheirCode) {
  for (const auto mux : {mux::Protocol::smux2, mux::Protocol::yamux}) {
    client = {};
    server = {};
    start({.mux = mux}, {.mux = mux});
    authenticate();
    for (std::uint32_t code = 0; code <= 8; ++code) {
      auto [there, here] = user();
      loop.call([&, h = here] { client.session->reset(h->id, static_cast<ResetCode>(code)); });
      ASSERT_TRUE(loop.await("the reset", [&, t = there] { return t->reset.has_value(); }));
      loop.call([&, t = there, h = here] {
        EXPECT_EQ(*t->reset, static_cast<ResetCode>(code));
        EXPECT_FALSE(t->finished);
        EXPECT_FALSE(h->reset);  // who resets hears nothing of it
      });
    }
    loop.call([&] {
      EXPECT_FALSE(server.closed);
      client.session.reset();
      server.session.reset();
    });
  }
}

TEST_P(TunnelSessionTest, AReaderThatStopsStopsItsWriterAndNobodyElse) {
  start();
  authenticate();
  loop.call([&] { client.hold_new = true; });
  auto [writer, stuck] = user(pattern(3, 64 << 20));
  loop.call([&] { client.hold_new = false; });
  // The window is filled, then the source is not asked any more.
  std::size_t asked = 0, given = 0;
  for (int quiet = 0; quiet < 20;) {
    auto [t, h] = user("x", true);  // meanwhile others come and go
    ASSERT_TRUE(loop.await("the other one's end", [h = h] { return h->finished; }));
    loop.call([&, w = writer] { quiet = std::exchange(asked, w->asked) == w->asked ? quiet + 1 : 0; });
  }
  loop.call([&, w = writer, s = stuck] {
    given = w->given;
    EXPECT_EQ(s->got.size(), given);
    EXPECT_LE(given, 16U << 20);
    EXPECT_GT(given, 0U);
  });
  auto [big, reader] = user(pattern(4, 8 << 20), true);
  ASSERT_TRUE(loop.await("8 MB past the stuck one", [r = reader] { return r->finished; }));
  loop.call([&, w = writer, r = reader, s = stuck] {
    EXPECT_TRUE(r->got == pattern(4, 8 << 20));
    EXPECT_EQ(w->asked, asked);
    EXPECT_EQ(w->given, given);
    w->finish = true;
    s->let_go();
  });
  ASSERT_TRUE(loop.await("the rest", [s = stuck] { return s->finished; }));
  loop.call([s = stuck] { EXPECT_TRUE(s->got == pattern(3, 64 << 20)); });
}

TEST_P(TunnelSessionTest, AnIdleSourceIsNotAskedUntilItIsReady) {
  start();
  authenticate();
  auto [there, here] = user("one");
  ASSERT_TRUE(loop.await("the bytes", [h = here] { return h->got == "one"; }));
  const std::size_t asked = loop.call([t = there] { return t->asked; });
  auto [t2, h2] = user("two", true);
  ASSERT_TRUE(loop.await("others", [h = h2] { return h->finished; }));
  loop.call([t = there, asked] {
    EXPECT_EQ(t->asked, asked);
    t->say(" more");
  });
  loop.await("the bytes", [h = here] { return h->got == "one more"; });
}

TEST_P(TunnelSessionTest, CloseLetsLeaveWhatIsQueued) {
  start();
  authenticate();
  loop.call([&] {
    server.accepted[0]->say("denied");  // and goes at once, as a server does
    server.session->close(Error{ErrorKind::denied, "not you"});
  });
  ASSERT_TRUE(loop.await("both know", [&] { return client.closed && server.closed; }));
  loop.call([&] {
    EXPECT_EQ(control->got, "denied");
    EXPECT_EQ(client.closed->kind, ErrorKind::closed) << client.closed->message;
    EXPECT_EQ(server.closed->kind, ErrorKind::denied);
    EXPECT_FALSE(server.open("late"));
    EXPECT_EQ(server.refused->kind, ErrorKind::closed);
  });
}

TEST_P(TunnelSessionTest, CloseDoesNotWaitForAPeerThatDoesNotRead) {
  auto [a, b] = tcp_pair();  // a peer that neither reads nor closes
  End alone;
  loop.call([&] {
    alone.session =
        std::make_unique<TunnelSession>(*loop, std::move(a), crypto::make_none(), Options{.client = true}, alone);
  });
  ASSERT_TRUE(loop.await("established", [&] { return alone.established; }));
  const auto began = Clock::now();
  loop.call([&] {
    alone.open(pattern(5, 100 << 20));
    alone.session->close(Error{ErrorKind::closed, "bye"});
  });
  loop.await("closed", [&] { return alone.closed.has_value(); });
  EXPECT_LT(Clock::now() - began, std::chrono::seconds(20));
  loop.call([&] { alone.session.reset(); });
}

TEST_P(TunnelSessionTest, ItsOwnerMayGiveItUpWithinAnEvent) {
  start();
  authenticate();
  struct GivesUp final : session::SessionListener {
    explicit GivesUp(End& e, io::Loop& l) : end(e), loop(l) {}
    void on_events() override {
      while (end.session) {
        const auto event = end.session->next_event();
        if (!event) return;
        if (event->kind == EventKind::body) loop.destroy_later(std::move(end.session));
      }
    }
    End& end;
    io::Loop& loop;
  };
  auto [a, b] = tcp_pair();
  End one, two;
  GivesUp listener(two, *loop);
  loop.call([&] {
    one.session =
        std::make_unique<TunnelSession>(*loop, std::move(a), make_layer(cipher(), true), Options{.client = true}, one);
    two.session =
        std::make_unique<TunnelSession>(*loop, std::move(b), make_layer(cipher(), false), Options{}, listener);
  });
  ASSERT_TRUE(loop.await("established", [&] { return one.established; }));
  loop.call([&] { one.open(pattern(6, 30'000)); });
  loop.await("the other one's end", [&] { return one.closed.has_value(); });
  loop.call([&] { one.session.reset(); });
}

}  // namespace
}  // namespace qtrp::tunnel
