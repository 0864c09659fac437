// Frames in, events out: the parser over the caller's bytes, and what each frame means in each state. Every rule that a
// peer can break ends here in one of three ways: ignored, the stream reset, or the session failed
// (docs/protocol-mux.md, "What a peer can do wrong").
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "mux/state.h"

namespace qtrp::mux {

using session::Event;
using session::EventKind;
using session::ResetCode;

namespace {

constexpr std::size_t kMaxPongs = 16;

}  // namespace

std::optional<Event> Mux::State::next_event() {
  for (;;) {
    if (killed.head() != nullptr) {
      Stream& stream = *killed.pop_front();
      const Event event{
          .kind = EventKind::reset, .stream = stream.id, .owner = stream.owner, .body = {}, .code = stream.code};
      stream.in_events = false;
      recycle(stream);
      return event;
    }
    if (closed) {
      input = {};
      if (closed_told) return std::nullopt;
      closed_told = true;
      return Event{.kind = EventKind::closed, .body = {}, .error = &error};
    }
    if (can_open) {
      can_open = false;
      return Event{.kind = EventKind::can_open, .body = {}};
    }
    if (body_left > 0) {
      if (input.empty()) return std::nullopt;
      if (body_stream == nullptr) {
        const std::size_t n = std::min(body_left, input.size());
        input = input.subspan(n);
        body_left -= n;
      } else if (auto event = body()) {
        return event;
      }
      continue;
    }
    if (body_finish) {
      body_finish = false;
      if (body_stream != nullptr) return on_finish(*body_stream);
    }
    body_stream = nullptr;
    if (!take_header()) return std::nullopt;
    if (auto event = on_frame()) return event;
  }
}

bool Mux::State::take_header() {
  const std::size_t least = codec.least_header();
  if (partial_size == 0 && input.size() >= least) {
    const std::size_t size = codec.header_size(input.data());
    if (input.size() >= size) {
      frame = codec.decode(input.data());
      input = input.subspan(size);
      return true;
    }
  }
  for (;;) {
    const std::size_t size = partial_size < least ? least : codec.header_size(partial.data());
    if (partial_size == size) break;
    if (input.empty()) return false;
    const std::size_t n = std::min(size - partial_size, input.size());
    std::memcpy(partial.data() + partial_size, input.data(), n);
    partial_size += n;
    input = input.subspan(n);
  }
  partial_size = 0;
  frame = codec.decode(partial.data());
  return true;
}

Stream* Mux::State::known(std::uint32_t id) {
  if (Stream* stream = table.find(id)) return stream;
  const bool ours = (id & 1U) == (next_id & 1U);
  if (ours ? id >= next_id || id == 0 : !used_ids.used(id)) {
    fail(ErrorKind::protocol, fmt::format("frame for stream {} that was never opened", id));
  }
  return nullptr;
}

std::optional<Event> Mux::State::on_frame() {
  ++counters.frames_in;
  switch (frame.type) {
    case Frame::Type::bad: fail(ErrorKind::protocol, frame.error); return std::nullopt;
    case Frame::Type::ping:
    case Frame::Type::pong:
    case Frame::Type::nop:
    case Frame::Type::leave: on_session_frame(); return std::nullopt;
    default: break;
  }
  Stream* const stream = frame.open ? on_open() : known(frame.stream);
  if (closed) return std::nullopt;
  body_left = frame.type == Frame::Type::data ? frame.length : 0;
  body_stream = stream;
  body_finish = false;
  if (stream == nullptr) return std::nullopt;  // gone or refused: what it says is passed over
  if (frame.accept && stream->unaccepted) {
    stream->unaccepted = false;
    --unaccepted;
    can_open = std::exchange(open_refused, false);
  }
  if (frame.reset) return on_reset(*stream);
  switch (frame.type) {
    case Frame::Type::data:
      if (!on_data(*stream)) return std::nullopt;
      break;
    case Frame::Type::limit: on_limit(*stream); break;
    case Frame::Type::credit: on_credit(*stream); break;
    case Frame::Type::yield: flow.yielded(*stream, frame.value); break;
    default: break;
  }
  // A second FIN is common (xtaci/smux sends one for CloseWrite and one for Close) and says nothing new.
  body_finish = frame.finish && !stream->finish_received;
  if (!frame.open) return std::nullopt;
  ++counters.accepted;
  return Event{.kind = EventKind::opened, .stream = stream->id, .body = {}};
}

Stream* Mux::State::on_open() {
  const std::uint32_t id = frame.stream;
  if (id == 0 || (id & 1U) == (next_id & 1U)) {
    fail(ErrorKind::protocol, fmt::format("peer opened stream {}, an id of ours", id));
    return nullptr;
  }
  if (!used_ids.use(id)) {
    fail(ErrorKind::protocol, fmt::format("peer opened stream {} twice", id));
    return nullptr;
  }
  if (frame.reset) return nullptr;  // opened and reset in one frame: nothing was there
  if (leaving) {
    refuse(id, ResetCode::shutting_down);
    return nullptr;
  }
  if (peer_streams >= options.max_streams) {
    refuse(id, ResetCode::limit);
    return nullptr;
  }
  return &create(id, false);
}

bool Mux::State::on_data(Stream& stream) {
  if (options.protocol != Protocol::yamux && frame.length > std::max(options.ours.max_frame, smux::kMaxBody)) {
    fail(ErrorKind::protocol,
         fmt::format("frame of {} bytes, at most {} were agreed", frame.length, options.ours.max_frame));
    return false;
  }
  if (stream.finish_received) {  // a writer of the peer's that lost a race with its own Close
    body_stream = nullptr;
    return true;
  }
  if (stream.received + frame.length > stream.highest_limit) {
    fail(ErrorKind::protocol, fmt::format("stream {}: {} bytes beyond its window", stream.id,
                                          stream.received + frame.length - stream.highest_limit));
    return false;
  }
  return true;
}

std::optional<Event> Mux::State::body() {
  std::size_t n = std::min(body_left, input.size());
  if (options.protocol != Protocol::smux1) {  // version 1 has no windows: there the owner stops reading
    if (flow.room() == 0) {
      relieve();
      return std::nullopt;
    }
    n = std::min(n, flow.room());
  }
  flow.hand_out(*body_stream, n, now);
  counters.bytes_in += n;
  touch(*body_stream);
  const Event event{
      .kind = EventKind::body, .stream = body_stream->id, .owner = body_stream->owner, .body = input.first(n)};
  input = input.subspan(n);
  body_left -= n;
  return event;
}

std::optional<Event> Mux::State::on_finish(Stream& stream) {
  stream.finish_received = true;
  stream.owed = static_cast<std::uint8_t>(stream.owed & ~kOweWindow);
  touch(stream);
  if (!stream.finish_sent && !extended) {
    if (half_closed.size() > 2 * table.size() + 1024) drop_half_closed();  // mostly streams that ended since
    half_closed.push_back(stream.id);
  }
  const Event event{.kind = EventKind::finished, .stream = stream.id, .owner = stream.owner, .body = {}};
  release_if_done(stream);
  return event;
}

std::optional<Event> Mux::State::on_reset(Stream& stream) {
  ++counters.resets_in;
  // yamux has no room for a code in its specification; between our own ends the length carries it.
  const auto code = extended ? static_cast<ResetCode>(frame.value) : ResetCode::unspecified;
  const Event event{.kind = EventKind::reset, .stream = stream.id, .owner = stream.owner, .body = {}, .code = code};
  release(stream);
  return event;
}

void Mux::State::on_limit(Stream& stream) {
  const std::uint32_t in_flight = static_cast<std::uint32_t>(stream.sent) - frame.value;
  if (in_flight > std::numeric_limits<std::int32_t>::max() || in_flight > stream.sent) {
    fail(ErrorKind::protocol, fmt::format("stream {}: peer consumed more than was sent", stream.id));
    return;
  }
  if (frame.second > std::numeric_limits<std::int32_t>::max()) {
    fail(ErrorKind::protocol, fmt::format("stream {}: window of {} bytes overflows", stream.id, frame.second));
    return;
  }
  const std::uint64_t consumed = stream.sent - in_flight;
  if (consumed < stream.peer_consumed) return;  // overtaken by a later one (two readers in the Go library)
  stream.peer_consumed = consumed;
  stream.send_limit = consumed + frame.second;
  stream.updated = true;
  touch(stream);
  resume(stream);
}

void Mux::State::on_credit(Stream& stream) {
  const std::uint64_t limit = stream.send_limit + frame.value;
  if (limit > stream.sent + std::numeric_limits<std::uint32_t>::max()) {
    fail(ErrorKind::protocol, fmt::format("stream {}: window update overflows", stream.id));
    return;
  }
  stream.send_limit = limit;
  if (frame.value > 0) touch(stream);
  resume(stream);
}

void Mux::State::on_session_frame() {
  switch (frame.type) {
    case Frame::Type::ping:
      if (pongs.size() == kMaxPongs) pongs.erase(pongs.begin());  // a flood: the latest are answered
      pongs.push_back(frame.value);
      break;
    case Frame::Type::pong:
      if (ping_pending && frame.value == ping_value) {
        ping_pending = false;
        ping_rtt = now - ping_sent;
      }
      break;
    case Frame::Type::leave:
      if (frame.value != yamux::kNormal) {
        fail(ErrorKind::protocol, fmt::format("peer went away with reason {} ({})", frame.value,
                                              frame.value == yamux::kProtocolError   ? "protocol error"
                                              : frame.value == yamux::kInternalError ? "internal error"
                                                                                     : "unknown"));
        break;
      }
      peer_left = true;
      check_left();
      break;
    default: break;
  }
}

}  // namespace qtrp::mux
