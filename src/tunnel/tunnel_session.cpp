#include "qtrp/tunnel/tunnel_session.h"

#include <sys/socket.h>

#include <algorithm>

#include "qtrp/base/log.h"

namespace qtrp::tunnel {
namespace {

using session::Event;
using session::EventKind;

constexpr std::size_t kReadsPerTurn = 4;  // then others have their turn
constexpr unsigned kBulkReads = 4;        // short reads in hope of another large body before the long ones come back
constexpr std::size_t kLeastBatch =
    16 << 10;  // bytes framed at a time on a slow link: what a keystroke may have to wait behind
constexpr std::size_t kBulkWrite =
    2048;  // bytes from which on a write is worth asking whether there is room for another
constexpr std::size_t kMostBatch = io::BufferPool::kLarge;
constexpr auto kLinger = std::chrono::seconds(1);  // for the last bytes after close()

mux::Features features_of(const protocol::Preface& preface) {
  return {(preface.flags & protocol::Preface::extensions) != 0, preface.max_frame, preface.initial_window};
}

protocol::Preface preface_for(const Options& options) {
  protocol::Preface preface;
  preface.mux = static_cast<std::uint8_t>(options.mux);
  preface.flags = protocol::Preface::extensions;
  preface.max_frame = options.max_frame;
  preface.initial_window = 256 << 10;
  return preface;
}

mux::Options mux_options(const Options& options) {
  mux::Options o;
  o.protocol = options.mux;
  o.client = options.client;
  o.ours = features_of(preface_for(options));
  o.max_stream_window = options.max_stream_window;
  o.session_buffer = options.session_buffer;
  o.max_streams = options.max_streams;
  // Between our own ends the control stream's pings tell whether the peer lives.
  o.keepalive_interval = Duration::zero();
  o.keepalive_timeout = Duration::zero();
  if (!options.client) {  // until authenticated(): the control stream and no more
    o.max_streams = 1;
    o.session_buffer = 64 << 10;
  }
  return o;
}

}  // namespace

TunnelSession::TunnelSession(io::Loop& loop, io::Fd socket, std::unique_ptr<crypto::RecordLayer> layer,
                             const Options& options, session::SessionListener& listener)
    : loop_(loop),
      listener_(listener),
      socket_(loop, std::move(socket), *this),
      layer_(std::move(layer)),
      options_(options),
      mux_(mux_options(options), loop.now()),
      peer_(socket_.peer().to_string()),
      flush_([this] { flush(); }),
      tell_([this] { listener_.on_events(); }),
      mux_timer_(loop),
      close_timer_(loop),
      pace_timer_(loop),
      batch_(64 << 10),
      our_preface_(protocol::encode(preface_for(options))) {
  io::set_no_delay(socket_.fd());
  if (options_.tcp) pacing_.emplace(*options_.tcp).apply(socket_.fd(), loop_.now());
  if (auto started = layer_->start(); !started) {
    fail_session(started.error());
    loop_.at_turn_end(tell_);
    return;
  }
  say_established();
  socket_.await_readable();
  want_flush();
}

TunnelSession::~TunnelSession() = default;

Result<session::StreamId> TunnelSession::open(session::Source& source, void* owner) {
  if (closed_ || closing_) return fail(ErrorKind::closed, "the tunnel is closed");
  auto stream = mux_.open(source, owner);
  if (stream) want_flush();
  return stream;
}

void TunnelSession::attach(session::StreamId stream, session::Source& source, void* owner) {
  mux_.attach(stream, source, owner);
}

void TunnelSession::ready(session::StreamId stream) {
  mux_.ready(stream);
  want_flush();
}

void TunnelSession::reset(session::StreamId stream, session::ResetCode code) {
  mux_.reset(stream, code);
  want_flush();
}

void TunnelSession::moved(session::StreamId stream, std::size_t n) {
  mux_.moved(stream, n);
  if (mux_.wants_write()) want_flush();
  if (input_paused_ && mux_.wants_read()) {
    input_paused_ = false;
    socket_.await_readable();
  }
}

Bytes TunnelSession::preface(bool client_side) const {
  return client_side == options_.client ? Bytes(our_preface_) : Bytes(their_preface_);
}

// --- receiving ---

void TunnelSession::on_readable() {
  for (std::size_t i = 0; i < kReadsPerTurn; ++i) {
    if (!in_) {
      in_ = loop_.pool().large();
      std::ranges::copy(unfinished_, in_.data());
      in_.size = unfinished_.size();
      std::vector<std::byte>().swap(unfinished_);
    }
    if (in_.begin > 0) {  // what is left of a record moves to the front
      std::memmove(in_.data(), in_.filled().data(), in_.size);
      in_.begin = 0;
    }
    if (splices() && in_.size == 0 && !closing_) {
      const Spliced spliced = splice_body();
      if (spliced == Spliced::some) {
        bulk_ahead_ = kBulkReads;
        after_input();
        if (closed_ || !socket_.open()) return;
        continue;
      }
      if (spliced == Spliced::drained) break;
    }
    MutableBytes space = in_.space();
    if (bulk_ahead_ > 0) {
      --bulk_ahead_;
      // No further than the next header, so that its body can be spliced as well.
      const auto ahead = mux_.body_ahead();
      space = space.first(std::min(space.size(), mux_.large_header() + (ahead ? ahead->remaining : 0)));
    }
    const io::IoResult r = socket_.read(space);
    if (r.status == io::IoResult::Status::would_block) break;
    if (!r.ok()) {
      if (closing_) return wind_down();
      fail_session(r.status == io::IoResult::Status::end ? Error{ErrorKind::closed, "the peer closed the connection"}
                                                         : fail_errno("the connection broke", r.error).error());
      after_input();
      return;
    }
    heard_ = true;
    wire_in_ += r.n;
    const bool drained = r.n < space.size();
    // A buffer filled to the brim is bulk: the next read stops at a header again, else reads as long as frames would
    // keep straddling them and no body would ever be met at its start.
    if (!drained && space.size() >= mux::Mux::kMaxHeader + kLeastBatch) bulk_ahead_ = kBulkReads;
    in_.size += r.n;
    if (closing_) {
      in_.size = 0;  // nobody listens any more
      continue;
    }
    listener_.on_events();
    after_input();
    if (closed_ || !socket_.open()) return;
    if (!mux_.wants_read()) {
      input_paused_ = true;
      break;
    }
    if (drained) break;
  }
  if (receive_pipe_ && receive_pipe_->filled == 0 && !mux_.body_ahead()) receive_pipe_.reset();
  if (!authenticated_ && in_.size > 0) {
    // A stranger who stops in the middle of a record costs what he sent, not a whole buffer.
    unfinished_.assign(in_.filled().begin(), in_.filled().end());
    in_.size = 0;
  }
  if (in_.size == 0) in_.release();
  if (!input_paused_) socket_.await_readable();
}

void TunnelSession::after_input() {
  if (closed_ && !closed_told_) loop_.at_turn_end(tell_);
  if (!closed_ && (mux_.wants_write() || !layer_->output().empty())) want_flush();
}

std::optional<Event> TunnelSession::next_event() {
  while (!closed_) {
    if (!events_.empty()) {
      const Event event = events_.front();
      events_.pop_front();
      return event;
    }
    if (auto event = mux_.next_event()) {
      if (event->kind != EventKind::closed) return event;
      fail_session(event->error ? *event->error : Error{ErrorKind::closed, "the peer said goodbye"});
      break;
    }
    if (!open_more()) break;
  }
  // After close() the last bytes leave first: the owner may destroy the session once it was told.
  if (!closed_ || closed_told_ || (closing_ && socket_.open())) return std::nullopt;
  closed_told_ = true;
  return Event{.kind = EventKind::closed, .error = &*closed_};
}

bool TunnelSession::open_more() {
  if (closed_ || closing_ || !in_ || in_.size == 0) return false;
  auto opened = layer_->open(in_.filled());
  if (!opened) {
    fail_session(opened.error());
    return true;
  }
  in_.begin += opened->consumed;
  in_.size -= opened->consumed;
  if (!layer_->output().empty() || (layer_->established() && !preface_sent_)) want_flush();
  say_established();
  Bytes plain = opened->plain;
  if (!plain.empty() && (preface_have_ == our_preface_.size() || take_preface(plain)) && !closed_)
    mux_.receive(plain, loop_.now());
  return opened->consumed > 0 || !opened->plain.empty();
}

bool TunnelSession::take_preface(Bytes& plain) {
  const std::size_t n = std::min(plain.size(), their_preface_.size() - preface_have_);
  std::memcpy(their_preface_.data() + preface_have_, plain.data(), n);
  preface_have_ += n;
  plain = plain.subspan(n);
  if (preface_have_ < their_preface_.size()) {
    // Random bytes are told from a slow peer by their first few.
    const std::size_t known = std::min<std::size_t>(preface_have_, 4);
    if (std::memcmp(their_preface_.data(), "QTRP", known) == 0) return false;
  }
  auto theirs = protocol::decode_preface(their_preface_);
  if (!theirs) {
    fail_session(theirs.error());
    return false;
  }
  if (auto matched = protocol::match(preface_for(options_), *theirs); !matched) {
    // The peer hears our preface, so that its log can name both settings as well. Nothing more: it may have closed
    // already, and that would hide the reason.
    if (!preface_sent_) flush();
    fail_session(matched.error());
    return false;
  }
  mux_.negotiate(features_of(*theirs));
  if (!options_.client) events_.push_back({.kind = EventKind::established});
  return true;
}

// A client speaks as soon as the record layer lets it, so that all it has to say leaves in one flight; a server when it
// has heard the preface.
void TunnelSession::say_established() {
  if (!options_.client || established_told_ || !layer_->established()) return;
  established_told_ = true;
  events_.push_back({.kind = EventKind::established});
  loop_.at_turn_end(tell_);
}

// --- sending ---

void TunnelSession::on_writable() {
  flush();
}

void TunnelSession::flush() {
  if (closed_ && !closing_) return;
  if (!socket_.open()) return;
  if (pacing_ && pacing_->sample_due(loop_.now())) look_at_socket();
  for (std::size_t rounds = 0;; ++rounds) {
    const bool bulk = wire_.size() >= kBulkWrite;
    if (!write_wire()) return;
    const bool keeps_short = !closing_ && pacing_ && pacing_->keeps_short();
    if (bulk && keeps_short && !socket_.wants_more()) socket_.await_writable();
    if (rounds == kReadsPerTurn) {  // others have their turn
      want_flush();
      return;
    }
    // While enough stands unsent no more of a download is put behind it; a keystroke is, since it would only wait here.
    const bool hold = keeps_short && hold_bulk();
    if (!fill_wire(hold || (keeps_short && !socket_.writable()))) break;
  }
  out_.release();
  send_pipe_.reset();
  if (closing_) {
    socket_.shutdown_write();
    return;
  }
  arm_mux_timer();
}

// What the socket tells steers the mux's windows, the send buffer and the pacer, whoever asked.
const pacing::TcpSample& TunnelSession::look_at_socket() {
  const pacing::TcpSample& sample = pacing_->sample(loop_.now());
  mux_.set_rtt(sample.rtt);
  return sample;
}

// Before BBR's pause, unless nobody but one download would notice it.
bool TunnelSession::hold_bulk() {
  if (!pacing_->pause_imminent(loop_.now()) || mux_.counters().streams <= 2) return false;
  pace_timer_.start(pacing::ProbeRtt::kClose, [this] { flush(); });
  return true;
}

bool TunnelSession::wait_for_pacer() {
  if (!pacing_ || !pacing_->paced_by_caller()) return false;
  const TimePoint now = Clock::now();
  const TimePoint next = pacing_->next_time(now);
  if (next <= now) return false;
  pace_timer_.start(next - now, [this] { flush(); });
  return true;
}

bool TunnelSession::write_wire() {
  while (!wire_.empty() || (send_pipe_ && send_pipe_->filled > 0)) {
    const bool from_pipe = wire_.empty();
    const io::IoResult r = from_pipe ? write_pipe() : socket_.write(wire_, send_pipe_ && send_pipe_->filled > 0);
    if (r.status == io::IoResult::Status::would_block) {
      batch_ = std::max(kLeastBatch, batch_ / 2);
      socket_.await_writable();
      return false;
    }
    if (!r.ok()) {
      if (closing_) {
        wind_down();
        return false;
      }
      fail_session(fail_errno("the connection broke", r.error).error());
      after_input();
      return false;
    }
    if (from_pipe) continue;
    wire_out_ += r.n;
    if (pacing_ && pacing_->paced_by_caller()) pacing_->sent(r.n, Clock::now());
    wire_ = wire_.subspan(r.n);
  }
  return true;
}

bool TunnelSession::fill_wire(bool fresh_only) {
  if (const Bytes output = layer_->output(); !output.empty()) {
    hello_.assign(output.begin(), output.end());
    layer_->clear_output();
    wire_ = hello_;
    return true;
  }
  if (!layer_->established() || closing_ || wait_for_pacer()) return false;
  const bool paced = pacing_ && pacing_->paced_by_caller();
  const bool short_queue = paced || (pacing_ && pacing_->keeps_short());
  if (preface_sent_ && splices() && !short_queue && fill_bulk()) return true;  // smaller pieces are copied
  if (!out_) out_ = loop_.pool().large();
  const crypto::Rooms rooms = layer_->rooms();
  const std::size_t overhead = rooms.head + rooms.tail;
  std::size_t most = batch_;
  if (short_queue) most = std::min(most, pacing_->batch());
  if (paced) most = std::min(most, std::size_t{pacing_->allowance(Clock::now())});
  const std::size_t limit = std::min(out_.capacity(), std::max(most, overhead + 64));
  std::size_t used = 0;
  while (used + overhead + mux::Mux::kMaxHeader < limit) {
    const std::size_t room = std::min(rooms.max_plain, limit - used - overhead);
    const MutableBytes plain(out_.data() + used + rooms.head, room);
    std::size_t n;
    if (!preface_sent_) {
      preface_sent_ = true;
      std::memcpy(plain.data(), our_preface_.data(), our_preface_.size());
      n = our_preface_.size();
    } else {
      n = mux_.produce(plain, loop_.now(), fresh_only);
    }
    if (n == 0) break;
    auto sealed = layer_->seal(MutableBytes(out_.data() + used, n + overhead));
    if (!sealed) {
      fail_session(sealed.error());
      after_input();
      return false;
    }
    if (sealed->data() != out_.data() + used) {  // in the layer's own memory: leaves before the next is sealed
      wire_ = *sealed;
      batch_ = std::min(kMostBatch, batch_ * 2);
      return true;
    }
    used += sealed->size();
  }
  if (used == 0) return false;
  wire_ = Bytes(out_.data(), used);
  batch_ = std::min(kMostBatch, batch_ * 2);
  return true;
}

void TunnelSession::arm_mux_timer() {
  const TimePoint next = mux_.next_deadline();
  if (next == TimePoint::max() || mux_timer_.armed()) return;
  mux_timer_.start(std::max(Duration::zero(), next - loop_.now()), [this] {
    mux_.tick(loop_.now());
    listener_.on_events();
    if (closed_) return;
    if (mux_.wants_write()) want_flush();
    arm_mux_timer();
  });
}

// --- ending ---

void TunnelSession::on_broken() {
  if (closing_) return wind_down();
  fail_session(Error{ErrorKind::system, "the connection was reset", ECONNRESET});
  after_input();
}

void TunnelSession::fail_session(Error error) {
  if (closed_) return;
  closed_ = std::move(error);
  mux_timer_.cancel();
  layer_->close();
  if (const Bytes output = layer_->output(); socket_.open() && wire_.empty() && !output.empty())
    socket_.write(output);  // the alert, if it fits
}

void TunnelSession::close(Error reason) {
  if (closed_ || closing_) return;
  flush();  // what the streams have queued
  if (closed_) return;
  closing_ = true;
  closed_ = std::move(reason);
  mux_timer_.cancel();
  layer_->close();
  close_timer_.start(kLinger, [this] { wind_down(); });
  want_flush();
  // The peer's last words are read and dropped: unread bytes would turn our close into a reset that destroys what we
  // sent.
  input_paused_ = false;
  socket_.await_readable();
}

void TunnelSession::wind_down() {
  close_timer_.cancel();
  socket_.close();
  if (!closed_told_) loop_.at_turn_end(tell_);
}

session::SessionStats TunnelSession::stats() {
  session::SessionStats s;
  s.wire_bytes_in = wire_in_;
  s.wire_bytes_out = wire_out_;
  s.streams = mux_.counters().streams;
  if (pacing_ && socket_.open()) {
    const pacing::TcpSample& sample = look_at_socket();
    s.rtt = sample.rtt;
    s.retransmitted_bytes = sample.retransmitted_bytes;
    s.lost_packets = sample.lost_packets;
    s.rate_bps = sample.rate_bps;
    s.target_bps = sample.target_bps;
    s.ack_rate = sample.ack_rate;
    s.congestion = pacing_->describe();
  }
  s.cipher = layer_->describe();
  s.transport = loop_.engine();
  s.mux = mux::to_string(options_.mux);
  return s;
}

void TunnelSession::set_target(std::uint64_t bits_per_second, bool alone) {
  if (!pacing_) return;
  pacing_->set_alone(alone);
  if (pacing_->target() == bits_per_second) return;
  pacing_->set_target(bits_per_second, Clock::now());
  want_flush();
}

void TunnelSession::authenticated() {
  authenticated_ = true;
  mux_.set_limits(options_.max_streams, options_.session_buffer);
}

}  // namespace qtrp::tunnel
