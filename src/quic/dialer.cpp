// The client's end: attempts to the server's addresses, the session of the first that answers, and moving to another
// local address.
#include "dialer.h"

#include <fmt/format.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "qtrp/base/log.h"
#include "qtrp/quic/endpoint.h"
#include "wire.h"

namespace qtrp::quic {
namespace {

constexpr Duration kBetweenAttempts = std::chrono::milliseconds(300);
constexpr Duration kSettle = std::chrono::milliseconds(100);  // a changing network speaks several times
constexpr Duration kRetryMove = std::chrono::seconds(1);

bool same_host(const io::Endpoint& a, const io::Endpoint& b) {
  return a.host() == b.host();
}

}  // namespace

Result<std::unique_ptr<ClientEdge>> ClientEdge::connect(io::Loop& loop, const io::Endpoint& server,
                                                        const ClientOptions& options,
                                                        std::function<void()> on_progress) {
  auto tls = TlsContext::client(options.checks);
  if (!tls) return std::unexpected(tls.error());
  auto fd = UdpSocket::connect(server, options.socket_buffer);
  if (!fd) return std::unexpected(fd.error());
  std::unique_ptr<ClientEdge> edge(new ClientEdge(loop, server, options, std::move(*tls), std::move(on_progress)));
  edge->socket_ = std::make_unique<UdpSocket>(loop, std::move(*fd), *edge);
  random_nonce(reinterpret_cast<std::uint8_t*>(edge->reset_secret_.data()), edge->reset_secret_.size());
  Setup setup{.options = &edge->common_,
              .tls = edge->tls_.get(),
              .site = nullptr,
              .pool = &loop.pool(),
              .host = edge.get(),
              .reset_secret = edge->reset_secret_,
              .max_datagram = UdpSocket::largest_payload(server)};
  auto made = Connection::client(setup, {edge->socket_->local(), server}, Clock::now());
  if (!made) return std::unexpected(made.error());
  auto entry = std::make_unique<Entry>();
  entry->connection = std::move(*made);
  edge->entry_ = entry.get();
  edge->add(std::move(entry));
  edge->watch_network();
  return edge;
}

ClientEdge::ClientEdge(io::Loop& loop, const io::Endpoint& server, const ClientOptions& options,
                       std::unique_ptr<TlsContext> tls, std::function<void()> progress)
    : Edge(loop, options), server_(server), tls_(std::move(tls)), progress_(std::move(progress)), move_timer_(loop) {}

ClientEdge::~ClientEdge() {
  close_all();
}

UdpSocket* ClientEdge::socket_for(const Departure& departure) {
  if (old_socket_ && departure.path.local == old_socket_->local()) return old_socket_.get();
  return socket_.get();
}

void ClientEdge::on_datagram(UdpSocket& socket, const Received& received) {
  if (!entry_) return;
  Path path{socket.local(), server_};  // connected: nobody else's datagrams get here
  entry_->connection->receive(path, received.ecn, received.bytes, Clock::now());
  touched(*entry_);
}

void ClientEdge::on_progress(Entry& entry) {
  if (progress_ && (entry.connection->handshake_done() || entry.connection->failure())) std::exchange(progress_, {})();
}

void ClientEdge::on_gone(Entry&) {
  entry_ = nullptr;
}

void ClientEdge::on_error(UdpSocket& socket, int error) {
  if (!entry_ || &socket != socket_.get()) return;
  if (!entry_->connection->handshake_done()) {
    // Nobody listens there: no need to wait for the handshake's time-out.
    if (error == ECONNREFUSED) {
      entry_->connection->abandon_for(fail_errno(fmt::format("QUIC to {}", server_.to_string()), error).error());
      tell_later(*entry_);
    }
    return;
  }
  if (error != ECONNREFUSED)
    move_soon(kSettle);  // the server's restart shows by stateless reset, an ICMP error can be anybody's
}

void ClientEdge::watch_network() {
  io::Fd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_ROUTE));
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE;
  if (!fd || ::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    return;  // then only errors tell of a change
  network_ = std::move(fd);
  network_watch_ = loop_.watch(network_.get(), *this);
  network_watch_->arm_read();
}

