#include <fmt/format.h>
#include <sys/socket.h>

#include <cerrno>
#include <optional>

#include "qtrp/io/socket.h"

namespace qtrp::io {

namespace {
constexpr auto kAttemptDelay = std::chrono::milliseconds(250);  // RFC 8305 section 5, "Connection Attempt Delay"
}

struct Connector::Attempt final : Watcher {
  Attempt(State& s, Fd f, std::string n) : state(s), fd(std::move(f)), name(std::move(n)) {}
  void on_ready(Readiness readiness) override;
  State& state;
  Fd fd;
  std::string name;
  std::unique_ptr<Watch> watch;
};

struct Connector::State {
  State(Loop& l, std::vector<Endpoint> a, Options o, OnConnected c)
      : loop(l),
        addresses(std::move(a)),
        options(std::move(o)),
        on_connected(std::move(c)),
        deadline(l),
        next_attempt(l),
        later([this] { begin(); }) {}

  void begin() {
    deadline.start(options.timeout, [this] {
      done(
          fail(ErrorKind::timeout,
               fmt::format("connect to {}: no answer in {} ms", addresses.empty() ? "?" : addresses.front().to_string(),
                           std::chrono::duration_cast<std::chrono::milliseconds>(options.timeout).count()),
               ETIMEDOUT));
    });
    try_next();
  }

  void try_next() {
    next_attempt.cancel();
    while (!over && next < addresses.size()) {
      const Endpoint& to = addresses[next++];
      Fd fd(::socket(to.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
      if (!fd) {
        last = fail_errno(fmt::format("connect to {}", to.to_string()), errno).error();
        continue;
      }
      if (options.receive_buffer > 0) {
        ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &options.receive_buffer, sizeof options.receive_buffer);
      }
      set_loopback_congestion(fd.get(), to);
      if (options.before_connect) options.before_connect(fd.get());
      if (::connect(fd.get(), to.data(), to.size()) == 0) {
        done(std::move(fd));
        return;
      }
      if (errno != EINPROGRESS) {
        last = fail_errno(fmt::format("connect to {}", to.to_string()), errno).error();
        continue;
      }
      attempts.push_back(std::make_unique<Attempt>(*this, std::move(fd), to.to_string()));
      Attempt& attempt = *attempts.back();
      attempt.watch = loop.watch(attempt.fd.get(), attempt);
      attempt.watch->arm_write();
      if (next < addresses.size()) next_attempt.start(kAttemptDelay, [this] { try_next(); });
      return;
    }
    if (!over && attempts.empty())
      done(std::unexpected(last.value_or(Error{ErrorKind::system, "connect: no address", EADDRNOTAVAIL})));
  }

  void finished(Attempt& attempt) {
    int error = 0;
    socklen_t size = sizeof error;
    ::getsockopt(attempt.fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
    if (error == 0) {
      attempt.watch.reset();
      done(std::move(attempt.fd));
      return;
    }
    last = fail_errno(fmt::format("connect to {}", attempt.name), error).error();
    for (auto it = attempts.begin(); it != attempts.end(); ++it) {
      if (it->get() == &attempt) {
        loop.destroy_later(std::move(*it));
        attempts.erase(it);
        break;
      }
    }
    try_next();
  }

  void done(Result<Fd> result) {
    if (std::exchange(over, true)) return;
    deadline.cancel();
    next_attempt.cancel();
    for (auto& attempt : attempts) {
      attempt->watch.reset();
      loop.destroy_later(std::move(attempt));
    }
    attempts.clear();
    // Moved out: the owner may destroy the connector from within.
    OnConnected tell = std::move(on_connected);
    tell(std::move(result));
  }

  Loop& loop;
  std::vector<Endpoint> addresses;
  Options options;
  OnConnected on_connected;
  Timer deadline, next_attempt;
  TurnEnd later;
  std::vector<std::unique_ptr<Attempt>> attempts;
  std::size_t next = 0;
  std::optional<Error> last;
  bool over = false;
};

void Connector::Attempt::on_ready(Readiness readiness) {
  if ((readiness.writable || readiness.error) && !state.over) state.finished(*this);
}

Connector::Connector(Loop& loop, std::vector<Endpoint> addresses, Options options, OnConnected on_connected)
    : state_(std::make_unique<State>(loop, std::move(addresses), std::move(options), std::move(on_connected))) {
  loop.at_turn_end(state_->later);  // never calls back from within the constructor
}

Connector::~Connector() {
  if (!state_) return;
  state_->over = true;
  state_->deadline.cancel();
  state_->next_attempt.cancel();
  Loop& loop = state_->loop;
  for (auto& attempt : state_->attempts) attempt->watch.reset();
  loop.destroy_later(std::move(state_));
}

}  // namespace qtrp::io
