#include <fmt/format.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cerrno>

#include "qtrp/base/log.h"
#include "qtrp/io/socket.h"

namespace qtrp::io {
namespace {

constexpr int kAcceptsPerTurn = 64;
constexpr int kBacklog = 4096;  // the kernel caps it at net.core.somaxconn
constexpr auto kPause = std::chrono::milliseconds(100);

}  // namespace

Result<std::unique_ptr<Listener>> Listener::listen(Loop& loop, const Endpoint& at, OnAccept on_accept,
                                                   int receive_buffer) {
  const std::string what = fmt::format("listen on {}", at.to_string());
  Fd fd(::socket(at.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return fail_errno(what, errno);
  const int on = 1, off = 0;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  set_loopback_congestion(fd.get(), at);  // what it accepts inherits it
  // "::" serves IPv4 as well, whatever net.ipv6.bindv6only says.
  if (at.family() == AF_INET6) ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  if (receive_buffer > 0 &&
      ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &receive_buffer, sizeof receive_buffer) != 0) {
    // Without the capability the kernel's own tuning is better than a capped fixed size.
    log::debug("{}: receive buffer not raised to {} bytes", what, receive_buffer);
  }
  if (::bind(fd.get(), at.data(), at.size()) != 0) return fail_errno(what, errno);
  if (::listen(fd.get(), kBacklog) != 0) return fail_errno(what, errno);
  return std::unique_ptr<Listener>(new Listener(loop, std::move(fd), std::move(on_accept)));
}

Listener::Listener(Loop& loop, Fd fd, OnAccept on_accept)
    : loop_(loop),
      fd_(std::move(fd)),
      on_accept_(std::move(on_accept)),
      again_([this] { accept_some(); }),
      pause_(loop),
      alive_(std::make_shared<bool>(true)) {
  watch_ = loop_.watch(fd_.get(), *this);
  watch_->arm_read();
}

Listener::~Listener() {
  *alive_ = false;
  watch_.reset();
}

Endpoint Listener::local() const {
  Endpoint endpoint;
  socklen_t size = Endpoint::capacity();
  if (::getsockname(fd_.get(), endpoint.data(), &size) == 0) endpoint.set_size(size);
  return endpoint;
}

void Listener::on_ready(Readiness readiness) {
  if (readiness.readable || readiness.error) accept_some();
}

void Listener::accept_some() {
  if (pause_.armed()) return;
  const std::shared_ptr<bool> alive = alive_;  // on_accept_ may destroy this listener
  for (int i = 0; i < kAcceptsPerTurn; ++i) {
    Endpoint peer;
    socklen_t size = Endpoint::capacity();
    Fd accepted(::accept4(fd_.get(), peer.data(), &size, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (accepted) {
      peer.set_size(size);
      warned_ = false;
      on_accept_(std::move(accepted), peer);
      if (!*alive) return;
      continue;
    }
    switch (errno) {
      case EAGAIN: watch_->arm_read(); return;
      case EMFILE:
      case ENFILE:
      case ENOBUFS:
      case ENOMEM:
        if (!std::exchange(warned_, true)) {
          log::warn(
              "{}: new connections wait, the system is out of descriptors or memory ({}); raise LimitNOFILE or ulimit "
              "-n",
              local().to_string(), fail_errno("accept", errno).error().message);
        }
        pause_.start(kPause, [this] { accept_some(); });
        return;
      default: break;  // the connection died in the queue: the next one may be fine (accept(2))
    }
  }
  loop_.at_turn_end(again_);
}

}  // namespace qtrp::io