void ClientEdge::on_ready(io::Readiness) {
  std::array<std::byte, 8192> ignored;
  bool any = false;
  ssize_t got = 0;
  do {
    got = ::recv(network_.get(), ignored.data(), ignored.size(), MSG_DONTWAIT);
    any = any || got > 0 || (got < 0 && errno == ENOBUFS);  // too much at once to be told singly
  } while (got > 0 || (got < 0 && (errno == ENOBUFS || errno == EINTR)));
  network_watch_->arm_read();
  if (any) move_soon(kSettle);
}

void ClientEdge::move_soon(Duration delay) {
  if (!move_timer_.armed()) move_timer_.start(delay, [this] { move(); });
}

/// Asks the kernel which local address leads to the server now; if it is another one, the connection moves to a socket
/// there.
void ClientEdge::move() {
  if (!entry_ || entry_->connection->state() != Connection::State::open || !entry_->connection->handshake_done())
    return;
  auto fd = UdpSocket::connect(server_, common_.socket_buffer);
  if (!fd) {
    move_soon(kRetryMove);  // no route just now
    return;
  }
  auto fresh = std::make_unique<UdpSocket>(loop_, std::move(*fd), *this);
  if (same_host(fresh->local(), socket_->local())) return;
  log::info("quic: the local address changed from {} to {}, the session moves along", socket_->local().host(),
            fresh->local().host());
  old_socket_ = std::move(socket_);
  socket_ = std::move(fresh);
  entry_->connection->migrate({socket_->local(), server_}, Clock::now());
  mark(*entry_);
}

struct Dialer::State {
  State(io::Loop& l, std::vector<io::Endpoint> a, ClientOptions o, OnConnected c)
      : loop(l), addresses(std::move(a)), options(std::move(o)), on_connected(std::move(c)), next(l) {}
  ~State() {
    for (auto& edge : attempts)
      if (edge) Edge::dispose(std::move(edge));
  }

  void attempt() {
    if (started == addresses.size()) return;
    std::size_t index = started++;
    auto edge = ClientEdge::connect(loop, addresses[index], options, [this, index] { progress(index); });
    if (edge) {
      attempts.push_back(std::move(*edge));
    } else {
      attempts.push_back(nullptr);
      last = edge.error();
      if (started == addresses.size()) {
        conclude_if_all_failed();
        return;
      }
    }
    if (started < addresses.size()) next.start(edge ? kBetweenAttempts : Duration::zero(), [this] { attempt(); });
  }

  void progress(std::size_t index) {
    if (!on_connected) return;
    ClientEdge& edge = *attempts[index];
    if (edge.connection().failure()) {
      last = *edge.connection().failure();
      Edge::dispose(std::exchange(attempts[index], nullptr));
      if (started < addresses.size()) {
        next.cancel();
        attempt();
      } else {
        conclude_if_all_failed();
      }
      return;
    }
    next.cancel();
    std::unique_ptr<Handle> handle = ClientEdge::into_session(std::move(attempts[index]));
    for (auto& other : attempts)
      if (other) Edge::dispose(std::move(other));
    std::exchange(on_connected, {})(std::move(handle));  // may destroy this
  }

  void conclude_if_all_failed() {
    for (auto& edge : attempts)
      if (edge) return;
    loop.post([this, lives = std::weak_ptr<bool>(alive)] {
      if (lives.lock() && on_connected) std::exchange(on_connected, {})(std::unexpected(last));
    });
  }

  io::Loop& loop;
  std::vector<io::Endpoint> addresses;
  ClientOptions options;
  OnConnected on_connected;
  io::Timer next;
  std::size_t started = 0;
  std::vector<std::unique_ptr<ClientEdge>> attempts;
  Error last{ErrorKind::system, "no address to connect to"};
  std::shared_ptr<bool> alive = std::make_shared<bool>(true);
};

std::unique_ptr<Handle> ClientEdge::into_session(std::unique_ptr<ClientEdge> edge) {
  auto handle = std::make_unique<Handle>(*edge, *edge->entry_);
  handle->own(std::move(edge));
  return handle;
}

Dialer::Dialer(io::Loop& loop, std::vector<io::Endpoint> addresses, ClientOptions options, OnConnected on_connected)
    : state_(std::make_unique<State>(loop, std::move(addresses), std::move(options), std::move(on_connected))) {
  if (state_->addresses.empty()) {
    state_->conclude_if_all_failed();
  } else {
    state_->attempt();
  }
}

Dialer::~Dialer() = default;

}  // namespace qtrp::quic
