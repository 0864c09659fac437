// Zero copy for crypto none: bulk payload moves between sockets through a pipe and never enters user space; only frame
// headers do. Small payload is copied, which is cheaper there. Part of TunnelSession.
#include <fcntl.h>

#include <algorithm>
#include <cerrno>

#include "qtrp/tunnel/tunnel_session.h"

namespace qtrp::tunnel {
namespace {

// Bytes from which on a frame is worth its three system calls (docs/performance.md).
constexpr std::size_t kLeast = 32 << 10;

}  // namespace

// Sends one frame's payload of the stream whose turn it is, if it can be spliced: its header becomes what must leave
// next, the pipe follows.
bool TunnelSession::fill_bulk() {
  if (!out_) out_ = loop_.pool().large();
  if (const std::size_t owed = mux_.produce_owed({out_.data(), out_.capacity()}, loop_.now()); owed > 0) {
    wire_ = Bytes(out_.data(), owed);
    return true;
  }
  const auto bulk = mux_.next_bulk(kLeast, loop_.now());
  if (!bulk) return false;
  if (!send_pipe_) send_pipe_ = loop_.pipes().take();
  if (!send_pipe_) return false;
  std::int64_t n;
  do {
    n = ::splice(bulk->source->splice_fd(), nullptr, send_pipe_->write_end(), nullptr,
                 std::min(bulk->max, send_pipe_->capacity()), SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
  } while (n < 0 && errno == EINTR);
  if (n < 0) n = -errno;
  const std::size_t header =
      mux_.bulk_moved(*bulk, bulk->source->spliced(n), {out_.data(), mux::Mux::kMaxHeader}, loop_.now());
  if (n > 0) send_pipe_->filled = static_cast<std::size_t>(n);
  wire_ = Bytes(out_.data(), header);
  return true;  // also when there was nothing: the stream has lost its turn
}

// Moves what the pipe holds on to the tunnel's socket, behind its header. False when the socket blocks or broke.
io::IoResult TunnelSession::write_pipe() {
  io::IoResult r;
  while (send_pipe_ && send_pipe_->filled > 0) {
    r = socket_.splice_from(send_pipe_->read_end(), send_pipe_->filled, false);
    if (!r.ok()) return r;
    send_pipe_->filled -= r.n;
    wire_out_ += r.n;
  }
  return r;
}

// If what comes next on the wire is the rest of a large body whose socket takes it: moves it there. `progress` says
// whether anything came.
TunnelSession::Spliced TunnelSession::splice_body() {
  const auto ahead = mux_.body_ahead();
  if (!ahead || ahead->remaining < kLeast || !ahead->owner) return Spliced::not_now;
  auto& owner = *static_cast<session::StreamOwner*>(ahead->owner);
  const int sink = owner.sink_fd();
  if (sink < 0) return Spliced::not_now;
  if (!receive_pipe_) receive_pipe_ = loop_.pipes().take();
  if (!receive_pipe_) return Spliced::not_now;
  io::Pipe& pipe = *receive_pipe_;
  const io::IoResult r = socket_.splice_to(pipe.write_end(), std::min(ahead->remaining, pipe.capacity()));
  if (r.status == io::IoResult::Status::would_block) return Spliced::drained;
  if (!r.ok()) return Spliced::not_now;  // an ordinary read tells what happened
  heard_ = true;
  wire_in_ += r.n;
  pipe.filled = r.n;
  mux_.body_bypassed(r.n, loop_.now());
  while (pipe.filled > 0) {
    const ssize_t n = ::splice(pipe.read_end(), nullptr, sink, nullptr, pipe.filled, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    pipe.filled -= static_cast<std::size_t>(n);
  }
  owner.on_spliced(r.n - pipe.filled);
  // What the far side would not take, or the discovery that it is broken, goes the ordinary way.
  while (pipe.filled > 0) {
    const MutableBytes rest = pipe.drain(loop_.scratch().first(std::min(pipe.filled, io::Loop::kScratch)));
    if (rest.empty()) break;
    owner.on_body(rest);
  }
  return Spliced::some;
}

}  // namespace qtrp::tunnel
