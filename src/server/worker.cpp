#include "server/worker.h"

#include <algorithm>

#include "qtrp/base/log.h"
#include "qtrp/tunnel/tunnel_session.h"
#include "server/peer.h"

#ifdef QTRP_HAVE_QUIC
#include "qtrp/quic/endpoint.h"
#endif

namespace qtrp::server {

Worker::Worker(Shared& shared, std::unique_ptr<io::Loop> loop)
    : shared_(shared), settings_(shared.settings), loop_(std::move(loop)) {}

Worker::~Worker() {
  join();
  peers_.clear();
}

void Worker::start() {
  thread_ = std::thread([this] { loop_->run(); });
}

void Worker::join() {
  if (thread_.joinable()) thread_.join();
}

void Worker::use(std::shared_ptr<const Settings> settings) {
#ifdef QTRP_HAVE_QUIC
  const auto& before = settings_->certificate;
  const auto& now = settings->certificate;
  if (quic_ && (before.certificate_pem != now.certificate_pem || before.key_pem != now.key_pem)) {
    if (const auto used = quic_->use(now); !used) log::error("reload: {}", used.error().message);
  }
#endif
  settings_ = std::move(settings);
}

void Worker::adopt(io::Fd socket, const io::Endpoint& from) {
  std::unique_ptr<crypto::RecordLayer> layer;
  switch (settings_->config.crypto) {
    case config::Crypto::none: layer = crypto::make_none(); break;
    case config::Crypto::chacha20: layer = crypto::make_noise_server(settings_->noise_keys); break;
    case config::Crypto::tls: {
      auto made = settings_->tls->make();
      if (!made) return log::error("tunnel from {}: {}", from.to_string(), made.error().message);
      layer = std::move(*made);
      break;
    }
  }
  io::set_keep_alive(socket.get(), 60, 15, 4);
  tunnel::Options options;
  options.tcp = shared_.tcp.get();
  options.mux = settings_->config.mux == config::Mux::yamux ? mux::Protocol::yamux : mux::Protocol::smux2;
  auto peer = std::make_unique<Peer>(*this, from);
  peer->start(std::make_unique<tunnel::TunnelSession>(*loop_, std::move(socket), std::move(layer), options, *peer));
  admit(std::move(peer));
}

#ifdef QTRP_HAVE_QUIC
void Worker::adopt(std::unique_ptr<quic::QuicSession> session) {
  auto at = io::parse_host_port(session->peer());
  auto from = at ? io::Endpoint::from_literal(at->host, at->port) : std::unexpected(at.error());
  if (!from) return log::error("tunnel from {}: {}", session->peer(), from.error().message);
  auto peer = std::make_unique<Peer>(*this, *from);
  session->set_listener(peer.get());
  peer->start(std::move(session));
  admit(std::move(peer));
}

void Worker::own(std::unique_ptr<quic::Server> server) {
  quic_ = std::move(server);
}
#endif

void Worker::admit(std::unique_ptr<Peer> peer) {
  if (draining_) return;
  Peer& added = *peer;
  peers_.emplace(&added, std::move(peer));
  unauthenticated_.push_back(&added);
  ++strangers_[added.source()];
  if (unauthenticated_.size() > kMostUnauthenticated) {
    if (loop_->now() - flood_logged_ > std::chrono::seconds(10)) {
      flood_logged_ = loop_->now();
      log::warn("more than {} connections to the tunnel port have not authenticated; the oldest are dropped",
                kMostUnauthenticated);
    }
    const auto most = std::ranges::max_element(strangers_, {}, [](const auto& of) { return of.second; });
    const auto oldest = std::ranges::find(unauthenticated_, most->first, [](const Peer* p) { return p->source(); });
    (*oldest)->give_up("");
  }
}

void Worker::forget_stranger(Peer& peer) {
  if (unauthenticated_.remove(&peer) == 0) return;
  const auto it = strangers_.find(peer.source());
  if (--it->second == 0) strangers_.erase(it);
}

void Worker::authenticated(Peer& peer) {
  forget_stranger(peer);
}

void Worker::remove(Peer& peer) {
  forget_stranger(peer);
  const auto it = peers_.find(&peer);
  if (it == peers_.end()) return;
  loop_->destroy_later(std::move(it->second));
  peers_.erase(it);
  connection_ended();
  if (closed_ && peers_.empty()) std::exchange(closed_, nullptr)();
}

void Worker::drain(std::function<void()> drained) {
  draining_ = true;
#ifdef QTRP_HAVE_QUIC
  if (quic_) quic_->stop_accepting();
#endif
  drained_ = std::move(drained);
  for (Peer* peer : all_peers()) peer->say_goodbye("the server is shutting down");
  connection_ended();
}

void Worker::connection_ended() {
  if (drained_ && connections() == 0) std::exchange(drained_, nullptr)();
}

void Worker::close_all(std::function<void()> closed) {
  if (peers_.empty()) return closed();
  closed_ = std::move(closed);
  for (Peer* peer : all_peers()) peer->close("the server is shutting down");
}

std::vector<Peer*> Worker::all_peers() const {
  std::vector<Peer*> all;
  for (const auto& [peer, owned] : peers_) all.push_back(peer);
  return all;
}

}  // namespace qtrp::server
