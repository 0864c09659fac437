#include "qtrp/relay/relay.h"

#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace qtrp::relay {

namespace {

constexpr std::size_t kBulk = 32 << 10;  // bytes at once from which on moving pages beats copying (docs/performance.md)

}  // namespace

using session::Produced;
using session::ResetCode;

std::string_view to_string(End end) {
  switch (end) {
    case End::finished: return "finished";
    case End::socket_broke: return "connection reset";
    case End::stream_reset: return "reset by the other side";
    case End::session_lost: return "tunnel lost";
  }
  return "?";
}

stats::EndReason end_reason(End end, session::ResetCode code, Side side) {
  using stats::EndReason;
  const bool server = side == Side::server;
  switch (end) {
    case End::finished: return EndReason::closed;
    case End::socket_broke: return server ? EndReason::user_reset : EndReason::service_reset;
    case End::session_lost: return EndReason::tunnel_lost;
    case End::stream_reset: break;
  }
  switch (code) {
    case ResetCode::unspecified:
    case ResetCode::cancelled: return server ? EndReason::service_reset : EndReason::user_reset;
    case ResetCode::refused: return EndReason::service_refused;
    case ResetCode::unreachable: return EndReason::service_unreachable;
    case ResetCode::limit: return EndReason::limit;
    case ResetCode::shutting_down: return EndReason::shutdown;
    case ResetCode::session_lost: return EndReason::tunnel_lost;
    case ResetCode::unknown_proxy:
    case ResetCode::flow_control:
    case ResetCode::protocol: break;
  }
  return EndReason::protocol_error;
}

Relay::~Relay() = default;

void Relay::set_greeting(Bytes greeting) {
  queue_.append(greeting, loop_.pool());
  greeting_ = static_cast<std::uint16_t>(greeting.size());
}

void Relay::connect(io::Fd socket) {
  io::set_no_delay(socket.get());
  io::set_keep_alive(socket.get(), 60, 15, 4);
  io::SocketListener& self = *this;
  socket_.emplace(loop_, std::move(socket), self);
  on_writable();  // what came before the socket, and the end behind it
  if (!over_) session_.ready(stream_);
}

Produced Relay::produce(MutableBytes into) {
  if (over_) return {0, Produced::Status::would_block, {}};
  std::size_t n = 0;
  if (!prefix_.empty()) {
    n = std::min(prefix_.size(), into.size());
    std::memcpy(into.data(), prefix_.data(), n);
    if (n < prefix_.size()) {
      prefix_.erase(prefix_.begin(), prefix_.begin() + static_cast<std::ptrdiff_t>(n));
      return {n, Produced::Status::more, {}};
    }
    std::vector<std::byte>().swap(prefix_);
    if (n == into.size()) return {n, Produced::Status::more, {}};
  }
  if (!socket_ || !socket_->open() || socket_ended_) return {n, Produced::Status::would_block, {}};
  const MutableBytes room = into.subspan(n);
  const io::IoResult r = socket_->read(room);
  switch (r.status) {
    case io::IoResult::Status::ok: {
      count_to_stream(r.n);
      bulk_ = r.n == room.size() && r.n >= kBulk;
      if (r.n == room.size()) return {n + r.n, Produced::Status::more, {}};
      socket_->await_readable();
      return {n + r.n, Produced::Status::would_block, {}};
    }
    case io::IoResult::Status::would_block: socket_->await_readable(); return {n, Produced::Status::would_block, {}};
    case io::IoResult::Status::end:
      socket_ended_ = true;
      ended_one_way();
      return {n, Produced::Status::end, {}};
    case io::IoResult::Status::error: break;
  }
  // The session resets the stream on this answer; here only the socket is left to close.
  finish(End::socket_broke);
  return {0, Produced::Status::error, ResetCode::cancelled};
}

int Relay::splice_fd() {
  return bulk_ && !over_ && !socket_ended_ && prefix_.empty() && socket_ && socket_->open() ? socket_->fd() : -1;
}

