// Two ends of a QUIC connection in memory: scripted time, a link with delay, loss, reordering, duplication and
// corruption, and session owners that record what they are told.
#pragma once

#include <gmock/gmock.h>
#include <gnutls/abstract.h>
#include <gnutls/crypto.h>
#include <gnutls/x509.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "quic/connection.h"
#include "quic/wire.h"

namespace qtrp::quic::test {

using namespace std::chrono_literals;

/// A self-signed certificate of a fresh P-256 key.
inline identity::Certificate make_certificate() {
  gnutls_x509_privkey_t key;
  gnutls_x509_crt_t certificate;
  gnutls_x509_privkey_init(&key);
  gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0);
  gnutls_x509_crt_init(&certificate);
  gnutls_x509_crt_set_version(certificate, 3);
  gnutls_x509_crt_set_serial(certificate, "\x01", 1);
  gnutls_x509_crt_set_activation_time(certificate, ::time(nullptr) - 3600);
  gnutls_x509_crt_set_expiration_time(certificate, ::time(nullptr) + 3600);
  gnutls_x509_crt_set_dn_by_oid(certificate, GNUTLS_OID_X520_COMMON_NAME, 0, "qtrp", 4);
  gnutls_x509_crt_set_subject_alt_name(certificate, GNUTLS_SAN_DNSNAME, "qtrp", 4, GNUTLS_FSAN_SET);
  gnutls_x509_crt_set_key(certificate, key);
  gnutls_x509_crt_sign2(certificate, certificate, key, GNUTLS_DIG_SHA256, 0);
  identity::Certificate out;
  gnutls_datum_t text{};
  gnutls_x509_crt_export2(certificate, GNUTLS_X509_FMT_PEM, &text);
  out.certificate_pem.assign(reinterpret_cast<char*>(text.data), text.size);
  gnutls_free(text.data);
  gnutls_x509_privkey_export2(key, GNUTLS_X509_FMT_PEM, &text);
  out.key_pem.assign(reinterpret_cast<char*>(text.data), text.size);
  gnutls_free(text.data);
  gnutls_x509_crt_deinit(certificate);
  gnutls_x509_privkey_deinit(key);
  return out;
}

/// SHA-256 of the certificate's SubjectPublicKeyInfo.
inline std::array<std::byte, 32> pin_of(const identity::Certificate& identity) {
  gnutls_x509_crt_t certificate;
  gnutls_pubkey_t key;
  gnutls_datum_t pem{reinterpret_cast<unsigned char*>(const_cast<char*>(identity.certificate_pem.data())),
                     static_cast<unsigned>(identity.certificate_pem.size())},
      der{};
  gnutls_x509_crt_init(&certificate);
  gnutls_x509_crt_import(certificate, &pem, GNUTLS_X509_FMT_PEM);
  gnutls_pubkey_init(&key);
  gnutls_pubkey_import_x509(key, certificate, 0);
  gnutls_pubkey_export2(key, GNUTLS_X509_FMT_DER, &der);
  std::array<std::byte, 32> out;
  gnutls_hash_fast(GNUTLS_DIG_SHA256, der.data, der.size, out.data());
  gnutls_free(der.data);
  gnutls_pubkey_deinit(key);
  gnutls_x509_crt_deinit(certificate);
  return out;
}

/// Byte `i` of the pattern `seed`: any shift or swap shows.
inline std::uint64_t pattern_word(std::uint64_t seed, std::uint64_t word) {
  return (word + seed * 0x9E3779B97F4A7C15u) * 0xD1B54A32D192ED03u;
}
inline std::byte pattern(std::uint64_t seed, std::uint64_t i) {
  return static_cast<std::byte>(pattern_word(seed, i / 8) >> (8 * (i % 8)));
}

