#include "client/link.h"

#include <fmt/format.h>

#include <algorithm>

#include "client/advice.h"
#include "qtrp/base/log.h"
#include "qtrp/identity/identity.h"
#include "qtrp/protocol/proof.h"
#include "qtrp/tunnel/tunnel_session.h"

#ifdef QTRP_HAVE_QUIC
#include "qtrp/quic/endpoint.h"
#endif

namespace qtrp::client {
namespace {

using session::EventKind;
using session::ResetCode;

constexpr unsigned kMostUnanswered = 3;              // pings
constexpr auto kSettled = std::chrono::seconds(10);  // a tunnel that lasted this long begins the backoff anew
constexpr auto kMostProxyRetry = std::chrono::seconds(60);

std::int64_t wall_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::uint32_t random_bits() {
  std::uint32_t bits;
  identity::random_bytes(std::as_writable_bytes(std::span(&bits, 1)));
  return bits;
}

}  // namespace

Link::Link(Shared& shared, io::Loop& loop, std::uint32_t number)
    : shared_(shared),
      settings_(shared.settings),
      loop_(loop),
      number_(number),
      retry_timer_(loop),
      auth_timer_(loop),
      alive_timer_(loop) {
  for (const auto& [id, proxy] : settings_->proxies) proxies_[id].config = proxy;
}

Link::~Link() = default;

std::string Link::label() const {
  return shared_.settings->config.tunnel_count() > 1
             ? fmt::format("server {} (tunnel {})", config().server.to_string(), number_)
             : fmt::format("server {}", config().server.to_string());
}

std::shared_ptr<const config::Proxy> Link::proxy(std::uint32_t id) const {
  const auto it = proxies_.find(id);
  return it == proxies_.end() ? nullptr : it->second.config;
}

// --- dialing ---

void Link::begin() {
  try_again();
}

void Link::try_again() {
  if (draining_) return;
  const Duration wait = backoff_.next(random_bits());
  state_ = State::idle;
  if (wait > Duration::zero())
    log::info("{}: next try in {:.1f} s", label(), std::chrono::duration<double>(wait).count());
  retry_timer_.start(wait, [this] {
    state_ = State::dialing;
    // Every time anew: the name may have moved.
    shared_.server_names.resolve(loop_, config().server, wanted_, [this](Result<std::vector<io::Endpoint>> found) {
      if (state_ != State::dialing) return;
      if (!found) return lost(found.error());
      if (config().transport == config::Transport::quic) return dial_quic(std::move(*found));
      connector_ = std::make_unique<io::Connector>(
          loop_, std::move(*found),
          io::Connector::Options{.timeout = config().connect_timeout,
                                 .receive_buffer = 0,
                                 .before_connect = [this](int fd) { shared_.tcp->prepare_connect(fd); }},
          [this](Result<io::Fd> fd) {
            if (!fd) return lost(fd.error());
            connected(std::move(*fd));
          });
    });
  });
}

void Link::connected(io::Fd fd) {
  std::unique_ptr<crypto::RecordLayer> layer;
  switch (config().crypto) {
    case config::Crypto::none: layer = crypto::make_none(); break;
    case config::Crypto::chacha20: layer = crypto::make_noise_client(*settings_->noise_key); break;
    case config::Crypto::tls: {
      auto made = settings_->tls->make();
      if (!made) return lost(made.error());
      layer = std::move(*made);
      break;
    }
  }
  io::set_keep_alive(fd.get(), 60, 15, 4);
  tunnel::Options options;
  options.client = true;
  options.tcp = shared_.tcp.get();
  options.mux = config().mux == config::Mux::yamux ? mux::Protocol::yamux : mux::Protocol::smux2;
  state_ = State::authenticating;
  session_ = std::make_unique<tunnel::TunnelSession>(loop_, std::move(fd), std::move(layer), options,
                                                     static_cast<session::SessionListener&>(*this));
  wait_for_answer();
}

void Link::wait_for_answer() {
  auth_timer_.start(config().connect_timeout, [this] {
    lost(Error{ErrorKind::timeout,
               "connected, but no answer to the handshake; is it a QTRP server with the same `crypto`?"});
  });
}

#ifdef QTRP_HAVE_QUIC
void Link::dial_quic(std::vector<io::Endpoint> addresses) {
  const config::ClientConfig& config = this->config();
  quic::ClientOptions options;
  options.congestion = config.quic.congestion;
  if (config.brutal.enabled) options.brutal_target = static_cast<std::uint64_t>(config.brutal.target_mbps * 1e6);
  options.handshake_timeout = config.connect_timeout;
  options.checks = settings_->checks;
  dialer_ = std::make_unique<quic::Dialer>(loop_, std::move(addresses), std::move(options),
                                           [this](Result<std::unique_ptr<quic::QuicSession>> session) {
                                             if (!session) return lost(session.error());
                                             state_ = State::authenticating;
                                             (*session)->set_listener(this);
                                             session_ = std::move(*session);
                                             wait_for_answer();
                                           });
}
#else
void Link::dial_quic(std::vector<io::Endpoint>) {
  lost(Error{ErrorKind::config, "transport quic: this build has no QUIC"});
}
#endif

// --- events ---

void Link::on_events() {
  // The session may be given up within the loop.
  const session::Session* const current = session_.get();
  while (current && session_.get() == current) {
    const auto event = session_->next_event();
    if (!event) break;
    switch (event->kind) {
      case EventKind::established: authenticate(); break;
      case EventKind::opened: {
        if (state_ != State::running || draining_) {
          session_->reset(event->stream, state_ == State::running ? ResetCode::shutting_down : ResetCode::protocol);
          break;
        }
        auto relay = std::make_unique<LocalRelay>(*this, *session_, loop_, totals_);
        relay->set_stream(event->stream);
        session_->attach(event->stream, *relay, static_cast<session::StreamOwner*>(relay.get()));
        relays_.emplace(relay.get(), std::move(relay));
        break;
      }
      case EventKind::body:
      case EventKind::finished:
      case EventKind::reset: session::dispatch(*event); break;
      case EventKind::can_open: break;
      case EventKind::closed: lost(*event->error); return;
    }
  }
}

void Link::authenticate() {
  control_ = std::make_unique<tunnel::ControlChannel>(*session_, static_cast<tunnel::ControlListener&>(*this));
  auto stream = session_->open(*control_, static_cast<session::StreamOwner*>(control_.get()));
  if (!stream) return lost(stream.error());
  control_->set_stream(*stream);
  protocol::AuthBody body;
  body.instance = shared_.instance;
  body.run = shared_.run;
  body.tunnel = number_;
  body.name = config().name;
  body.timestamp = wall_ms();
  identity::random_bytes(body.nonce);
  protocol::Auth auth;
  auth.body = protocol::encode_body(body);
  auth.hmac = proof_ =
      protocol::client_proof(config().token, session_->channel_binding(), session_->preface(true), auth.body);
  control_->send(auth);
  // In the same flight: the server looks at them once it knows who asks.
  for (const auto& [id, state] : proxies_)
    if (!state.removed) register_proxy(id);
}

void Link::on_message(protocol::Message message) {
  if (state_ == State::idle) return;  // what stood behind the message that ended the session
  if (state_ == State::authenticating) {
    if (const auto* response = std::get_if<protocol::AuthResp>(&message)) return verify(*response);
    return lost(Error{ErrorKind::protocol, "the server's first message is not AuthResp"});
  }
  if (const auto* m = std::get_if<protocol::ProxyResp>(&message)) {
    registered(*m);
  } else if (const auto* closed = std::get_if<protocol::CloseProxy>(&message)) {
    registered({closed->id, "closed_by_server", "the server closed it", 0});
  } else if (const auto* ping = std::get_if<protocol::Ping>(&message)) {
    control_->send(protocol::Pong{ping->timestamp});
  } else if (const auto* bye = std::get_if<protocol::Goodbye>(&message)) {
    log::info("{}: says goodbye: {}", label(), bye->reason);
    goodbye_ = true;
  } else if (const auto* error = std::get_if<protocol::ErrorMessage>(&message)) {
    log::warn("{}: reports: {}", label(), error->text);
  } else if (const auto* unknown = std::get_if<protocol::Unknown>(&message)) {
    control_->send(protocol::ErrorMessage{fmt::format("message type '{}' is not known here", unknown->type)});
  } else if (!std::holds_alternative<protocol::Pong>(message)) {
    control_->send(protocol::ErrorMessage{"this message type is not for a client"});
  }
}

void Link::verify(const protocol::AuthResp& response) {
  auto body = protocol::decode_auth_resp_body(response.body);
  if (!body) return lost(body.error());
  if (!body->ok) {
    const auto difference = protocol::clock_difference(body->time, wall_ms()) / 1000;
    return lost(Error{ErrorKind::denied,
                      fmt::format("denied: check that `token` is one of the server's auth.tokens{}",
                                  std::abs(difference) > 60
                                      ? fmt::format(" and the clocks (the server's differs by {} s)", difference)
                                      : "")});
  }
  const protocol::Mac expected =
      protocol::server_proof(config().token, session_->channel_binding(), session_->preface(true),
                             session_->preface(false), proof_, response.body);
  if (!protocol::equal(expected, response.hmac)) {
    return lost(Error{ErrorKind::denied,
                      "the server does not know the token: this is not your server, or somebody is in between"});
  }
  auth_timer_.cancel();
  session_->authenticated();
  state_ = State::running;
  target_.emplace(loop_, *session_, shared_.target);
  since_ = loop_.now();
  last_error_.clear();
  const auto figures = session_->stats();
  log::info("{}: connected, {}, {}, {}, {}", label(), figures.transport, figures.cipher, figures.mux,
            figures.congestion);
  keep_alive();
}

// --- proxies ---

void Link::register_proxy(std::uint32_t id) {
  const config::Proxy& p = *proxies_.at(id).config;
  control_->send(protocol::NewProxy{id, p.name, p.type, p.bind, p.remote_port});
}

void Link::add_proxy(std::uint32_t id, std::shared_ptr<const config::Proxy> proxy) {
  proxies_[id].config = std::move(proxy);
  // Not yet authenticated: authenticate() sends them all in its flight.
  if (control_ && !draining_) register_proxy(id);
}

void Link::remove_proxy(std::uint32_t id, ProxyState& state) {
  state.removed = true;
  state.port = 0;
  state.retry.reset();
  if (state.pool) state.pool->stop();
  if (control_) control_->send(protocol::CloseProxy{id});
}

void Link::use(std::shared_ptr<const Settings> settings) {
  const std::shared_ptr<const Settings> before = std::exchange(settings_, std::move(settings));
  // Closed ones first: another may want the same port.
  for (auto& [id, state] : proxies_)
    if (!state.removed && !settings_->proxies.contains(id)) remove_proxy(id, state);
  std::erase_if(proxies_, [](const auto& entry) {
    return entry.second.removed && entry.second.counters.active.load(std::memory_order_relaxed) == 0;
  });
  for (const auto& [id, proxy] : settings_->proxies) {
    const auto it = proxies_.find(id);
    if (it == proxies_.end()) {
      add_proxy(id, proxy);
      continue;
    }
    ProxyState& state = it->second;
    if (state.config == proxy && before->config.pool == config().pool) continue;
    state.config = proxy;
    if (state.pool) {
      state.pool->stop();
      loop_.destroy_later(std::move(state.pool));
    }
    if (state.port != 0) start_pool(state);
  }
}

void Link::start_pool(ProxyState& state) {
  if (config().pool == 0) return;
  if (!state.pool)
    state.pool =
        std::make_unique<ReadyPool>(loop_, shared_.local_names, state.config->local, config().pool, connect_timeout());
  state.pool->start();
}

void Link::registered(const protocol::ProxyResp& response) {
  const auto it = proxies_.find(response.id);
  if (it == proxies_.end() || it->second.removed) return;
  ProxyState& state = it->second;
  const config::Proxy& p = *state.config;
  if (response.code == "ok") {
    if (state.port == 0)
      log::info("{}: proxy '{}': port {} of the server leads to {}", label(), p.name, response.port,
                p.local.to_string());
    state.port = response.port;
    state.code = "ok";
    start_pool(state);
    state.failures = 0;
    return;
  }
  if (state.code != response.code)
    log::error("{}: proxy '{}' refused: {}: {}; it is tried again", label(), p.name, response.code, response.text);
  state.code = response.code;
  state.port = 0;
  const Duration wait =
      std::min<Duration>(kMostProxyRetry, std::chrono::seconds(1) * (1U << std::min(state.failures++, 6U)));
  if (!state.retry) state.retry = std::make_unique<io::Timer>(loop_);
  state.retry->start(wait, [this, id = response.id] {
    if (state_ == State::running && !draining_) register_proxy(id);
  });
}

std::optional<io::Fd> Link::take_ready(std::uint32_t proxy) {
  const auto it = proxies_.find(proxy);
  if (it == proxies_.end() || !it->second.pool) return std::nullopt;
  return it->second.pool->take();
}

stats::Counters& Link::opened(std::uint32_t proxy) {
  totals_.opened();
  stats::Counters& counters = proxies_.at(proxy).counters;
  counters.opened();
  return counters;
}

void Link::relay_ended(LocalRelay& relay, relay::End end, ResetCode code) {
  if (relay.accepted()) {
    totals_.closed();
    ProxyState& proxy = proxies_.at(relay.proxy());
    proxy.counters.closed();
    if (shared_.access.enabled()) {
      std::string user, local;
      stats::AccessRecord record = relay.record(user, local);
      record.client = config().name;
      const bool shutdown = end == relay::End::session_lost && (draining_ || goodbye_);
      record.end = relay.by_operator() ? stats::EndReason::closed_by_operator
                   : shutdown          ? stats::EndReason::shutdown
                                       : relay::end_reason(end, code, relay::Side::client);
      shared_.access.add(record);
    }
    if (proxy.removed && proxy.counters.active.load(std::memory_order_relaxed) == 0) proxies_.erase(relay.proxy());
  }
  log::debug("{}: proxy {}: connection ended: {}{}{}, {} bytes in, {} bytes out", label(), relay.proxy(),
             relay::to_string(end), end == relay::End::stream_reset ? ": " : "",
             end == relay::End::stream_reset ? session::to_string(code) : "", relay.bytes_to_socket(),
             relay.bytes_to_stream());
  const auto it = relays_.find(&relay);
  if (it != relays_.end()) {
    loop_.destroy_later(std::move(it->second));
    relays_.erase(it);
  }
  if (drained_ && relays_.empty()) std::exchange(drained_, nullptr)();
}

// --- alive, and the end ---

void Link::keep_alive() {
  alive_timer_.start(config().keepalive_interval, [this] {
    if (session_->heard()) {
      unanswered_ = 0;
    } else if (unanswered_ >= kMostUnanswered) {
      return lost(Error{ErrorKind::timeout, fmt::format("nothing heard, {} pings unanswered", unanswered_)});
    }
    ++unanswered_;
    control_->send(protocol::Ping{wall_ms()});
    if (state_ == State::running) keep_alive();
  });
}

void Link::on_control_failed(Error error) {
  lost(error);
}

void Link::lost(const Error& error) {
  if (state_ == State::idle) return;
  const State was = std::exchange(state_, State::idle);
  auth_timer_.cancel();
  alive_timer_.cancel();
  unanswered_ = 0;
  target_.reset();
  if (connector_) connector_.reset();
#ifdef QTRP_HAVE_QUIC
  dialer_.reset();
#endif
  if (was == State::running) {
    log::warn("{}: connection lost: {}", label(), error.message);
    if (loop_.now() - since_ >= kSettled) backoff_.reset();
  } else if (was != State::closing && error.message != last_error_) {
    log::error("{}: {}", label(), advised(error, config()));
    last_error_ = error.message;
  }
  while (!relays_.empty()) relays_.begin()->second->session_lost();
  goodbye_ = false;
  for (auto& [id, state] : proxies_) {
    state.port = 0;
    state.code = "not connected";
    state.failures = 0;
    if (state.retry) state.retry->cancel();
    if (state.pool) state.pool->stop();
  }
  if (control_) loop_.destroy_later(std::move(control_));
  if (session_) loop_.destroy_later(std::move(session_));
  if (closed_) std::exchange(closed_, nullptr)();
  if (drained_) std::exchange(drained_, nullptr)();
  try_again();
}

void Link::drain(std::function<void()> drained) {
  draining_ = true;
  retry_timer_.cancel();
  if (state_ != State::running || relays_.empty()) {
    if (state_ == State::running) control_->send(protocol::Goodbye{"the client is shutting down"});
    return drained();
  }
  drained_ = std::move(drained);
  control_->send(protocol::Goodbye{"the client is shutting down"});
}

void Link::close(std::function<void()> closed) {
  if (!session_ || state_ != State::running) return closed();
  state_ = State::closing;
  closed_ = std::move(closed);
  session_->close(Error{ErrorKind::closed, "the client is shutting down"});
}

Link::Figures Link::figures() const {
  Figures f;
  f.connected = state_ == State::running;
  f.tunnel = number_;
  f.server = session_ ? session_->peer() : config().server.to_string();
  f.since = since_;
  f.connections = relays_.size();
  if (session_) f.session = session_->stats();
  for (const auto& [id, state] : proxies_) {
    if (state.removed) continue;
    f.proxies.push_back({id, state.port, state.code, state.counters.bytes_in.load(std::memory_order_relaxed),
                         state.counters.bytes_out.load(std::memory_order_relaxed),
                         state.counters.active.load(std::memory_order_relaxed),
                         state.counters.total.load(std::memory_order_relaxed)});
  }
  return f;
}

void Link::list_connections(stats::Connections& into) const {
  for (const auto& [relay, owned] : relays_) {
    if (!relay->accepted()) continue;
    if (into.full()) {
      ++into.left_out;
      continue;
    }
    std::string user, local;
    const stats::AccessRecord record = relay->record(user, local);
    stats::ConnectionFigures& figures = into.list.emplace_back();
    figures.number = record.connection;
    figures.user = user;
    figures.client = config().name;
    figures.proxy = record.proxy;
    figures.port = record.port;
    figures.local_addr = local;
    figures.age = std::chrono::duration_cast<std::chrono::milliseconds>(record.duration);
    figures.bytes_in = record.bytes_in;
    figures.bytes_out = record.bytes_out;
  }
}

bool Link::close_connection(std::uint64_t number) {
  const auto it = std::ranges::find_if(
      relays_, [&](const auto& entry) { return entry.first->accepted() && entry.first->number() == number; });
  if (it == relays_.end()) return false;
  it->first->close_by_operator();
  return true;
}

}  // namespace qtrp::client
