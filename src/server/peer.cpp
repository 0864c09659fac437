#include "server/peer.h"

#include <fmt/format.h>

#include <algorithm>

#include "qtrp/base/log.h"
#include "qtrp/identity/identity.h"
#include "qtrp/protocol/proof.h"

namespace qtrp::server {
namespace {

using session::EventKind;
using session::ResetCode;

constexpr auto kAuthLimit = std::chrono::seconds(10);
constexpr unsigned kMostUnanswered = 3;               // pings
constexpr std::size_t kMostBacklog = 1024;            // users waiting for a stream
constexpr std::string_view kSpeedTest = "speedtest";  // NewProxy's type

std::int64_t wall_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

void reset_socket(io::Fd fd) {
  const linger now{1, 0};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

}  // namespace

// A user's connection and its stream.
class Peer::UserRelay final : public relay::Relay {
 public:
  UserRelay(Peer& peer, ProxyUse& proxy, const io::Endpoint& user, std::uint64_t number)
      : Relay(*peer.session_, peer.loop_, Side::server,
              {&peer.worker_.totals(), &proxy.counters, &peer.member_->moved_much}),
        peer_(peer),
        proxy_(proxy),
        user_(user),
        number_(number),
        since_(peer.loop_.now()) {}
  ProxyUse& proxy() const { return proxy_; }
  const io::Endpoint& user() const { return user_; }
  std::uint64_t number() const { return number_; }
  TimePoint since() const { return since_; }
  void close_by_operator() {
    by_operator_ = true;
    abort(ResetCode::cancelled);
  }
  bool by_operator() const { return by_operator_; }

