// The session::Session side of a connection: the stream table, credit, and the delivery of events.
#include <algorithm>
#include <functional>
#include <optional>
#include <utility>

#include "connection.h"
#include "qtrp/base/log.h"
#include "wire.h"

namespace qtrp::quic {

using session::EventKind;

namespace {

constexpr int kRoundTripsToGrow = 8;
constexpr Duration kStalled = std::chrono::seconds(10);
constexpr Duration kBetweenLooks = std::chrono::seconds(1);

}  // namespace

Connection::Stream* Connection::find(std::int64_t id) {
  auto at = streams_.find(id);
  return at == streams_.end() ? nullptr : &at->second;
}

Connection::Stream& Connection::add_stream(std::int64_t id) {
  Stream& stream = streams_[id];
  stream.id = id;
  stream.window = setup_.options->stream_window;
  stream.since = now_;
  return stream;
}

void Connection::give_back(Stream& stream, std::uint64_t n) {
  stream.unmoved -= n;
  unmoved_ -= n;
  ngtcp2_conn_extend_max_offset(conn_, n);
}

void Connection::forget(Stream& stream) {
  give_back(stream, stream.unmoved);
  stream.out.clear(outgoing_);
  grown_ -= stream.window - setup_.options->stream_window;
  streams_.erase(stream.id);
}

void Connection::shut_down(std::int64_t id, std::uint64_t code) {
  if (filling_) {
    late_resets_.emplace_back(id, code);
  } else {
    ngtcp2_conn_shutdown_stream(conn_, 0, id, code);
  }
}

void Connection::drop(Stream& stream, session::ResetCode code) {
  stream.gone = true;
  stream.source = nullptr;
  stream.owner = nullptr;
  if (!stream.closed) shut_down(stream.id, to_wire(code));
}

void Connection::queue_reset(Stream& stream, std::uint64_t code) {
  stream.reset_queued = true;
  stream.source = nullptr;
  events_.push_back({.kind = EventKind::reset, .stream = stream.id, .code = from_wire(code)});
  shut_down(stream.id, code);
}

Result<session::StreamId> Connection::open(session::Source& source, void* owner) {
  if (state_ != State::open || closing_reason_) return fail(ErrorKind::closed, "the session is over");
  std::int64_t id = -1;
  if (!handshake_done_ || ngtcp2_conn_open_bidi_stream(conn_, &id, nullptr) != 0) {
    if (!want_open_) log::warn("tunnel to {}: the peer's limit of streams is reached, new connections wait", peer());
    want_open_ = true;
    return fail(ErrorKind::limit, "the peer's limit of streams is reached");
  }
  Stream& stream = add_stream(id);
  stream.source = &source;
  stream.owner = owner;
  stream.announced = true;
  stream.ready = true;
  if (id == 0 && setup_.tunnel)
    stream.out.add(&kTunnelByte, 1, nullptr, outgoing_);  // the client's first: tells a tunnel from a visitor
  enqueue(stream, true);
  setup_.host->wants_flush(*this);
  return static_cast<session::StreamId>(id);
}

void Connection::attach(session::StreamId id, session::Source& source, void* owner) {
  Stream* stream = find(static_cast<std::int64_t>(id));
  if (!stream || stream->gone || stream->reset_queued || stream->closed || state_ != State::open) {
    if (stream) stream->owner = owner;
    return;
  }
  stream->source = &source;
  stream->owner = owner;
}

void Connection::ready(session::StreamId id) {
  Stream* stream = find(static_cast<std::int64_t>(id));
  if (!stream || !stream->source || stream->ready || stream->ended) return;
  stream->ready = true;
  enqueue(*stream, true);
  setup_.host->wants_flush(*this);
}

void Connection::reset(session::StreamId id, session::ResetCode code) {
  Stream* stream = find(static_cast<std::int64_t>(id));
  if (!stream || stream->gone) return;
  drop(*stream, code);
  setup_.host->wants_flush(*this);
}

void Connection::moved(session::StreamId id, std::size_t n) {
  Stream* stream = find(static_cast<std::int64_t>(id));
  if (!stream) return;
  std::uint64_t credit = std::min<std::uint64_t>(n, stream->unmoved);
  if (server_ && !authenticated_) {
    owed_ += credit;  // an unauthenticated peer gets no more than the first window; authenticated() makes up for it
    return;
  }
  give_back(*stream, credit);
  if (credit > 0) stream->progress = now_;
  ngtcp2_conn_extend_max_stream_offset(conn_, stream->id, credit);
  grow_window(*stream, credit);
  setup_.host->wants_flush(*this);
}

/// The window doubles while the peer uses half of it within a few round trips: on a lossy path that takes more than the
/// two that ngtcp2's own tuning allows, since everything behind a lost packet waits. Grown windows leave half of what
/// the connection may buffer to others: a stream whose reader stops keeps its window full.
void Connection::grow_window(Stream& stream, std::uint64_t credit) {
  ngtcp2_conn_info info;
  ngtcp2_conn_get_conn_info(conn_, &info);
  stream.moved += credit;
  if (stream.moved < stream.window / 2) return;
  const auto round_trip = std::chrono::nanoseconds(static_cast<std::int64_t>(info.smoothed_rtt));
  const std::uint64_t most = setup_.options->max_buffered / 2;
  if (now_ - stream.since < kRoundTripsToGrow * round_trip && stream.window < setup_.options->max_stream_window &&
      grown_ < most) {
    const std::uint64_t more =
        std::min({stream.window, setup_.options->max_stream_window - stream.window, most - grown_});
    ngtcp2_conn_extend_max_stream_offset(conn_, stream.id, more);
    stream.window += more;
    grown_ += more;
  }
  stream.moved = 0;
  stream.since = now_;
}

/// Where readers that have stopped hold nearly all that the connection may buffer, its credit is used up and everybody
/// else stands still. Then those go that took nothing for a while, the fullest first, until an eighth is free. Slow
/// readers, and all while there is room, are never touched.
void Connection::relieve() {
  const std::uint64_t most = setup_.options->max_buffered;
  // What was given back and ngtcp2 has not told yet (kFirstBytes) is as little use to the peer as what is held.
  const std::uint64_t kept = std::max(most / 16, std::min(kFirstBytes, most) / 2);
  if (unmoved_ + incoming_bytes_ < most - kept || now_ < relieve_at_ || !authenticated_) return;
  relieve_at_ = now_ + kBetweenLooks;
  std::vector<Stream*> stalled;
  for (auto& [id, stream] : streams_) {
    const bool known = !stream.gone && !stream.reset_queued && id != 0;
    if (known && stream.unmoved > 0 && now_ - stream.progress >= kStalled) stalled.push_back(&stream);
  }
  std::ranges::sort(stalled, std::greater<>{}, &Stream::unmoved);
  std::size_t ended = 0;
  for (Stream* stream : stalled) {
    if (unmoved_ + incoming_bytes_ <= most - most / 8) break;
    give_back(*stream, stream->unmoved);
    queue_reset(*stream, to_wire(session::ResetCode::limit));
    ++ended;
  }
  if (ended == 0) return;
  log::warn("tunnel to {}: connections that do not read held all {} MiB that the tunnel may buffer: {} of them ended",
            peer(), most >> 20, ended);
  setup_.host->wants_flush(*this);
}

void Connection::authenticated() {
  if (std::exchange(authenticated_, true)) return;
  if (!server_) {
    events_.insert(events_.begin(), early_.begin(), early_.end());
    early_.clear();
    return;
  }
  const Options& options = *setup_.options;
  if (options.max_buffered > 4 * kUnauthenticatedBytes)
    ngtcp2_conn_extend_max_offset(conn_, options.max_buffered - 4 * kUnauthenticatedBytes);
  if (options.max_streams > kFirstStreams)
    ngtcp2_conn_extend_max_streams_bidi(conn_, static_cast<std::size_t>(options.max_streams - kFirstStreams));
  moved(0, static_cast<std::size_t>(std::exchange(owed_, 0)));
  setup_.host->wants_flush(*this);
}

void Connection::release_last_body() {
  if (delivered_) incoming_.release(*std::exchange(delivered_, nullptr));
}

std::optional<session::Event> Connection::next_event() {
  release_last_body();
  while (!events_.empty()) {
    Pending pending = events_.front();
    events_.pop_front();
    if (!server_ && !authenticated_ && (pending.stream & 1) != 0) {  // the server's: not before it has proved itself
      early_.push_back(pending);
      continue;
    }
    Stream* stream = find(pending.stream);
    if (pending.release) {
      if (stream) forget(*stream);
      continue;
    }
    session::Event event{
        .kind = pending.kind, .stream = static_cast<session::StreamId>(pending.stream), .code = pending.code};
    if (stream) event.owner = stream->owner;
    bool wanted = stream && !stream->gone;
    switch (pending.kind) {
      case EventKind::established:
      case EventKind::can_open: event.owner = nullptr; return event;
      case EventKind::closed:
        event.owner = nullptr;
        event.error = &*failure_;
        return event;
      case EventKind::opened:
        if (!wanted) break;
        if (server_ && !authenticated_ && pending.stream != 0) {
          drop(*stream, session::ResetCode::limit);
          setup_.host->wants_flush(*this);
          break;
        }
        // Its window was the one for strangers; a known peer gets the usual one.
        if (server_ && setup_.options->stream_window > kUnauthenticatedBytes && pending.stream != 0)
          ngtcp2_conn_extend_max_stream_offset(conn_, pending.stream,
                                               setup_.options->stream_window - kUnauthenticatedBytes);
        stream->announced = true;
        return event;
      case EventKind::body:
        incoming_bytes_ -= pending.length;
        if (!wanted) {
          incoming_.release(*pending.block);
          ngtcp2_conn_extend_max_offset(conn_, pending.length);
          break;
        }
        if (stream->unmoved == 0) stream->progress = now_;
        stream->unmoved += pending.length;
        unmoved_ += pending.length;
        delivered_ = pending.block;
        event.body = {pending.data, pending.length};
        return event;
      case EventKind::finished:
        if (wanted) return event;
        break;
      case EventKind::reset:
        if (!wanted) break;
        stream->gone = true;
        return event;
    }
  }
  incoming_.idle();
  return {};
}

Bytes Connection::channel_binding() const {
  return has_binding_ ? Bytes(binding_) : Bytes();
}

void Connection::set_target(std::uint64_t bits_per_second, bool /*alone*/) {
  if (controller_ && controller_->target() != bits_per_second / 8) {
    controller_->set_target(bits_per_second / 8);
    setup_.host->wants_flush(*this);
  }
}

session::SessionStats Connection::stats() {
  session::SessionStats out;
  ngtcp2_conn_info info;
  ngtcp2_conn_get_conn_info(conn_, &info);
  out.wire_bytes_in = bytes_in_;
  out.wire_bytes_out = bytes_out_;
  out.streams = static_cast<std::uint64_t>(std::count_if(streams_.begin(), streams_.end(), [](const auto& s) {
    return ngtcp2_is_bidi_stream(s.first) && !s.second.gone;
  }));
  out.rtt = std::chrono::nanoseconds(static_cast<std::int64_t>(info.smoothed_rtt));
  out.rate_bps = pacing_rate_ * 8;
  out.congestion = congestion_name(*setup_.options);
  if (controller_) {
    out.congestion = controller_->name();
    out.lost_packets = controller_->lost_packets;
    out.target_bps = controller_->target() * 8;
    out.ack_rate = controller_->ack_rate(last_write_);
  }
  if (handshake_done_) out.cipher = tls_->describe();
  out.transport = "quic";
  out.mux = "quic";
  return out;
}

}  // namespace qtrp::quic
