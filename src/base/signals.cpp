#include "qtrp/base/signals.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <system_error>

namespace qtrp {

Signals::Signals(std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (const int s : signals) sigaddset(&set, s);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  signal_fd_ = ::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  event_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (signal_fd_ < 0 || event_fd_ < 0) throw std::system_error(errno, std::generic_category(), "signalfd");
}

Signals::~Signals() {
  ::close(signal_fd_);
  ::close(event_fd_);
}

int Signals::wait(std::optional<Duration> limit) {
  const TimePoint deadline = limit ? Clock::now() + *limit : TimePoint::max();
  for (;;) {
    pollfd fds[3] = {{signal_fd_, POLLIN, 0}, {event_fd_, POLLIN, 0}, {watched_, POLLIN, 0}};
    int ms = -1;
    if (limit) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
      ms = static_cast<int>(std::clamp<std::int64_t>(left, 0, 1'000'000));
    }
    const int n = ::poll(fds, 3, ms);
    if (n < 0 && errno == EINTR) continue;
    signalfd_siginfo info;
    if ((fds[0].revents & POLLIN) != 0 && ::read(signal_fd_, &info, sizeof info) == sizeof info)
      return static_cast<int>(info.ssi_signo);
    std::uint64_t count;
    if ((fds[1].revents & POLLIN) != 0 && ::read(event_fd_, &count, sizeof count) == sizeof count) return kNotified;
    if (fds[2].revents != 0) return kReadable;
    if (limit && Clock::now() >= deadline) return kTimeout;
  }
}

void Signals::notify() {
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(event_fd_, &one, sizeof one);
}

}  // namespace qtrp
