// The multiplexer's public face, the streams' lives, limits and timers. Parsing is in receive.cpp, writing in send.cpp.
#include "qtrp/mux/mux.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "mux/state.h"

namespace qtrp::mux {

using session::ResetCode;
using session::StreamId;

namespace {

constexpr std::size_t kLeastGone = 256;  // resets still to be sent that even the smallest limit allows
constexpr TimePoint kNever = TimePoint::max();
constexpr Duration kYieldAfter = std::chrono::seconds(1);

}  // namespace

std::string_view to_string(Protocol protocol) {
  switch (protocol) {
    case Protocol::smux2: return "smux";
    case Protocol::smux1: return "smux1";
    case Protocol::yamux: return "yamux";
  }
  return "unknown";
}

Mux::State::State(const Options& chosen, TimePoint start)
    : options(chosen),
      codec(chosen.protocol, chosen.ours.extensions),
      table(static_cast<std::uint64_t>(start.time_since_epoch().count()) ^ reinterpret_cast<std::uintptr_t>(this)),
      flow(chosen),
      began(start),
      now(start),
      heard(start),
      spoke(start),
      next_sweep(start) {
  if (options.protocol == Protocol::yamux) {
    next_id = options.client ? 1 : 2;
  } else {
    next_id = options.client ? 3 : 2;
  }
  scheduler.set_max_quantum(peer_frame());
}

std::uint32_t Mux::State::seconds(TimePoint at) const {
  return static_cast<std::uint32_t>(std::chrono::duration_cast<std::chrono::seconds>(at - began).count());
}

Stream& Mux::State::create(std::uint32_t id, bool ours) {
  Stream& stream = table.insert(id);
  stream.ours = ours;
  scheduler.begin(stream);
  flow.begin(stream, now);
  stream.send_limit =
      options.protocol == Protocol::smux1 ? std::numeric_limits<std::uint64_t>::max() / 2 : peer_initial();
  if (!ours) ++peer_streams;
  touch(stream);
  return stream;
}

void Mux::State::resume(Stream& stream) {
  if (stream.ready && stream.source != nullptr && stream.send_window() > 0) {
    scheduler.add(stream);
  } else {
    scheduler.remove(stream);
  }
}

void Mux::State::owe(Stream& stream, Owed what) {
  stream.owed = static_cast<std::uint8_t>(stream.owed | what);
  if (stream.in_control) return;
  stream.in_control = true;
  control.push_back(stream);
}

void Mux::State::update_window(Stream& stream) {
  if ((stream.owed & kOweWindow) == 0 && flow.worth_update(stream, table.size())) owe(stream, kOweWindow);
}

void Mux::State::recycle(Stream& stream) {
  if (!stream.in_control && !stream.in_events) table.recycle(stream);
}

void Mux::State::release(Stream& stream, std::uint8_t owed) {
  scheduler.remove(stream);
  flow.release(stream);
  table.remove(stream);
  if (!stream.ours) --peer_streams;
  if (stream.unaccepted) {
    --unaccepted;
    can_open = can_open || std::exchange(open_refused, false);
  }
  if (body_stream == &stream) body_stream = nullptr;
  stream.gone = true;
  stream.source = nullptr;
  stream.owed = owed;
  if (owed != 0 && !stream.in_control) {
    stream.in_control = true;
    control.push_back(stream);
  }
  if (stream.in_control) ++gone_in_control;
  recycle(stream);
  if (gone_in_control > std::max(kLeastGone, options.max_streams)) {
    fail(ErrorKind::limit, "peer makes streams end faster than it reads");
  }
  check_left();
}

void Mux::State::check_left() {
  if (peer_left && table.size() == 0) fail(ErrorKind::closed, "the peer went away");
}

void Mux::State::release_if_done(Stream& stream) {
  if (stream.finish_sent && stream.finish_received && stream.buffered() == 0) release(stream);
}

void Mux::State::abort(Stream& stream, ResetCode code) {
  std::uint8_t owed = 0;
  if ((stream.owed & kOweOpen) != 0 || (stream.finish_sent && stream.finish_received)) {
    // The peer never heard of it, or is done with it.
  } else if (extended || options.protocol == Protocol::yamux) {
    owed = kOweReset;
  } else if (!stream.finish_sent) {
    owed = kOweFinish;  // all that a foreign smux understands
  }
  if (owed != 0) ++counters.resets_out;
  stream.code = code;
  release(stream, owed);
}

void Mux::State::kill(Stream& stream, ResetCode code) {
  stream.in_events = true;
  killed.push_back(stream);
  abort(stream, code);
}

void Mux::State::refuse(std::uint32_t id, ResetCode code) {
  Stream& stream = table.obtain(id);
  stream.gone = true;
  stream.code = code;
  ++counters.resets_out;
  ++gone_in_control;
  owe(stream, extended || options.protocol == Protocol::yamux ? kOweReset : kOweFinish);
  if (gone_in_control > std::max(kLeastGone, options.max_streams)) {
    fail(ErrorKind::limit, "peer opens streams faster than it reads that they are refused");
  }
}

void Mux::State::relieve() {
  const std::size_t aim = std::max<std::size_t>(flow.bound() / 16, 1);
  while (flow.room() < aim) {
    std::uint64_t fullest = 0;
    table.for_each([&](const Stream& stream) { fullest = std::max(fullest, stream.buffered()); });
    if (fullest == 0) break;
    // Each walk ends with enough room or halves the fullest, so that walks stay rare however small the streams are.
    std::vector<Stream*> full;
    table.for_each([&](Stream& stream) {
      if (stream.buffered() > fullest / 2) full.push_back(&stream);
    });
    std::sort(full.begin(), full.end(), [](const Stream* a, const Stream* b) { return a->buffered() > b->buffered(); });
    for (Stream* stream : full) {
      if (flow.room() >= aim) break;
      kill(*stream, ResetCode::limit);
    }
  }
}

void Mux::State::fail(ErrorKind kind, std::string message, std::uint32_t go_away_reason) {
  if (closed) return;
  closed = true;
  error = Error{kind, std::move(message), 0};
  owe_nop = owe_ping = false;
  pongs.clear();
  owe_leave = options.protocol == Protocol::yamux && kind != ErrorKind::closed;
  leave_reason = go_away_reason;
}

void Mux::State::drop_half_closed() {
  std::erase_if(half_closed, [&](std::uint32_t id) {
    Stream* const stream = table.find(id);
    if (stream == nullptr || stream->finish_sent || extended) return true;
    const auto silent = std::chrono::seconds(seconds(now) - stream->active);
    if (silent < options.half_close_timeout) return false;
    kill(*stream, ResetCode::unspecified);
    return true;
  });
}

void Mux::State::yield_idle() {
  std::erase_if(idle_credit, [&](std::uint32_t id) {
    Stream* const stream = table.find(id);
    if (stream == nullptr) return true;
    if (stream->ready || stream->finish_sent) {
      stream->yielding = false;
      return true;
    }
    if (seconds(now) - stream->active < 1) return false;
    stream->yielding = false;
    if (stream->source != nullptr) owe(*stream, kOweYield);
    return true;
  });
}

Mux::Mux(const Options& options, TimePoint now) : state_(std::make_unique<State>(options, now)) {}
Mux::~Mux() = default;

void Mux::negotiate(const Features& peer) {
  State& state = *state_;
  state.peer = peer;
  state.extended = state.options.ours.extensions && peer.extensions;
  state.flow.set_following(state.extended);
  state.scheduler.set_max_quantum(state.peer_frame());
  state.table.for_each([&](Stream& stream) {
    if (state.extended && state.options.protocol == Protocol::smux2 && !stream.updated) {
      stream.send_limit = state.peer_initial();
      state.resume(stream);
    }
    state.flow.rebase(stream);
    state.update_window(stream);
  });
}

void Mux::set_rtt(Duration rtt) {
  state_->flow.set_rtt(rtt);
}

void Mux::set_limits(std::size_t max_streams, std::size_t session_buffer) {
  state_->options.max_streams = max_streams;
  state_->options.session_buffer = session_buffer;
  state_->flow.set_bound(session_buffer);
}

Result<StreamId> Mux::open(session::Source& source, void* owner) {
  State& state = *state_;
  if (state.closed) return fail(ErrorKind::closed, "open a stream: the session is over");
  if (state.peer_left || state.leaving) return fail(ErrorKind::closed, "open a stream: the session is going away");
  if (state.next_id > std::numeric_limits<std::uint32_t>::max() - 2) {
    return fail(ErrorKind::closed, "open a stream: all stream ids of the session are used up");
  }
  const bool awaits_accept = state.options.protocol == Protocol::yamux && !state.extended;
  if (awaits_accept && state.unaccepted >= yamux::kBacklog) {
    state.open_refused = true;
    return fail(ErrorKind::limit, "open a stream: the peer has not accepted the last 256");
  }
  Stream& stream = state.create(state.next_id, true);
  state.next_id += 2;
  ++state.counters.opened;
  if (state.options.protocol == Protocol::yamux) {
    stream.unaccepted = true;
    ++state.unaccepted;
  }
  stream.source = &source;
  stream.owner = owner;
  stream.ready = true;
  state.owe(stream, kOweOpen);
  state.update_window(stream);
  state.resume(stream);
  return stream.id;
}

void Mux::attach(StreamId id, session::Source& source, void* owner) {
  State& state = *state_;
  Stream* const stream = state.table.find(static_cast<std::uint32_t>(id));
  if (state.closed || stream == nullptr) return;
  stream->source = &source;
  stream->owner = owner;
  if (state.options.protocol == Protocol::yamux) state.owe(*stream, kOweAccept);
  state.update_window(*stream);
}

void Mux::ready(StreamId id) {
  State& state = *state_;
  Stream* const stream = state.table.find(static_cast<std::uint32_t>(id));
  if (state.closed || stream == nullptr || stream->source == nullptr) return;
  stream->ready = true;
  state.resume(*stream);
}

void Mux::reset(StreamId id, ResetCode code) {
  Stream* const stream = state_->table.find(static_cast<std::uint32_t>(id));
  if (!state_->closed && stream != nullptr) state_->abort(*stream, code);
}

void Mux::moved(StreamId id, std::size_t n) {
  State& state = *state_;
  Stream* const stream = state.table.find(static_cast<std::uint32_t>(id));
  if (state.closed || stream == nullptr) return;
  state.flow.move(*stream, n, state.now);
  state.update_window(*stream);
  state.release_if_done(*stream);
}

void Mux::receive(Bytes plain, TimePoint now) {
  state_->now = now;
  if (!plain.empty()) state_->heard = now;
  state_->input = plain;
}

std::optional<session::Event> Mux::next_event() {
  return state_->next_event();
}

std::size_t Mux::produce(MutableBytes out, TimePoint now, bool fresh_only) {
  state_->now = now;
  const std::size_t n = state_->produce(out, fresh_only);
  if (n > 0) state_->spoke = now;
  return n;
}

bool Mux::wants_write() const {
  const State& state = *state_;
  if (state.closed) return state.owe_leave;
  return state.owes() || !state.scheduler.empty();
}

bool Mux::wants_read() const {
  return state_->wants_read();
}

std::optional<Mux::BodyAhead> Mux::body_ahead() const {
  const State& state = *state_;
  if (state.closed || !state.input.empty() || state.body_left == 0 || state.body_stream == nullptr) return std::nullopt;
  // Without room the body has to come through next_event(), which makes some or stops reading.
  const std::size_t remaining = std::min(state.body_left, state.flow.room());
  if (remaining == 0) return std::nullopt;
  return BodyAhead{.stream = state.body_stream->id, .owner = state.body_stream->owner, .remaining = remaining};
}

void Mux::body_bypassed(std::size_t n, TimePoint now) {
  State& state = *state_;
  state.now = now;
  state.heard = now;
  if (state.closed || n == 0) return;
  n = std::min(n, state.body_left);
  state.body_left -= n;
  if (state.body_stream == nullptr) return;
  state.flow.hand_out(*state.body_stream, n, now);
  state.counters.bytes_in += n;
  state.touch(*state.body_stream);
}

TimePoint Mux::next_deadline() const {
  const State& state = *state_;
  if (state.closed) return kNever;
  TimePoint at = kNever;
  if (state.options.keepalive_timeout > Duration::zero() && state.wants_read())
    at = state.heard + state.options.keepalive_timeout;
  if (state.options.keepalive_interval > Duration::zero() && !state.owe_nop && !state.owe_ping) {
    at = std::min(at, state.spoke + state.options.keepalive_interval);
  }
  if (!state.half_closed.empty() || !state.idle_credit.empty()) at = std::min(at, state.next_sweep);
  return at;
}

void Mux::tick(TimePoint now) {
  State& state = *state_;
  state.now = now;
  if (state.closed) return;
  const Options& options = state.options;
  if (!state.wants_read()) {
    state.heard = now;  // silent because we do not listen
  } else if (options.keepalive_timeout > Duration::zero() && now - state.heard >= options.keepalive_timeout) {
    state.fail(ErrorKind::timeout,
               fmt::format("nothing heard for {} s",
                           std::chrono::duration_cast<std::chrono::seconds>(now - state.heard).count()));
    return;
  }
  if (options.keepalive_interval > Duration::zero() && now - state.spoke >= options.keepalive_interval) {
    (options.protocol == Protocol::yamux ? state.owe_ping : state.owe_nop) = true;
  }
  if (now >= state.next_sweep) {
    state.next_sweep = now + kYieldAfter;
    if (!state.half_closed.empty()) state.drop_half_closed();
    if (!state.idle_credit.empty()) state.yield_idle();
  }
}

void Mux::go_away() {
  State& state = *state_;
  if (state.closed || state.leaving || state.options.protocol != Protocol::yamux) return;
  state.leaving = true;
  state.owe_leave = true;
}

Duration Mux::ping_rtt() const {
  return state_->ping_rtt;
}

const Counters& Mux::counters() const {
  State& state = *state_;
  state.counters.streams = state.closed ? 0 : state.table.size();
  state.counters.buffered = state.flow.buffered();
  return state.counters;
}

}  // namespace qtrp::mux
