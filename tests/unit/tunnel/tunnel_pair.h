// Two TunnelSessions over a loopback connection on one loop, and what their owners would do.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "qtrp/crypto/noise.h"
#include "qtrp/crypto/tls.h"
#include "qtrp/identity/identity.h"
#include "qtrp/tunnel/tunnel_session.h"
#include "support/loop_thread.h"

namespace qtrp::tunnel::test {

using namespace qtrp::test;
using session::EventKind;
using session::ResetCode;
using session::StreamId;

/// A stream's owner: gives `out` (and then the end, if `finish`), keeps what comes, and gives credit unless `hold`.
class Talker final : public session::StreamOwner {
 public:
  explicit Talker(session::Session& s) : session(s) {}

  session::Produced produce(MutableBytes into) override {
    ++asked;
    const std::size_t n = std::min(into.size(), out.size() - given);
    std::memcpy(into.data(), out.data() + given, n);
    given += n;
    if (given < out.size()) return {n, session::Produced::Status::more, {}};
    return {n, finish ? session::Produced::Status::end : session::Produced::Status::would_block, {}};
  }
  void on_body(Bytes body) override {
    got += as_text(body);
    if (hold) {
      held += body.size();
    } else {
      session.moved(id, body.size());
    }
  }
  void on_finished() override { finished = true; }
  void on_reset(ResetCode code) override { reset = code; }
  void let_go() {
    hold = false;
    session.moved(id, std::exchange(held, 0));
  }
  void say(std::string text, bool and_finish = false) {
    out += text;
    finish = and_finish;
    session.ready(id);
  }

  session::Session& session;
  StreamId id = 0;
  std::string out, got;
  std::size_t given = 0, asked = 0, held = 0;
  bool finish = false, finished = false, hold = false;
  std::optional<ResetCode> reset;
};

/// One end of the tunnel.
class End final : public session::SessionListener {
 public:
  void on_events() override {
    while (session) {
      const auto event = session->next_event();
      if (!event) break;
      EXPECT_FALSE(closed) << "an event after `closed`";
      switch (event->kind) {
        case EventKind::established: established = true; break;
        case EventKind::opened: {
          auto talker = std::make_unique<Talker>(*session);
          talker->id = event->stream;
          talker->hold = hold_new;
          if (prepare) prepare(*talker);
          session->attach(event->stream, *talker, static_cast<session::StreamOwner*>(talker.get()));
          session->ready(event->stream);
          accepted.push_back(talker.get());
          talkers.push_back(std::move(talker));
          break;
        }
        case EventKind::can_open: can_open = true; break;
        case EventKind::closed: closed = *event->error; break;
        default: session::dispatch(*event);
      }
    }
  }
  /// Null when the peer grants none.
  Talker* open(std::string text = {}, bool finish = false) {
    auto talker = std::make_unique<Talker>(*session);
    talker->out = std::move(text);
    talker->finish = finish;
    auto id = session->open(*talker, static_cast<session::StreamOwner*>(talker.get()));
    if (!id) {
      refused = id.error();
      return nullptr;
    }
    talker->id = *id;
    talkers.push_back(std::move(talker));
    return talkers.back().get();
  }

  std::unique_ptr<TunnelSession> session;
  int fd = -1;  ///< the session's; for what a session would never do
  std::vector<std::unique_ptr<Talker>> talkers;
  std::vector<Talker*> accepted;
  std::function<void(Talker&)> prepare;
  bool established = false, can_open = false, hold_new = false;
  std::optional<Error> closed, refused;
};

inline const identity::Certificate& certificate() {
  static const identity::Certificate made = *identity::keep_certificate(std::nullopt);
  return made;
}
inline std::unique_ptr<crypto::RecordLayer> make_layer(const std::string& cipher, bool client) {
  if (cipher == "none") return crypto::make_none();
  if (cipher == "tls") {
    static const auto server = crypto::TlsContext::server(certificate()).value();
    static const auto dialing = crypto::TlsContext::client({}).value();
    return (client ? dialing : server)->make().value();
  }
  const crypto::NoiseKey key = crypto::derive_noise_key("a token for tests");
  if (client) return crypto::make_noise_client(key);
  return crypto::make_noise_server(std::make_shared<const std::vector<crypto::NoiseKey>>(1, key));
}

/// Engine and cipher.
class TunnelTest : public testing::TestWithParam<std::tuple<std::string, std::string>> {
 protected:
  TunnelTest() : loop(std::get<0>(GetParam())) {}
  ~TunnelTest() override {
    loop.call([&] {
      client.session.reset();
      server.session.reset();
    });
  }
  const std::string& cipher() const { return std::get<1>(GetParam()); }

  void start(Options for_client = {}, Options for_server = {}) { start(cipher(), cipher(), for_client, for_server); }
  void start(const std::string& clients, const std::string& servers, Options for_client = {}, Options for_server = {}) {
    auto [a, b] = tcp_pair();
    for_client.client = true;
    loop.call([&] {
      client.fd = a.get();
      server.fd = b.get();
      client.session =
          std::make_unique<TunnelSession>(*loop, std::move(a), make_layer(clients, true), for_client, client);
      server.session =
          std::make_unique<TunnelSession>(*loop, std::move(b), make_layer(servers, false), for_server, server);
    });
  }
  /// Established both ways, a control stream open and the server's limits lifted.
  void authenticate() {
    ASSERT_TRUE(loop.await("established", [&] { return client.established; }));
    control = loop.call([&] { return client.open("auth"); });
    ASSERT_TRUE(control);
    ASSERT_TRUE(loop.await("the control stream", [&] {
      return server.established && !server.accepted.empty() && server.accepted[0]->got == "auth";
    }));
    loop.call([&] {
      server.session->authenticated();
      client.session->authenticated();
    });
  }
  /// A stream that the server opens, as for a user; the client's end of it comes as second.
  std::pair<Talker*, Talker*> user(std::string text = "hello", bool finish = false) {
    const std::size_t before = loop.call([&] { return client.accepted.size(); });
    Talker* talker = loop.call([&] { return server.open(std::move(text), finish); });
    if (!talker || !loop.await("the stream arrives", [&] { return client.accepted.size() > before; })) {
      ADD_FAILURE() << "no stream";
      std::abort();
    }
    return {talker, loop.call([&] { return client.accepted.back(); })};
  }

  LoopThread loop;
  End client, server;
  Talker* control = nullptr;
};

inline auto name_of() {
  return [](const testing::TestParamInfo<std::tuple<std::string, std::string>>& info) {
    return std::get<0>(info.param) + "_" + std::get<1>(info.param);
  };
}

}  // namespace qtrp::tunnel::test
