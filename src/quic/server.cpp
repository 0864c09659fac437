// The server's end: which connection a datagram belongs to, address validation, version negotiation, stateless reset,
// and whose session it is.
#include <gnutls/crypto.h>
#include <linux/filter.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <list>
#include <memory>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <vector>

#include "edge.h"
#include "qtrp/base/log.h"
#include "wire.h"

#ifndef SO_ATTACH_REUSEPORT_CBPF
#define SO_ATTACH_REUSEPORT_CBPF 51
#endif

namespace qtrp::quic {
namespace {

constexpr std::size_t kLeastInitial = 1200;  // RFC 9000, section 14.1
constexpr std::size_t kLeastForReset = 43;   // shorter ones could loop (section 10.3.3)
constexpr ngtcp2_duration kTokenLife = 10 * NGTCP2_SECONDS;
constexpr unsigned kResetsPerSecond = 100;

struct Secrets {
  std::array<std::byte, 32> reset, token;
};
Result<Secrets> derive(const ServerOptions& options) {
  std::string_view from =
      options.secret.empty() ? std::string_view(options.identity.key_pem) : std::string_view(options.secret);
  Secrets out;
  if (gnutls_hmac_fast(GNUTLS_MAC_SHA256, from.data(), from.size(), "qtrp quic reset", 15, out.reset.data()) != 0 ||
      gnutls_hmac_fast(GNUTLS_MAC_SHA256, from.data(), from.size(), "qtrp quic token", 15, out.token.data()) != 0)
    return fail(ErrorKind::crypto, "HMAC");
  return out;
}

const std::uint8_t* octets(Bytes bytes) {
  return reinterpret_cast<const std::uint8_t*>(bytes.data());
}

class ServerEdge final : public Server, public Edge {
 public:
  ServerEdge(io::Loop& loop, io::Fd socket, unsigned worker, unsigned workers, ServerOptions options,
             std::unique_ptr<TlsContext> tls, const Secrets& secrets, OnSession on_session)
      : Edge(loop, options),
        options_(std::move(options)),
        tls_(std::move(tls)),
        secrets_(secrets),
        on_session_(std::move(on_session)),
        worker_(worker),
        workers_(workers),
        socket_(loop, std::move(socket), *this) {}
  ~ServerEdge() override { close_all(); }

  io::Endpoint local() const override { return socket_.local(); }
  void stop_accepting() override { accepting_ = false; }
  Result<void> use(const identity::Certificate& certificate) override {
    auto tls = TlsContext::server(certificate);
    if (!tls) return std::unexpected(tls.error());
    retired_.push_back(std::exchange(tls_, std::move(*tls)));
    return {};
  }

 private:
  UdpSocket* socket_for(const Departure&) override { return &socket_; }

  void identifier_added(Connection& connection, const ConnectionId& id) override {
    Entry* entry = entry_of(connection);
    if (!entry) return;  // still being made: identifiers() tells
    ids_[id] = entry;
    entry->ids.push_back(id);
  }
  void identifier_removed(Connection& connection, const ConnectionId& id) override {
    ids_.erase(id);
    if (Entry* entry = entry_of(connection)) std::erase(entry->ids, id);
  }

  void on_error(UdpSocket&, int error) override {
    log::debug("quic: UDP socket: {}", std::generic_category().message(error));
  }

  void on_datagram(UdpSocket&, const Received& received) override {
    ngtcp2_version_cid header;
    int rv = ngtcp2_pkt_decode_version_cid(&header, octets(received.bytes), received.bytes.size(), kServerIdLength);
    if (rv == NGTCP2_ERR_VERSION_NEGOTIATION) {
      negotiate_version(received, header);
      return;
    }
    if (rv != 0) return;
    auto at = ids_.find(ConnectionId(reinterpret_cast<const char*>(header.dcid), header.dcidlen));
    Entry* entry = at != ids_.end() ? at->second : nullptr;
    if (!entry) {
      bool is_long = (received.bytes[0] & std::byte{0x80}) != std::byte{0};
      entry = is_long ? accept(received) : nullptr;
      if (!is_long) reset_statelessly(received, header);
      if (!entry) return;
    }
    entry->connection->receive(received.path, received.ecn, received.bytes, Clock::now());
    touched(*entry);
  }