/// Gives `total` bytes of a pattern, then its end, would_block (open), or an error.
class PatternSource final : public session::Source {
 public:
  enum class After { end, block, error };
  PatternSource(std::uint64_t seed, std::uint64_t total, After after = After::end)
      : seed_(seed), total_(total), after_(after) {}
  session::Produced produce(MutableBytes into) override {
    using Status = session::Produced::Status;
    EXPECT_FALSE(into.empty());
    std::size_t n = static_cast<std::size_t>(std::min<std::uint64_t>(into.size(), total_ - given));
    for (std::size_t i = 0; i < n;) {
      const std::uint64_t at = given + i, word = pattern_word(seed_, at / 8) >> (8 * (at % 8));
      const std::size_t part = std::min<std::size_t>(8 - at % 8, n - i);
      std::memcpy(into.data() + i, &word, part);  // little-endian, as pattern() shifts
      i += part;
    }
    given += n;
    if (given < total_) return {n, Status::more, {}};
    if (after_ == After::error) return {0, Status::error, session::ResetCode::cancelled};
    return {n, after_ == After::end ? Status::end : Status::would_block, {}};
  }
  void extend(std::uint64_t more, After after) {
    total_ += more;
    after_ = after;
  }
  std::uint64_t given = 0;

 private:
  std::uint64_t seed_, total_;
  After after_;
};

/// What an owner has seen of one stream.
struct Seen {
  std::uint64_t bytes = 0;
  std::string text;                   ///< the first 4 MiB
  std::optional<std::uint64_t> seed;  ///< of the pattern to expect
  bool right = true, opened = false, finished = false;
  std::optional<session::ResetCode> reset;
  void* owner = nullptr;
};

struct End final : Host {
  std::unique_ptr<Connection> connection;
  bool flush = false, auto_moved = true;
  std::map<session::StreamId, Seen> streams;
  std::vector<session::StreamId> opened;
  bool established = false, can_open = false;
  std::optional<Error> closed;
  std::function<void(session::StreamId)> on_opened;
  std::set<ConnectionId> identifiers;

  void wants_flush(Connection&) override { flush = true; }
  void identifier_added(Connection&, const ConnectionId& id) override { identifiers.insert(id); }
  void identifier_removed(Connection&, const ConnectionId& id) override { identifiers.erase(id); }

  void drain() {
    if (!connection || !connection->has_events()) return;
    while (auto event = connection->next_event()) {
      EXPECT_FALSE(closed) << "an event after closed";
      Seen& seen = streams[event->stream];
      switch (event->kind) {
        case session::EventKind::established: established = true; break;
        case session::EventKind::opened:
          seen.opened = true;
          opened.push_back(event->stream);
          if (on_opened) on_opened(event->stream);
          break;
        case session::EventKind::body: {
          EXPECT_FALSE(seen.finished);
          if (seen.seed)
            for (std::size_t i = 0; i < event->body.size(); ++i)
              seen.right = seen.right && event->body[i] == pattern(*seen.seed, seen.bytes + i);
          if (seen.text.size() < (4u << 20) && !seen.seed) seen.text += as_text(event->body);
          seen.bytes += event->body.size();
          seen.owner = event->owner;
          if (auto_moved) connection->moved(event->stream, event->body.size());
          break;
        }
        case session::EventKind::finished: seen.finished = true; break;
        case session::EventKind::reset: seen.reset = event->code; break;
        case session::EventKind::can_open: can_open = true; break;
        case session::EventKind::closed: closed = *event->error; break;
      }
    }
  }
};

struct Weather {
  Duration delay = 25ms;  ///< one way
  double loss = 0, duplicate = 0, corrupt = 0;
  Duration jitter{};            ///< up to so much later: reordering
  std::uint64_t rate = 0;       ///< bytes per second, 0 unlimited
  std::size_t queue = 1 << 20;  ///< bytes the bottleneck holds
  double mark = 0;              ///< of ECN-capable datagrams: congestion experienced (RFC 3168)
  bool bleach = false;          ///< the path erases ECN
  std::size_t mtu = 65535;      ///< larger datagrams vanish; UDP payload, bytes
};

class Pair {
  io::BufferPool pool_;  // these outlive the connections
  std::unique_ptr<TlsContext> server_tls_, client_tls_;

