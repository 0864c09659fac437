// Frames out: first what streams and session owe, then the streams' turns, each asked for exactly what can be sent.
#include <algorithm>

#include "mux/state.h"

namespace qtrp::mux {

using session::Produced;

namespace {

constexpr std::size_t kKeystroke = 2048;         // bytes of a stream that may go in front of what waits
constexpr std::uint32_t kLeastPeerFrame = 4096;  // a peer that says less in its preface gets this much all the same

}  // namespace

bool Mux::State::write_session_frames(MutableBytes out, std::size_t& used) {
  const auto write = [&](const Frame& owed) {
    if (out.size() - used < codec.least_header()) return false;
    used += codec.encode(owed, out.data() + used);
    ++counters.frames_out;
    return true;
  };
  if (owe_leave) {
    if (!write({.type = Frame::Type::leave, .value = leave_reason})) return false;
    owe_leave = false;
  }
  while (!pongs.empty()) {
    if (!write({.type = Frame::Type::pong, .value = pongs.back()})) return false;
    pongs.pop_back();
  }
  if (owe_ping) {
    if (!write({.type = Frame::Type::ping, .value = ping_value + 1})) return false;
    owe_ping = false;
    ++ping_value;
    ping_pending = true;
    ping_sent = now;
  }
  if (owe_nop) {
    if (!write({.type = Frame::Type::nop})) return false;
    owe_nop = false;
  }
  return true;
}

bool Mux::State::write_owed(Stream& stream, MutableBytes out, std::size_t& used) {
  const auto write = [&](Owed what, const Frame& owed) {
    if (out.size() - used < kMaxHeader) return false;
    used += codec.encode(owed, out.data() + used);
    ++counters.frames_out;
    stream.owed = static_cast<std::uint8_t>(stream.owed & ~what);
    return true;
  };
  const bool is_yamux = options.protocol == Protocol::yamux;
  // yamux opens and accepts with a window update, which announces what is more than its 256 KiB.
  if ((stream.owed & (kOweOpen | kOweAccept | kOweWindow)) != 0 && !stream.gone && out.size() - used >= kMaxHeader) {
    const bool opening = (stream.owed & kOweOpen) != 0;
    if (!is_yamux && opening && !write(kOweOpen, {.open = true, .stream = stream.id})) return false;
    if (is_yamux || (stream.owed & kOweWindow) != 0) {
      if (out.size() - used < kMaxHeader) return false;
      const std::uint64_t limit = flow.next_limit(stream, table.size());
      Frame update{.stream = stream.id};
      if (is_yamux) {
        update.type = Frame::Type::credit;
        update.open = opening;
        update.accept = (stream.owed & kOweAccept) != 0;
        update.value = static_cast<std::uint32_t>(limit - stream.limit);
      } else {
        update.type = Frame::Type::limit;
        update.value = static_cast<std::uint32_t>(stream.moved);
        update.second = static_cast<std::uint32_t>(limit - stream.moved);
      }
      const bool needed = limit != stream.limit || update.open || update.accept;
      flow.granted(stream, limit);
      if (needed) write(kOweWindow, update);
    }
    stream.owed = static_cast<std::uint8_t>(stream.owed & ~(kOweOpen | kOweAccept | kOweWindow));
  }
  if ((stream.owed & kOweYield) != 0) {
    const auto kept = static_cast<std::uint32_t>(std::min<std::uint64_t>(stream.send_window(), peer_initial()));
    if (!write(kOweYield, {.type = Frame::Type::yield, .stream = stream.id, .value = kept})) return false;
    stream.send_limit = stream.sent + kept;
  }
  if ((stream.owed & kOweFinish) != 0) {
    const auto type = is_yamux ? Frame::Type::credit : Frame::Type::none;
    if (!write(kOweFinish, {.type = type, .finish = true, .stream = stream.id})) return false;
    if (!stream.gone) {
      stream.finish_sent = true;
      release_if_done(stream);
    }
  }
  if ((stream.owed & kOweReset) != 0) {
    const auto type = is_yamux ? Frame::Type::credit : Frame::Type::none;
    const auto code = extended ? static_cast<std::uint32_t>(stream.code) : 0;
    if (!write(kOweReset, {.type = type, .reset = true, .stream = stream.id, .value = code})) return false;
  }
  return stream.owed == 0;
}

std::size_t Mux::State::write_control(MutableBytes out) {
  std::size_t used = 0;
  if (!write_session_frames(out, used) || closed) return used;
  while (control.head() != nullptr && write_owed(*control.head(), out, used)) {
    Stream& stream = *control.pop_front();
    stream.in_control = false;
    if (stream.gone) {
      --gone_in_control;
      recycle(stream);
    }
  }
  return used;
}

Frame Mux::State::data_frame(const Stream& stream, std::size_t n) const {
  return {.type = Frame::Type::data, .stream = stream.id, .length = static_cast<std::uint32_t>(n)};
}

std::uint32_t Mux::State::peer_frame() const {
  if (extended) return std::max(peer.max_frame, kLeastPeerFrame);
  return smux::kMaxBody;
}

std::uint32_t Mux::State::peer_initial() const {
  if (options.protocol == Protocol::yamux) return yamux::kInitialWindow;
  return extended && peer.initial_window != 0 ? peer.initial_window : smux::kInitialWindow;
}

std::size_t Mux::State::most_payload(const Stream& stream, std::size_t frame_limit) const {
  return static_cast<std::size_t>(std::min<std::uint64_t>(
      std::min<std::uint64_t>(stream.send_window(), static_cast<std::uint32_t>(stream.deficit)), frame_limit));
}

void Mux::State::sent(Stream& stream, std::size_t n) {
  stream.sent += n;
  scheduler.charge(stream, n);
  ++counters.frames_out;
  counters.bytes_out += n;
  touch(stream);
}

void Mux::State::settle(Stream& stream, Produced::Status status, session::ResetCode code) {
  switch (status) {
    case Produced::Status::more:
      if (stream.send_window() == 0) scheduler.remove(stream);
      break;
    case Produced::Status::would_block:
      stream.ready = false;
      scheduler.remove(stream);
      if (extended && options.protocol != Protocol::smux1 && !stream.yielding &&
          stream.send_window() / 2 > peer_initial()) {
        stream.yielding = true;
        idle_credit.push_back(stream.id);
      }
      break;
    case Produced::Status::end:
      stream.ready = false;
      stream.source = nullptr;
      scheduler.remove(stream);
      break;
    case Produced::Status::error: abort(stream, code); break;
  }
}

std::size_t Mux::State::produce(MutableBytes out, bool fresh_only) {
  std::size_t used = write_control(out);
  if (closed || owes()) return used;  // what is owed goes first
  const std::size_t frame_limit = std::min<std::size_t>(options.max_frame, peer_frame());
  while (Stream* stream = scheduler.pick(fresh_only)) {
    std::size_t most = most_payload(*stream, frame_limit);
    const std::size_t header = codec.data_header(std::min(most, out.size() - used));
    if (out.size() - used <= header) break;
    most = std::min(most, out.size() - used - header);
    if (fresh_only) most = std::min(most, kKeystroke);
    std::byte* const at = out.data() + used;
    const Produced produced = stream->source->produce({at + header, most});
    const bool end = produced.status == Produced::Status::end;
    // yamux could carry the end on the data frame, but hashicorp/yamux acts on a frame's flags before it has read its
    // body: a reader that waits there sees the end and misses the last bytes.
    if (produced.status != Produced::Status::error && produced.n > 0) {
      codec.encode(data_frame(*stream, produced.n), at, header == smux::kLargeHeader);
      used += header + produced.n;
      sent(*stream, produced.n);
    }
    auto status = produced.status;
    if (status == Produced::Status::more && produced.n == 0) status = Produced::Status::would_block;
    settle(*stream, status, produced.code);
    if (fresh_only && status == Produced::Status::more) scheduler.defer(*stream);
    if (end) owe(*stream, kOweFinish);
    if (control.head() != nullptr) {  // a FIN right behind its data, a reset
      used += write_control(out.subspan(used));
      if (closed || owes()) break;
    }
  }
  return used;
}

std::size_t Mux::produce_owed(MutableBytes out, TimePoint now) {
  State& state = *state_;
  state.now = now;
  const std::size_t used = state.write_control(out);
  if (used > 0) state.spoke = now;
  return used;
}

std::optional<Mux::Bulk> Mux::next_bulk(std::size_t least, TimePoint now) {
  State& state = *state_;
  state.now = now;
  if (state.closed || state.owes()) return std::nullopt;
  Stream* const stream = state.scheduler.pick();
  if (stream == nullptr) return std::nullopt;
  const std::size_t most = state.most_payload(*stream, state.peer_frame());
  if (most < least || most == 0 || stream->source->splice_fd() < 0) return std::nullopt;
  return Bulk{.stream = stream->id, .source = stream->source, .max = most};
}

std::size_t Mux::large_header() const {
  return state_->options.protocol == Protocol::yamux || !state_->extended ? state_->codec.least_header()
                                                                          : smux::kLargeHeader;
}

std::size_t Mux::bulk_moved(const Bulk& bulk, const Produced& result, MutableBytes header, TimePoint now) {
  State& state = *state_;
  state.now = now;
  Stream* const stream = state.table.find(static_cast<std::uint32_t>(bulk.stream));
  if (state.closed || stream == nullptr) return 0;
  const bool end = result.status == Produced::Status::end;
  std::size_t size = 0;
  if (result.status != Produced::Status::error && result.n > 0) {
    size = state.codec.encode(state.data_frame(*stream, result.n), header.data(), state.extended);
    state.sent(*stream, result.n);
    state.spoke = now;
  }
  auto status = result.status;
  if (status == Produced::Status::more && result.n == 0) status = Produced::Status::would_block;
  state.settle(*stream, status, result.code);
  if (end) state.owe(*stream, kOweFinish);
  return size;
}

}  // namespace qtrp::mux