Produced Relay::spliced(std::int64_t n) {
  if (over_) return {0, Produced::Status::would_block, {}};
  if (n > 0) {
    const auto moved = static_cast<std::size_t>(n);
    count_to_stream(moved);
    bulk_ = moved >= kBulk;
    return {moved, Produced::Status::more, {}};
  }
  if (n == -EAGAIN) {
    if (!socket_->drained()) bulk_ = false;
    socket_->await_readable();
    return {0, Produced::Status::would_block, {}};
  }
  if (n == 0) {
    socket_ended_ = true;
    ended_one_way();
    return {0, Produced::Status::end, {}};
  }
  finish(End::socket_broke);
  return {0, Produced::Status::error, ResetCode::cancelled};
}

int Relay::sink_fd() {
  return !over_ && socket_ && queue_.empty() && !stream_ended_ ? socket_->fd() : -1;
}

void Relay::on_spliced(std::size_t n) {
  if (!over_) count_to_socket(n);
}

void Relay::add(std::uint64_t& total, std::size_t n) {
  const std::uint64_t before = std::exchange(total, total + n);
  if (meters_.moved_much && before / Meters::kMuch != total / Meters::kMuch)
    meters_.moved_much->store(loop_.now(), std::memory_order_relaxed);
}

void Relay::count_to_stream(std::size_t n) {
  add(to_stream_, n);
  for (stats::Counters* c : {meters_.loop, meters_.proxy}) {
    if (c) side_ == Side::server ? c->add_in(n) : c->add_out(n);
  }
}

void Relay::count_to_socket(std::size_t n) {
  add(to_socket_, n);
  for (stats::Counters* c : {meters_.loop, meters_.proxy}) {
    if (c) side_ == Side::server ? c->add_out(n) : c->add_in(n);
  }
  session_.moved(stream_, n);
}

void Relay::on_readable() {
  if (!over_) session_.ready(stream_);
}

// Writes what the socket takes from the front of `bytes`; false if the socket failed (and the relay is over).
bool Relay::write_out(Bytes& bytes) {
  const io::IoResult r = socket_->write(bytes);
  if (r.status == io::IoResult::Status::error) {
    socket_failed();
    return false;
  }
  if (r.ok()) {
    bytes = bytes.subspan(r.n);
    count_to_socket(r.n);
  }
  return true;
}

void Relay::on_body(Bytes body) {
  if (over_) return;
  if (socket_ && queue_.empty() && !write_out(body)) return;
  if (body.empty()) return;
  queue_.append(body, loop_.pool());
  if (socket_) socket_->await_writable();
}

void Relay::on_writable() {
  while (!over_ && !queue_.empty()) {
    iovec pieces[16];
    const std::size_t count = queue_.gather(pieces, 16);
    const io::IoResult r = socket_->writev({pieces, count});
    if (r.status == io::IoResult::Status::error) return socket_failed();
    if (r.status == io::IoResult::Status::would_block) return socket_->await_writable();
    queue_.pop(r.n);
    const auto greeted = static_cast<std::uint16_t>(std::min<std::size_t>(greeting_, r.n));
    greeting_ = static_cast<std::uint16_t>(greeting_ - greeted);
    if (r.n > greeted) count_to_socket(r.n - greeted);
  }
  if (!over_ && stream_ended_ && !shut_) {
    shut_ = true;
    socket_->shutdown_write();
    ended_one_way();
  }
}

void Relay::on_finished() {
  if (over_) return;
  stream_ended_ = true;
  if (socket_) on_writable();
}

void Relay::ended_one_way() {
  if (socket_ended_ && shut_) finish(End::finished);
}

void Relay::on_reset(ResetCode code) {
  finish(End::stream_reset, code);
}

void Relay::on_broken() {
  socket_failed();
}

void Relay::socket_failed() {
  if (over_) return;
  session_.reset(stream_, ResetCode::cancelled);
  finish(End::socket_broke);
}

void Relay::abort(ResetCode code) {
  if (over_) return;
  session_.reset(stream_, code);
  finish(End::stream_reset, code);
}

void Relay::session_lost() {
  finish(End::session_lost, ResetCode::session_lost);
}

void Relay::finish(End end, ResetCode code) {
  if (over_) return;
  over_ = true;
  queue_.clear();
  if (socket_) {
    if (end == End::finished) {
      socket_->close();
    } else {
      socket_->abort();
    }
  }
  on_end(end, code);
}

}  // namespace qtrp::relay