  Entry* accept(const Received& received) {
    Accepted accepted{};
    if (ngtcp2_accept(&accepted.header, octets(received.bytes), received.bytes.size()) != 0) return nullptr;
    const ngtcp2_pkt_hd& header = accepted.header;
    accepted.original_dcid = header.dcid;
    const Path& path = received.path;
    if (!accepting_) {
      refuse(received, header, NGTCP2_CONNECTION_REFUSED);
      return nullptr;
    }
    if (header.tokenlen > 0 && header.token[0] == NGTCP2_CRYPTO_TOKEN_MAGIC_RETRY2) {
      if (ngtcp2_crypto_verify_retry_token2(&accepted.original_dcid, header.token, header.tokenlen,
                                            octets(secrets_.token), secrets_.token.size(), header.version,
                                            path.remote.data(), path.remote.size(), &header.dcid, kTokenLife,
                                            stamp(Clock::now())) != 0) {
        refuse(received, header, NGTCP2_INVALID_TOKEN);
        return nullptr;
      }
      accepted.validated = true;
    } else if (handshaking_ >= options_.retry_above) {
      retry(received, header);
      return nullptr;
    }
    drop_strangers();
    Setup setup{.options = &common_,
                .tls = tls_.get(),
                .site = &options_.site,
                .pool = &loop_.pool(),
                .host = this,
                .reset_secret = secrets_.reset,
                .worker = worker_,
                .workers = workers_,
                .max_datagram = UdpSocket::largest_payload(path.remote)};
    TimePoint now = Clock::now();
    auto made = Connection::server(setup, path, accepted, now);
    if (!made) {
      log::warn("quic: {}: {}", path.remote.to_string(), made.error().message);
      return nullptr;
    }
    auto entry = std::make_unique<Entry>();
    entry->connection = std::move(*made);
    entry->ids = entry->connection->identifiers();
    entry->deadline = now + options_.authentication_timeout;
    for (const ConnectionId& id : entry->ids) ids_[id] = entry.get();
    strangers_.push_back(entry.get());
    entry->place = std::prev(strangers_.end());
    ++handshaking_;
    Entry* raw = entry.get();
    add(std::move(entry));
    return raw;
  }

  /// Too many that have not authenticated: the oldest goes.
  void drop_strangers() {
    while (strangers_.size() >= options_.max_unauthenticated && !strangers_.empty()) {
      Entry& oldest = *strangers_.front();
      forget_stranger(oldest);
      oldest.connection->abandon_for({ErrorKind::limit, "too many unauthenticated connections"});
      touched(oldest);
    }
  }
  void forget_stranger(Entry& entry) {
    if (entry.place == strangers_.end()) return;
    strangers_.erase(entry.place);
    entry.place = strangers_.end();
    if (!entry.greeted) --handshaking_;
    entry.greeted = true;
  }

  void on_progress(Entry& entry) override {
    Connection& connection = *entry.connection;
    if (connection.handshake_done() && !entry.greeted) {
      entry.greeted = true;
      --handshaking_;
    }
    if (connection.is_authenticated()) forget_stranger(entry);
    if (connection.state() == Connection::State::open && connection.kind() != Connection::Kind::visitor &&
        !connection.is_authenticated() && Clock::now() >= entry.deadline) {
      connection.abandon_for({ErrorKind::timeout, "not authenticated in time"});
    }
    if (connection.kind() == Connection::Kind::visitor) entry.deadline = TimePoint::max();
    if (connection.kind() == Connection::Kind::tunnel && !std::exchange(entry.surfaced, true))
      on_session_(std::make_unique<Handle>(*this, entry));
  }

  void on_gone(Entry& entry) override {
    forget_stranger(entry);
    for (const ConnectionId& id : entry.ids) ids_.erase(id);
  }

  void answer(const Received& received, std::span<std::uint8_t> packet) {
    Departure departure{{received.path.local, received.path.remote}, 0, packet.size(), std::as_bytes(packet)};
    socket_.send({&departure, 1});
  }
  void refuse(const Received& received, const ngtcp2_pkt_hd& header, std::uint64_t code) {
    std::array<std::uint8_t, kLeastInitial> packet;
    auto n = ngtcp2_crypto_write_connection_close(packet.data(), packet.size(), header.version, &header.scid,
                                                  &header.dcid, code, nullptr, 0);
    if (n > 0) answer(received, std::span(packet).first(static_cast<std::size_t>(n)));
  }
  void retry(const Received& received, const ngtcp2_pkt_hd& header) {
    ngtcp2_cid id = make_identifier(worker_, workers_, kServerIdLength);
    std::array<std::uint8_t, NGTCP2_CRYPTO_MAX_RETRY_TOKENLEN2> token;
    auto length = ngtcp2_crypto_generate_retry_token2(
        token.data(), octets(secrets_.token), secrets_.token.size(), header.version, received.path.remote.data(),
        received.path.remote.size(), &id, &header.dcid, stamp(Clock::now()));
    if (length < 0) return;
    std::array<std::uint8_t, kLeastInitial> packet;
    auto n = ngtcp2_crypto_write_retry(packet.data(), packet.size(), header.version, &header.scid, &id, &header.dcid,
                                       token.data(), static_cast<std::size_t>(length));
    if (n > 0) answer(received, std::span(packet).first(static_cast<std::size_t>(n)));
  }
  void negotiate_version(const Received& received, const ngtcp2_version_cid& header) {
    if (received.bytes.size() < kLeastInitial) return;  // never larger than what provoked it
    static constexpr std::uint32_t kVersions[] = {0x1a2a3a4a, NGTCP2_PROTO_VER_V1};  // the first greases
    std::uint8_t random = 0;
    random_nonce(&random, 1);
    std::array<std::uint8_t, 256> packet;
    auto n = ngtcp2_pkt_write_version_negotiation(packet.data(), packet.size(), random, header.scid, header.scidlen,
                                                  header.dcid, header.dcidlen, kVersions, std::size(kVersions));
    if (n > 0) answer(received, std::span(packet).first(static_cast<std::size_t>(n)));
  }
  void reset_statelessly(const Received& received, const ngtcp2_version_cid& header) {
    if (received.bytes.size() < kLeastForReset || header.dcidlen != kServerIdLength) return;
    TimePoint now = Clock::now();
    if (now - resets_since_ > std::chrono::seconds(1)) {
      resets_since_ = now;
      resets_ = 0;
    }
    if (++resets_ > kResetsPerSecond) return;
    ngtcp2_cid id;
    ngtcp2_cid_init(&id, header.dcid, header.dcidlen);
    std::array<std::uint8_t, NGTCP2_STATELESS_RESET_TOKENLEN> token;
    if (ngtcp2_crypto_generate_stateless_reset_token(token.data(), octets(secrets_.reset), secrets_.reset.size(),
                                                     &id) != 0)
      return;
    std::array<std::uint8_t, 64> random, packet;
    std::size_t padding = std::min<std::size_t>(received.bytes.size() - 1 - token.size() - 1, 32);
    random_nonce(random.data(), padding);
    auto n = ngtcp2_pkt_write_stateless_reset(packet.data(), packet.size(), token.data(), random.data(), padding);
    if (n > 0) answer(received, std::span(packet).first(static_cast<std::size_t>(n)));
  }

