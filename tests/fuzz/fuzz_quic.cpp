// Two real ends of a QUIC connection with the fuzzer in between: it loses, repeats, delays, flips and invents
// datagrams. Whatever it does, neither end may crash, loop, or take wrong bytes for right ones.
#include <cstdlib>
#include <deque>

#include "qtrp/identity/identity.h"
#include "quic/connection.h"
#include "quic/wire.h"

using namespace qtrp;
using namespace std::chrono_literals;

namespace {

struct Letters final : session::Source {
  session::Produced produce(MutableBytes into) override {
    const std::size_t n = std::min<std::size_t>(into.size(), 30'000 - given);
    for (std::size_t i = 0; i < n; ++i) into[i] = static_cast<std::byte>((given + i) % 251);
    given += n;
    return {n, given == 30'000 ? session::Produced::Status::end : session::Produced::Status::more, {}};
  }
  std::size_t given = 0;
};

struct End final : quic::Host {
  void wants_flush(quic::Connection&) override {}
  void identifier_added(quic::Connection&, const quic::ConnectionId&) override {}
  void identifier_removed(quic::Connection&, const quic::ConnectionId&) override {}
  std::unique_ptr<quic::Connection> connection;
  std::size_t got = 0;
  Letters letters;

  void drain() {
    if (!connection || !connection->has_events()) return;
    while (auto event = connection->next_event()) {
      if (event->kind == session::EventKind::established && !connection->is_server()) {
        static_cast<void>(connection->open(letters, nullptr));
      } else if (event->kind == session::EventKind::opened) {
        connection->authenticated();
        connection->attach(event->stream, letters, nullptr);
        connection->ready(event->stream);
      } else if (event->kind == session::EventKind::body) {
        for (std::byte b : event->body)
          if (b != static_cast<std::byte>(got++ % 251)) std::abort();
        connection->moved(event->stream, event->body.size());
      }
    }
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const identity::Certificate certificate = *identity::keep_certificate(std::nullopt);
  static const auto server_tls = std::move(*quic::TlsContext::server(certificate));
  static const auto client_tls = std::move(*quic::TlsContext::client({}));
  static const quic::Options options;
  static const quic::Site site;
  static const quic::Path there{*io::Endpoint::from_literal("192.0.2.1", 4000),
                                *io::Endpoint::from_literal("192.0.2.2", 6000)};
  static const quic::Path back{there.remote, there.local};

  io::BufferPool pool;
  End client, server;
  TimePoint now{1h};
  auto setup = [&](End& end, const quic::TlsContext& tls) {
    return quic::Setup{.options = &options,
                       .tls = &tls,
                       .site = &site,
                       .pool = &pool,
                       .host = &end,
                       .reset_secret = as_bytes("secret")};
  };
  client.connection = std::move(*quic::Connection::client(setup(client, *client_tls), there, now));
  std::deque<std::vector<std::byte>> to_server, to_client;
  std::vector<std::byte> buffer(128 << 10);

  auto flush = [&](End& from, std::deque<std::vector<std::byte>>& out) {
    if (!from.connection) return;
    from.drain();
    std::vector<quic::Departure> departures;
    from.connection->write(buffer, departures, now);
    for (const quic::Departure& d : departures)
      for (std::size_t at = 0; at < d.bytes.size(); at += d.segment) {
        const Bytes piece = d.bytes.subspan(at, std::min(d.segment, d.bytes.size() - at));
        out.emplace_back(piece.begin(), piece.end());
      }
  };
  auto deliver = [&](bool up, const std::vector<std::byte>& datagram) {
    if (datagram.empty()) return;
    if (up && !server.connection) {
      quic::Accepted accepted{};
      if (ngtcp2_accept(&accepted.header, reinterpret_cast<const std::uint8_t*>(datagram.data()), datagram.size()) != 0)
        return;
      accepted.original_dcid = accepted.header.dcid;
      auto made = quic::Connection::server(setup(server, *server_tls), back, accepted, now);
      if (!made) return;
      server.connection = std::move(*made);
    }
    (up ? server : client).connection->receive(up ? back : there, 0, datagram, now);
  };

  for (std::size_t i = 0; i < size && i < 400; ++i) {
    flush(client, to_server);
    flush(server, to_client);
    const std::uint8_t op = data[i];
    const bool up = (op & 1) != 0;
    auto& queue = up ? to_server : to_client;
    auto argument = [&] { return i + 1 < size ? data[++i] : std::uint8_t{0}; };
    switch ((op >> 1) & 7) {
      case 0:
      case 1:  // everything arrives
        for (auto& q : {std::ref(to_server), std::ref(to_client)})
          while (!q.get().empty()) {
            deliver(&q.get() == &to_server, q.get().front());
            q.get().pop_front();
          }
        break;
      case 2:  // one arrives
        if (!queue.empty()) deliver(up, queue.front()), queue.pop_front();
        break;
      case 3:  // one is lost
        if (!queue.empty()) queue.pop_front();
        break;
      case 4:  // one arrives twice
        if (!queue.empty()) deliver(up, queue.front());
        break;
      case 5:  // one arrives changed
        if (!queue.empty()) {
          std::vector<std::byte> changed = queue.front();
          changed[argument() * 7u % changed.size()] ^= static_cast<std::byte>(argument() | 1);
          deliver(up, changed);
        }
        break;
      case 6: {  // an invented one
        std::vector<std::byte> invented(argument());
        for (std::byte& b : invented) b = static_cast<std::byte>(argument());
        if (server.connection || !up) deliver(up, invented);
        break;
      }
      case 7:  // time passes
        now += std::chrono::milliseconds(argument() * 4);
        for (End* end : {&client, &server})
          if (end->connection) end->connection->on_time(now);
        break;
    }
    now += 1ms;
  }
  return 0;
}
