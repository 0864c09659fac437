#include "client/ready_pool.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace qtrp::client {

// A waiting connection: its only event is its end.
struct ReadyPool::Idle final : io::Watcher {
  Idle(ReadyPool& p, io::Fd f)
      : pool(p), fd(std::move(f)), since(p.loop_.now()), watch(p.loop_.watch(fd.get(), *this)) {
    watch->arm_read();
  }
  void on_ready(io::Readiness readiness) override {
    if (!readiness.readable && !readiness.peer_closed && !readiness.error) return;
    if (!alive()) pool.dropped(*this);
  }
  /// False once the service has closed or reset it. A service may well have spoken first.
  bool alive() const {
    char byte;
    const ssize_t n = ::recv(fd.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n > 0 || (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK));
  }
  ReadyPool& pool;
  io::Fd fd;
  const TimePoint since;
  std::unique_ptr<io::Watch> watch;
};

ReadyPool::ReadyPool(io::Loop& loop, io::Resolver& resolver, const io::HostPort& local, unsigned size,
                     Duration connect_timeout)
    : loop_(loop),
      resolver_(resolver),
      local_(local),
      size_(size),
      connect_timeout_(connect_timeout),
      pause_(loop),
      renew_(loop),
      refill_([this] { refill(); }) {}

ReadyPool::~ReadyPool() = default;

void ReadyPool::start() {
  if (running_) return;
  running_ = std::make_shared<int>(0);
  loop_.at_turn_end(refill_);
}

void ReadyPool::stop() {
  running_.reset();
  dialing_ = false;
  connector_.reset();
  pause_.cancel();
  renew_.cancel();
  for (auto& idle : idle_) {
    idle->watch.reset();
    loop_.destroy_later(std::move(idle));
  }
  idle_.clear();
}

std::optional<io::Fd> ReadyPool::take() {
  std::optional<io::Fd> taken;
  while (!taken && !idle_.empty()) {
    std::unique_ptr<Idle> idle = std::move(idle_.front());
    idle_.pop_front();
    idle->watch.reset();
    if (idle->alive()) taken = std::move(idle->fd);
    loop_.destroy_later(std::move(idle));
  }
  if (running_) loop_.at_turn_end(refill_);
  return taken;
}

void ReadyPool::refill() {
  if (!running_ || dialing_ || pause_.armed() || idle_.size() >= size_) return;
  dialing_ = true;
  if (auto literal = io::Endpoint::from_literal(local_.host, local_.port)) return connect({*literal});
  resolver_.resolve(loop_, local_, running_, [this](Result<std::vector<io::Endpoint>> found) {
    if (found) return connect(std::move(*found));
    dialing_ = false;
    pause_.start(kPause, [this] { refill(); });
  });
}

void ReadyPool::connect(std::vector<io::Endpoint> addresses) {
  connector_ = std::make_unique<io::Connector>(
      loop_, std::move(addresses),
      io::Connector::Options{.timeout = connect_timeout_, .receive_buffer = 0, .before_connect = {}},
      [this](Result<io::Fd> fd) {
        dialing_ = false;
        if (!fd) {
          pause_.start(kPause, [this] { refill(); });
          return;
        }
        idle_.push_back(std::make_unique<Idle>(*this, std::move(*fd)));
        if (!renew_.armed()) renew_.start(kMostIdle, [this] { renew(); });
        loop_.at_turn_end(refill_);
      });
}

void ReadyPool::dropped(Idle& gone) {
  const bool at_once = loop_.now() - gone.since < kPause;
  const auto it = std::find_if(idle_.begin(), idle_.end(), [&](const auto& idle) { return idle.get() == &gone; });
  if (it == idle_.end()) return;
  (*it)->watch.reset();
  loop_.destroy_later(std::move(*it));
  idle_.erase(it);
  // A service that does not keep silent connections is not called again and again.
  if (at_once && !pause_.armed()) pause_.start(kPause, [this] { refill(); });
  loop_.at_turn_end(refill_);
}

void ReadyPool::renew() {
  while (!idle_.empty() && loop_.now() - idle_.front()->since >= kMostIdle) {
    idle_.front()->watch.reset();
    loop_.destroy_later(std::move(idle_.front()));
    idle_.pop_front();
  }
  if (!idle_.empty()) renew_.start(kMostIdle - (loop_.now() - idle_.front()->since), [this] { renew(); });
  loop_.at_turn_end(refill_);
}

}  // namespace qtrp::client