 private:
  void on_end(relay::End end, ResetCode code) override { peer_.relay_ended(*this, end, code); }
  Peer& peer_;
  ProxyUse& proxy_;
  const io::Endpoint user_;
  const std::uint64_t number_;
  const TimePoint since_;
  bool by_operator_ = false;
};

Peer::Peer(Worker& worker, const io::Endpoint& from, Duration backlog_limit)
    : worker_(worker),
      loop_(worker.loop()),
      address_(from.to_string()),
      source_(from.source()),
      auth_timer_(loop_),
      alive_timer_(loop_),
      probe_timer_(loop_),
      backlog_timer_(loop_),
      backlog_limit_(backlog_limit),
      since_(loop_.now()),
      member_(std::make_shared<Member>(loop_)),
      serve_([this] {
        if (speed_) start_speed_test();
        open_waiting();
      }) {
  member_->peer = this;
}

Peer::~Peer() {
  member_->peer = nullptr;
}

std::string Peer::label() const {
  return group_ ? fmt::format("client '{}' ({}, tunnel {})", group_->name(), address_, client_.tunnel)
                : fmt::format("tunnel from {}", address_);
}

void Peer::start(std::unique_ptr<session::Session> session) {
  session_ = std::move(session);
  auth_timer_.start(kAuthLimit, [this] { ended(Error{ErrorKind::timeout, "did not authenticate within 10 s"}); });
}

void Peer::on_events() {
  while (state_ != State::ended) {
    const auto event = session_->next_event();
    if (!event) break;
    switch (event->kind) {
      case EventKind::established: break;
      case EventKind::opened:
        if (control_) {
          session_->reset(event->stream, ResetCode::protocol);  // only the server opens data streams
          break;
        }
        control_.emplace(*session_, static_cast<tunnel::ControlListener&>(*this));
        control_->set_stream(event->stream);
        session_->attach(event->stream, *control_, static_cast<session::StreamOwner*>(&*control_));
        break;
      case EventKind::body:
      case EventKind::finished:
      case EventKind::reset: session::dispatch(*event); break;
      case EventKind::can_open: open_waiting(); break;
      case EventKind::closed: ended(*event->error); return;
    }
  }
}

// --- who is it ---

void Peer::on_message(protocol::Message message) {
  if (state_ == State::ended) return;  // what stood behind the message that ended it
  if (state_ == State::waiting) {
    if (const auto* auth = std::get_if<protocol::Auth>(&message)) return authenticate(*auth);
    return ended(Error{ErrorKind::protocol, "its first message is not Auth"});
  }
  if (const auto* m = std::get_if<protocol::NewProxy>(&message)) {
    if (m->type == kSpeedTest) return speed_test(*m);
    group_->add_proxy(*m, loop_, [member = member_](const protocol::ProxyResp& response) {
      if (member->peer && member->peer->state_ == State::running) member->peer->control_->send(response);
    });
  } else if (const auto* close = std::get_if<protocol::CloseProxy>(&message)) {
    group_->remove_proxy(close->id);
  } else if (const auto* ping = std::get_if<protocol::Ping>(&message)) {
    control_->send(protocol::Pong{ping->timestamp});
  } else if (const auto* bye = std::get_if<protocol::Goodbye>(&message)) {
    log::info("{}: says goodbye: {}", label(), bye->reason);
    goodbye_ = true;
    member_->draining = true;
    bool others = false;
    for (const auto& member : group_->members()) others = others || !member->draining;
    if (!others) group_->close_listeners();
  } else if (const auto* error = std::get_if<protocol::ErrorMessage>(&message)) {
    log::warn("{}: reports: {}", label(), error->text);
  } else if (const auto* unknown = std::get_if<protocol::Unknown>(&message)) {
    control_->send(protocol::ErrorMessage{fmt::format("message type '{}' is not known here", unknown->type)});
  } else if (!std::holds_alternative<protocol::Pong>(message)) {
    control_->send(protocol::ErrorMessage{"this message type is not for a server"});
  }
}

void Peer::authenticate(const protocol::Auth& auth) {
  auto verdict = worker_.shared().gate.check(
      {auth.body, auth.hmac, session_->channel_binding(), session_->preface(true), source_}, loop_.now(), wall_ms());
  if (!verdict.token) return deny(Error{ErrorKind::denied, verdict.reason}, verdict.delay);
  auth_timer_.cancel();
  worker_.authenticated(*this);
  session_->authenticated();
  state_ = State::joining;
  client_ = std::move(verdict.body);
  client_hmac_ = auth.hmac;
  token_ = std::move(verdict.token);
  control_->pause();
  Registry& registry = worker_.shared().registry;
  registry.join(client_, token_, member_, [&registry, member = member_](std::shared_ptr<Group> group) {
    if (member->peer) {
      member->peer->joined(std::move(group));
    } else if (group) {
      registry.leave(group, member);  // ended meanwhile
    }
  });
}

void Peer::deny(const Error& reason, Duration delay) {
  log::warn("{}: denied: {}", label(), reason.message);
  state_ = State::joining;
  control_->pause();
  auth_timer_.start(delay, [this] {
    protocol::AuthRespBody body;
    body.error = "denied";
    body.time = wall_ms();
    control_->send(protocol::AuthResp{protocol::encode_body(body), {}});
    session_->close(Error{ErrorKind::denied, ""});
  });
}

void Peer::joined(std::shared_ptr<Group> group) {
  if (!group) return ended(Error{ErrorKind::denied, "its token was taken out of the configuration"});
  if (state_ != State::joining) {
    worker_.shared().registry.leave(group, member_);
    return;
  }
  group_ = std::move(group);
  state_ = State::running;
  target_.emplace(loop_, *session_, group_->target());
  protocol::AuthRespBody body;
  body.ok = true;
  body.session = group_->session_id();
  identity::random_bytes(body.nonce);
  body.time = wall_ms();
  protocol::AuthResp response;
  response.body = protocol::encode_body(body);
  response.hmac = protocol::server_proof(token_->config()->token, session_->channel_binding(), session_->preface(true),
                                         session_->preface(false), client_hmac_, response.body);
  control_->send(response);
  const auto figures = session_->stats();
  log::info("{}: connected, token '{}', {}, {}, {}, {}", label(), token_->config()->name, figures.transport,
            figures.cipher, figures.mux, figures.congestion);
  keep_alive();
  control_->resume();
}

// --- users ---

void Peer::hand_over(const Group& group, const std::shared_ptr<Member>& member,
                     const std::shared_ptr<const ProxyInfo>& proxy, io::Fd user, const io::Endpoint& from) {
  if (member->peer && member->peer->state_ == State::running)
    return member->peer->open_user(proxy, std::move(user), from);
  member->connections.fetch_sub(1, std::memory_order_relaxed);
  group.token()->connections.fetch_sub(1, std::memory_order_relaxed);
  group.turned_away(*proxy, from, stats::EndReason::tunnel_lost);
  reset_socket(std::move(user));
}

void Peer::open_user(const std::shared_ptr<const ProxyInfo>& proxy, io::Fd user, const io::Endpoint& from) {
  Waiting newcomer{proxy, std::move(user), from, loop_.now()};
  if (backlog_.empty() && answered_) {
    if (try_open(newcomer)) return;
    log::warn("{}: grants no more streams now; users wait up to {:g} s for one", label(),
              std::chrono::duration<double>(backlog_limit_).count());
  }
  if (backlog_.size() < kMostBacklog) {
    if (backlog_.empty()) backlog_timer_.start(backlog_limit_, [this] { drop_stale(); });
    backlog_.push_back(std::move(newcomer));
    note_waits();
    return;
  }
  if (newcomers_refused_++ == 0)
    log::warn("{}: {} users wait for a stream; further ones are refused", label(), kMostBacklog);
  turn_away(std::move(newcomer), stats::EndReason::limit);
}

void Peer::note_waits() {
  member_->waits.store(!answered_ || !backlog_.empty(), std::memory_order_relaxed);
}

void Peer::turn_away(Waiting user, stats::EndReason why) {
  group_->turned_away(*user.proxy, user.from, why);
  reset_socket(std::move(user.user));
  release_connection();
}

// False if the peer grants no stream now; a can_open event follows.
bool Peer::try_open(Waiting& waiting) {
  auto& use = proxies_[waiting.proxy->id];
  if (!use) use = std::make_unique<ProxyUse>();
  use->info = waiting.proxy;
  const std::uint64_t number = worker_.shared().next_connection.fetch_add(1, std::memory_order_relaxed);
  auto relay = std::make_unique<UserRelay>(*this, *use, waiting.from, number);
  io::Endpoint to;
  socklen_t size = io::Endpoint::capacity();
  if (::getsockname(waiting.user.get(), to.data(), &size) == 0) to.set_size(size);
  relay->set_prefix(
      protocol::encode(protocol::NewConn{waiting.proxy->id, number, waiting.from.to_string(), to.to_string()}));
  auto stream = session_->open(*relay, static_cast<session::StreamOwner*>(relay.get()));
  if (!stream) {
    if (stream.error().kind == ErrorKind::limit) return false;
    log::warn("{}: connection from {} refused: {}", label(), waiting.from.to_string(), stream.error().message);
    turn_away(std::move(waiting), stats::EndReason::tunnel_lost);
    return true;
  }
  relay->set_stream(*stream);
  worker_.totals().opened();
  use->counters.opened();
  UserRelay& added = *relay;
  relays_.emplace(&added, std::move(relay));
  added.connect(std::move(waiting.user));
  return true;
}

void Peer::open_waiting() {
  if (!answered_) return;
  while (!backlog_.empty() && state_ == State::running) {
    if (!try_open(backlog_.front())) return;
    backlog_.pop_front();
  }
  backlog_timer_.cancel();
  newcomers_refused_ = 0;
  note_waits();
}

// Not a port: a stream that measures the tunnel itself. Without Brutal, whose target would be all that it finds.
void Peer::speed_test(const protocol::NewProxy& wanted) {
  const bool download = wanted.name == "download";
  protocol::ProxyResp response{.id = wanted.id, .code = "ok", .text = "", .port = 0};
  if (!download && wanted.name != "upload") {
    response.code = "bad_request";
    response.text = "a speed test is named download or upload";
  } else if (speed_) {
    response.code = "bad_request";
    response.text = "a speed test is running on this tunnel";
  } else {
    log::info("{}: speed test, {}", label(), wanted.name);
    target_.reset();
    session_->set_target(0, true);
    const std::uint64_t number = worker_.shared().next_connection.fetch_add(1, std::memory_order_relaxed);
    speed_ = std::make_unique<SpeedStream>(
        *session_, loop_, download ? SpeedStream::Direction::download : SpeedStream::Direction::upload,
        protocol::encode(protocol::NewConn{wanted.id, number, address_, "speedtest"}),
        [this] { loop_.destroy_later(std::move(speed_)); });
    if (answered_) start_speed_test();
  }
  control_->send(response);
}

void Peer::start_speed_test() {
  if (speed_->started()) return;
  if (auto started = speed_->start(); !started) {
    log::warn("{}: speed test: {}", label(), started.error().message);
    speed_.reset();
  }
}

// Users who have waited too long for a stream.
void Peer::drop_stale() {
  std::size_t dropped = 0;
  while (!backlog_.empty() && loop_.now() - backlog_.front().since >= backlog_limit_) {
    Waiting user = std::move(backlog_.front());
    backlog_.pop_front();
    turn_away(std::move(user), stats::EndReason::limit);
    ++dropped;
  }
  if (dropped > 0) log::warn("{}: {} users waited in vain for a stream", label(), dropped);
  if (!backlog_.empty()) {
    backlog_timer_.start(backlog_limit_ - (loop_.now() - backlog_.front().since), [this] { drop_stale(); });
  } else {
    newcomers_refused_ = 0;
  }
  note_waits();
}

void Peer::relay_ended(UserRelay& relay, relay::End end, ResetCode code) {
  relay.proxy().counters.closed();
  worker_.totals().closed();
  release_connection();
  if (log::enabled(log::Level::debug)) {
    log::debug("{}: proxy '{}': connection ended: {}{}{}, {} bytes in, {} bytes out", label(), relay.proxy().info->name,
               relay::to_string(end), end == relay::End::stream_reset ? ": " : "",
               end == relay::End::stream_reset ? session::to_string(code) : "", relay.bytes_to_stream(),
               relay.bytes_to_socket());
  }
  if (worker_.shared().access.enabled()) {
    const bool with_tunnel = end == relay::End::session_lost;
    log_access(relay, relay.by_operator() || (with_tunnel && by_operator_) ? stats::EndReason::closed_by_operator
                      : with_tunnel && goodbye_                            ? stats::EndReason::shutdown
                                                : relay::end_reason(end, code, relay::Side::server));
  }
  const auto it = relays_.find(&relay);
  if (it != relays_.end()) {
    loop_.destroy_later(std::move(it->second));
    relays_.erase(it);
  }
  if (sent_away_ && relays_.empty() && state_ == State::running) close("sent away");
  worker_.connection_ended();
}

void Peer::log_access(const UserRelay& relay, stats::EndReason end) {
  const std::string user = relay.user().to_string();
  stats::AccessRecord record;
  record.user = user;
  record.port = relay.proxy().info->port;
  record.client = group_->name();
  record.proxy = relay.proxy().info->name;
  record.connection = relay.number();
  record.bytes_in = relay.bytes_to_stream();
  record.bytes_out = relay.bytes_to_socket();
  record.duration = loop_.now() - relay.since();
  record.end = end;
  worker_.shared().access.add(record);
}

void Peer::release_connection() {
  member_->connections.fetch_sub(1, std::memory_order_relaxed);
  token_->connections.fetch_sub(1, std::memory_order_relaxed);
}

// --- alive, and the end ---

void Peer::keep_alive() {
  alive_timer_.start(worker_.settings().config.keepalive_interval, [this] {
    if (session_->heard()) {
      unanswered_ = 0;
    } else if (unanswered_ >= kMostUnanswered) {
      return ended(Error{ErrorKind::timeout, fmt::format("nothing heard, {} pings unanswered", unanswered_)});
    }
    ++unanswered_;
    control_->send(protocol::Ping{wall_ms()});
    if (state_ == State::running) keep_alive();
  });
}

void Peer::probe(Duration limit, std::function<void(bool)> answer) {
  if (state_ != State::running || probe_answer_) return answer(state_ == State::running);
  probe_answer_ = std::move(answer);
  session_->heard();
  control_->send(protocol::Ping{wall_ms()});
  probe_timer_.start(limit, [this] {
    const bool alive = session_->heard();
    std::exchange(probe_answer_, nullptr)(alive);
  });
}

// A client takes no stream from a server that has not proved itself. A new stream is announced before older streams'
// bytes, so the first users wait here until AuthResp has left.
void Peer::on_control_drained() {
  if (answered_ || state_ != State::running) return;
  answered_ = true;
  note_waits();
  if (!backlog_.empty() || speed_) loop_.at_turn_end(serve_);
}

void Peer::on_control_failed(Error error) {
  ended(error);
}

void Peer::give_up(const std::string& reason) {
  ended(Error{ErrorKind::closed, reason});
}

void Peer::say_goodbye(const std::string& reason) {
  if (state_ != State::running) return give_up("");
  member_->draining = true;
  goodbye_ = true;
  control_->send(protocol::Goodbye{reason});
}

void Peer::send_away(const std::string& reason, Duration grace) {
  if (state_ != State::running) return give_up(reason);
  log::info("{}: sent away: {}", label(), reason);
  say_goodbye(reason);
  if (relays_.empty()) return close(reason);
  sent_away_ = true;
  auth_timer_.start(grace, [this, reason] { close(reason); });
}

void Peer::tell(const protocol::Message& message) {
  if (state_ == State::running) control_->send(message);
}

void Peer::close(const std::string& reason) {
  if (state_ == State::ended) return;
  session_->close(Error{ErrorKind::closed, reason});
}

void Peer::ended(const Error& error) {
  if (state_ == State::ended) return;
  const bool was_running = state_ == State::running;
  state_ = State::ended;
  auth_timer_.cancel();
  alive_timer_.cancel();
  probe_timer_.cancel();
  backlog_timer_.cancel();
  target_.reset();
  member_->draining = true;
  if (!error.message.empty()) {
    // A scanner is one line, a client that left is one line.
    if (was_running) {
      log::info("{}: disconnected: {}", label(), error.message);
    } else if (error.kind != ErrorKind::closed) {
      log::warn("{}: refused: {}", label(), error.message);
    } else {
      log::debug("{}: left before authenticating: {}", label(), error.message);
    }
  }
  while (!backlog_.empty()) {
    Waiting user = std::move(backlog_.front());
    backlog_.pop_front();
    turn_away(std::move(user), goodbye_ ? stats::EndReason::shutdown : stats::EndReason::tunnel_lost);
  }
  if (speed_) loop_.destroy_later(std::move(speed_));
  while (!relays_.empty()) relays_.begin()->second->session_lost();
  member_->peer = nullptr;
  if (group_) {
    for (const auto& [id, use] : proxies_) {
      const stats::Counters& c = use->counters;
      group_->retire(id, c.bytes_in.load(std::memory_order_relaxed), c.bytes_out.load(std::memory_order_relaxed),
                     c.total.load(std::memory_order_relaxed));
    }
    worker_.shared().registry.leave(group_, member_);
  }
  if (probe_answer_) std::exchange(probe_answer_, nullptr)(false);
  worker_.remove(*this);
}

std::optional<Peer::Figures> Peer::figures() const {
  if (state_ != State::running) return std::nullopt;
  Figures f;
  f.client = group_->name();
  f.address = address_;
  f.session = session_->stats();
  f.tunnel = client_.tunnel;
  f.connections = relays_.size();
  f.since = since_;
  for (const auto& [id, use] : proxies_) {
    const stats::Counters& c = use->counters;
    f.proxies.push_back({id, c.bytes_in.load(std::memory_order_relaxed), c.bytes_out.load(std::memory_order_relaxed),
                         c.active.load(std::memory_order_relaxed), c.total.load(std::memory_order_relaxed)});
  }
  return f;
}

void Peer::list_connections(stats::Connections& into) const {
  if (state_ != State::running) return;
  for (const auto& [relay, owned] : relays_) {
    if (into.full()) {
      ++into.left_out;
      continue;
    }
    stats::ConnectionFigures& figures = into.list.emplace_back();
    figures.number = relay->number();
    figures.user = relay->user().to_string();
    figures.client = group_->name();
    figures.instance = identity::to_hex(std::as_bytes(std::span(group_->instance())));
    figures.proxy = relay->proxy().info->name;
    figures.port = relay->proxy().info->port;
    figures.age = std::chrono::duration_cast<std::chrono::milliseconds>(loop_.now() - relay->since());
    figures.bytes_in = relay->bytes_to_stream();
    figures.bytes_out = relay->bytes_to_socket();
  }
}

bool Peer::close_connection(std::uint64_t number) {
  const auto it = std::ranges::find_if(relays_, [&](const auto& entry) { return entry.first->number() == number; });
  if (it == relays_.end()) return false;
  it->first->close_by_operator();
  return true;
}

void Peer::close_by_operator() {
  by_operator_ = true;
  close("closed by an operator");
}

}  // namespace qtrp::server