  ServerOptions options_;
  std::unique_ptr<TlsContext> tls_;
  std::vector<std::unique_ptr<TlsContext>> retired_;  // connections keep references to theirs
  Secrets secrets_;
  OnSession on_session_;
  unsigned worker_, workers_;
  bool accepting_ = true;
  std::unordered_map<ConnectionId, Entry*> ids_;
  std::list<Entry*> strangers_;  // not authenticated, oldest first
  unsigned handshaking_ = 0;
  unsigned resets_ = 0;
  TimePoint resets_since_{};
  UdpSocket socket_;
};

/// The kernel picks the worker by the first byte of the destination connection id: byte 6 of a long header, byte 1 of a
/// short one.
void steer_by_identifier(int fd, unsigned workers) {
  sock_filter code[] = {
      {BPF_LD | BPF_B | BPF_ABS, 0, 0, 0},       // first byte
      {BPF_JMP | BPF_JSET | BPF_K, 0, 2, 0x80},  // a long header?
      {BPF_LD | BPF_B | BPF_ABS, 0, 0, 6},        {BPF_JMP | BPF_JA, 0, 0, 1}, {BPF_LD | BPF_B | BPF_ABS, 0, 0, 1},
      {BPF_ALU | BPF_MOD | BPF_K, 0, 0, workers}, {BPF_RET | BPF_A, 0, 0, 0},
  };
  sock_fprog program{std::size(code), code};
  if (::setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof program) != 0)
    log::warn(
        "quic: the kernel can't steer datagrams to workers ({}): a client that changes its address may lose its "
        "session",
        std::generic_category().message(errno));
}

}  // namespace

Result<std::vector<io::Fd>> bind_workers(const io::Endpoint& at, unsigned workers, int socket_buffer) {
  std::vector<io::Fd> sockets;
  io::Endpoint bound = at;
  for (unsigned i = 0; i < workers; ++i) {
    auto fd = UdpSocket::bind(bound, socket_buffer, workers > 1);
    if (!fd) return std::unexpected(fd.error());
    if (i == 0) {
      socklen_t size = io::Endpoint::capacity();
      if (::getsockname(fd->get(), bound.data(), &size) == 0) bound.set_size(size);
    }
    sockets.push_back(std::move(*fd));
  }
  if (workers > 1) steer_by_identifier(sockets.front().get(), workers);
  return sockets;
}

Result<std::unique_ptr<Server>> Server::listen(io::Loop& loop, io::Fd socket, unsigned worker, unsigned workers,
                                               ServerOptions options, OnSession on_session) {
  auto tls = TlsContext::server(options.identity);
  if (!tls) return std::unexpected(tls.error());
  auto secrets = derive(options);
  if (!secrets) return std::unexpected(secrets.error());
  return std::make_unique<ServerEdge>(loop, std::move(socket), worker, workers, std::move(options), std::move(*tls),
                                      *secrets, std::move(on_session));
}

Result<std::unique_ptr<Server>> Server::listen(io::Loop& loop, const io::Endpoint& at, ServerOptions options,
                                               OnSession on_session) {
  auto sockets = bind_workers(at, 1, options.socket_buffer);
  if (!sockets) return std::unexpected(sockets.error());
  return listen(loop, std::move(sockets->front()), 0, 1, std::move(options), std::move(on_session));
}

}  // namespace qtrp::quic