 public:
  explicit Pair(Weather w = {}, Options client_options = {}, Options server_options = {},
                identity::ServerChecks checks = {}, bool tunnel = true)
      : weather(w), client_options_(client_options), server_options_(server_options) {
    certificate = make_certificate();
    server_tls_ = std::move(*TlsContext::server(certificate));
    client_tls_ = std::move(*TlsContext::client(std::move(checks)));
    client_path_ = {*io::Endpoint::from_literal("192.0.2.1", 40000), *io::Endpoint::from_literal("198.51.100.1", 6000)};
    Setup setup{.options = &client_options_,
                .tls = client_tls_.get(),
                .site = nullptr,
                .pool = &pool_,
                .host = &client,
                .reset_secret = as_bytes("client secret"),
                .tunnel = tunnel,
                .max_datagram = 1452};
    client.connection = std::move(*Connection::client(setup, client_path_, now));
  }

  /// Runs until `done`, at most for `limit` of simulated time; true if it became so.
  template <typename F>
  bool run_until(F&& done, Duration limit = 30s) {
    TimePoint end = now + limit;
    for (;;) {
      settle();
      if (done()) return true;
      TimePoint next = TimePoint::max();
      for (End* e : {&client, &server})
        if (e->connection) next = std::min(next, e->connection->next_time(now));
      if (!in_flight_.empty()) next = std::min(next, in_flight_.top().at);
      if (next > end || next == TimePoint::max()) {
        now = std::max(now, std::min(end, next));
        return done();
      }
      now = std::max(now, next);
      while (!in_flight_.empty() && in_flight_.top().at <= now) {
        Datagram d = in_flight_.top();
        in_flight_.pop();
        arrive(d);
      }
      for (End* e : {&client, &server})
        if (e->connection && e->connection->next_time(now) <= now) e->connection->on_time(now);
    }
  }
  void run_for(Duration d) {
    TimePoint end = now + d;
    run_until([&] { return false; }, d);
    now = end;
  }
  bool establish() {
    if (!run_until([&] { return client.established; })) return false;
    if (trusting) client.connection->authenticated();
    return true;
  }

  Weather weather;
  TimePoint now{1h};
  identity::Certificate certificate;
  End client, server;
  Site site;
  std::uint64_t datagrams = 0, to_client = 0, lost = 0;
  std::uint64_t bytes_to_client = 0, bytes_to_server = 0;  ///< as sent, whether they arrive or not
  std::uint64_t ecn_capable = 0;                           ///< datagrams sent with ECT(0)
  std::size_t largest_departure = 0;
  bool trusting = true;                 ///< establish() goes on as if the server had proved itself
  bool cut = false, cut_up = false;     ///< nothing gets through, or nothing to the server
  unsigned worker = 0, workers = 1;     ///< of the server
  std::optional<io::Endpoint> seen_as;  ///< the client's address as NAT shows it
  Options client_options_, server_options_;

 private:
  struct Datagram {
    TimePoint at;
    std::uint64_t order;
    bool to_server;
    Path path;  ///< as the receiver sees it
    std::uint8_t ecn;
    std::vector<std::byte> bytes;
    bool operator<(const Datagram& other) const { return at != other.at ? at > other.at : order > other.order; }
  };

  void settle() {
    for (int round = 0; round < 100; ++round) {
      bool busy = false;
      for (End* e : {&client, &server}) {
        if (!e->connection) continue;
        e->drain();
        busy |= std::exchange(e->flush, false);
        std::vector<Departure> out;
        do {
          out.clear();
          e->connection->write(buffer_, out, now);
          for (const Departure& d : out) send(*e, d);
        } while (e->connection->more_to_write());
      }
      if (!busy) return;
    }
    ADD_FAILURE() << "no end of flushing";
  }

