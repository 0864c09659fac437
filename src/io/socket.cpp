#include "qtrp/io/socket.h"

#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

namespace qtrp::io {

Fd& Fd::operator=(Fd&& other) noexcept {
  if (this != &other) {
    reset();
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

void Fd::reset() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

Socket::Socket(Loop& loop, Fd fd, SocketListener& listener)
    : loop_(loop), listener_(listener), fd_(std::move(fd)), again_([this] { on_ready({}); }) {
  const int on = 1;
  ::setsockopt(fd_.get(), SOL_SOCKET, SO_OOBINLINE, &on, sizeof on);
  watch_ = loop_.watch(fd_.get(), *this);
}

Socket::~Socket() {
  close();
}

IoResult Socket::finish(ssize_t n, std::size_t asked, bool reading) {
  if (n < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
      (reading ? readable_ : writable_) = false;
      return {0, IoResult::Status::would_block, 0};
    }
    return {0, IoResult::Status::error, errno};
  }
  const auto moved = static_cast<std::size_t>(n);
  if (reading) {
    // Urgent data interrupts the Asio engine's watch for errors; once it was read, the watch can go on.
    if (urgent_) watch_->arm_read();
    if (moved == 0 && asked > 0) return {0, IoResult::Status::end, 0};
    // Less than asked for means drained, unless the peer's FIN is known to wait behind it (epoll(7), question 9), or
    // urgent data, at which every read stops.
    if (moved < asked && !peer_closed_ && !urgent_) readable_ = false;
  } else if (moved < asked) {
    writable_ = false;
  }
  return {moved, IoResult::Status::ok, 0};
}

IoResult Socket::read(MutableBytes into) {
  ssize_t n;
  do {
    n = ::recv(fd_.get(), into.data(), into.size(), 0);
  } while (n < 0 && errno == EINTR);
  return finish(n, into.size(), true);
}

IoResult Socket::write(Bytes from, bool more_follows) {
  ssize_t n;
  do {
    n = ::send(fd_.get(), from.data(), from.size(), MSG_NOSIGNAL | (more_follows ? MSG_MORE : 0));
  } while (n < 0 && errno == EINTR);
  return finish(n, from.size(), false);
}

IoResult Socket::writev(std::span<const iovec> from) {
  std::size_t total = 0;
  for (const iovec& piece : from) total += piece.iov_len;
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(from.data());
  message.msg_iovlen = from.size();
  ssize_t n;
  do {
    n = ::sendmsg(fd_.get(), &message, MSG_NOSIGNAL);
  } while (n < 0 && errno == EINTR);
  return finish(n, total, false);
}

IoResult Socket::splice_to(int pipe_write_end, std::size_t max) {
  ssize_t n;
  do {
    n = ::splice(fd_.get(), nullptr, pipe_write_end, nullptr, max, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
  } while (n < 0 && errno == EINTR);
  if (n > 0)
    return {static_cast<std::size_t>(n), IoResult::Status::ok, 0};  // the pipe may be what limited it: still readable
  if (n < 0 && errno == EAGAIN && at_urgent_data()) return {0, IoResult::Status::error, EAGAIN};
  return finish(n, max, true);
}

IoResult Socket::splice_from(int pipe_read_end, std::size_t max, bool more_follows) {
  ssize_t n;
  do {
    n = ::splice(pipe_read_end, nullptr, fd_.get(), nullptr, max,
                 SPLICE_F_MOVE | SPLICE_F_NONBLOCK | (more_follows ? static_cast<unsigned>(SPLICE_F_MORE) : 0U));
  } while (n < 0 && errno == EINTR);
  return finish(n, max, false);
}

// splice() does not pass urgent data, and says that it would block.
bool Socket::at_urgent_data() const {
  int at_mark = 0;
  return urgent_ && ::ioctl(fd_.get(), SIOCATMARK, &at_mark) == 0 && at_mark != 0;
}

bool Socket::drained() {
  readable_ = at_urgent_data();
  return !readable_;
}

bool Socket::wants_more() {
  pollfd asked{.fd = fd_.get(), .events = POLLOUT, .revents = 0};
  // A poll that says no also asks the kernel for the edge that await_writable() waits for.
  if (::poll(&asked, 1, 0) == 0) writable_ = false;
  return writable_;
}

void Socket::await_readable() {
  want_read_ = true;
  if (readable_ || broken_) {
    loop_.at_turn_end(again_);
  } else {
    watch_->arm_read();
  }
}

void Socket::await_writable() {
  want_write_ = true;
  if (writable_ || broken_) {
    loop_.at_turn_end(again_);
  } else {
    watch_->arm_write();
  }
}

void Socket::on_ready(Readiness readiness) {
  if (readiness.error) broken_ = true;
  if (readiness.peer_closed) peer_closed_ = true;
  if (readiness.urgent) urgent_ = true;
  if (readiness.readable || readiness.peer_closed || broken_) readable_ = true;
  if (readiness.writable || broken_) writable_ = true;
  if (!fd_) return;
  bool told = false;
  if (readable_ && want_read_) {
    want_read_ = false;
    told = true;
    listener_.on_readable();
    if (!fd_) return;
  }
  if (writable_ && want_write_) {
    want_write_ = false;
    told = true;
    listener_.on_writable();
    if (!fd_) return;
  }
  if (broken_ && !told && !broken_told_) {
    broken_told_ = true;
    listener_.on_broken();
  }
}

void Socket::shutdown_write() {
  ::shutdown(fd_.get(), SHUT_WR);
}

void Socket::abort() {
  if (!fd_) return;
  const linger now{1, 0};
  ::setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
  close();
}

void Socket::close() {
  watch_.reset();
  fd_.reset();
  want_read_ = want_write_ = false;
}

Endpoint Socket::peer() const {
  Endpoint endpoint;
  socklen_t size = Endpoint::capacity();
  if (::getpeername(fd_.get(), endpoint.data(), &size) == 0) endpoint.set_size(size);
  return endpoint;
}

Endpoint Socket::local() const {
  Endpoint endpoint;
  socklen_t size = Endpoint::capacity();
  if (::getsockname(fd_.get(), endpoint.data(), &size) == 0) endpoint.set_size(size);
  return endpoint;
}

void set_no_delay(int fd) {
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

void set_keep_alive(int fd, int idle_seconds, int interval_seconds, int count) {
  const int on = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_seconds, sizeof idle_seconds);
  ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_seconds, sizeof interval_seconds);
  ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
}

void set_loopback_congestion(int fd, const Endpoint& at) {
  if (!at.is_loopback()) return;
  static constexpr std::string_view kUnpaced = "cubic";
  static constexpr std::string_view kAlways = "reno";  // in every kernel and open to every user
  if (::setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, kUnpaced.data(), kUnpaced.size()) != 0)
    ::setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, kAlways.data(), kAlways.size());
}

}  // namespace qtrp::io