  void send(End& from, const Departure& d) {
    largest_departure = std::max(largest_departure, d.bytes.size());
    for (std::size_t at = 0; at < d.bytes.size(); at += d.segment) {
      Bytes piece = d.bytes.subspan(at, std::min(d.segment, d.bytes.size() - at));
      ++datagrams;
      if (&from == &server) ++to_client;
      (&from == &server ? bytes_to_client : bytes_to_server) += piece.size();
      if (d.ecn == NGTCP2_ECN_ECT_0) ++ecn_capable;
      TimePoint leave = now;
      if (weather.rate > 0) {
        TimePoint& free = &from == &client ? free_up_ : free_down_;
        if (free > now && static_cast<double>((free - now).count()) * 1e-9 * static_cast<double>(weather.rate) >
                              static_cast<double>(weather.queue)) {
          ++lost;
          continue;
        }
        free = std::max(free, now) + Duration(static_cast<std::int64_t>(static_cast<double>(piece.size() + 28) * 1e9 /
                                                                        static_cast<double>(weather.rate)));
        leave = free;
      }
      int copies = chance(weather.duplicate) ? 2 : 1;
      for (int c = 0; c < copies; ++c) {
        if (cut || (cut_up && &from == &client) || piece.size() > weather.mtu || chance(weather.loss)) {
          ++lost;
          continue;
        }
        Datagram datagram{.at = leave + weather.delay,
                          .order = ++order_,
                          .to_server = &from == &client,
                          .path = {d.path.remote, d.path.local},
                          .ecn = d.ecn,
                          .bytes = {piece.begin(), piece.end()}};
        if (weather.jitter > Duration::zero())
          datagram.at +=
              Duration(static_cast<std::int64_t>(random_() % static_cast<std::uint64_t>(weather.jitter.count())));
        if (chance(weather.corrupt)) datagram.bytes[random_() % datagram.bytes.size()] ^= std::byte{0x40};
        if (datagram.ecn != 0 && chance(weather.mark)) datagram.ecn = NGTCP2_ECN_CE;
        if (weather.bleach) datagram.ecn = 0;
        if (datagram.to_server && seen_as) datagram.path.remote = *seen_as;
        if (!datagram.to_server) datagram.path.local = client.connection->path().local;
        in_flight_.push(std::move(datagram));
      }
    }
  }

  void arrive(const Datagram& d) {
    if (d.to_server && !server.connection) {
      Accepted accepted{};
      if (ngtcp2_accept(&accepted.header, reinterpret_cast<const std::uint8_t*>(d.bytes.data()), d.bytes.size()) != 0)
        return;
      accepted.original_dcid = accepted.header.dcid;
      Setup setup{.options = &server_options_,
                  .tls = server_tls_.get(),
                  .site = &site,
                  .pool = &pool_,
                  .host = &server,
                  .reset_secret = as_bytes("server secret"),
                  .worker = worker,
                  .workers = workers,
                  .max_datagram = 1452};
      server.connection = std::move(*Connection::server(setup, d.path, accepted, now));
    }
    (d.to_server ? server : client).connection->receive(d.path, d.ecn, d.bytes, now);
  }
  bool chance(double p) { return p > 0 && std::uniform_real_distribution<>(0, 1)(random_) < p; }

  Path client_path_;
  std::vector<std::byte> buffer_ = std::vector<std::byte>(128 << 10);
  std::priority_queue<Datagram> in_flight_;
  std::uint64_t order_ = 0;
  std::mt19937_64 random_{42};
  TimePoint free_up_{}, free_down_{};
};

/// A tunnel whose server is authenticated and has a stream 0.
struct Tunnel : Pair {
  using Pair::Pair;
  bool start() {
    if (!establish() || !client.connection->open(control, nullptr)) return false;
    if (!run_until([&] { return server.streams[0].opened; })) return false;
    server.connection->attach(0, control_answer, nullptr);
    server.connection->authenticated();
    client.connection->authenticated();
    run_for(3 * weather.delay);
    return true;
  }
  PatternSource control{100, 64, PatternSource::After::block}, control_answer{101, 0, PatternSource::After::block};
};

}  // namespace qtrp::quic::test
