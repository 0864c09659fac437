// A one-shot alarm with the kernel's precision (timerfd): pacing needs better than the loop's millisecond.
#pragma once

#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <utility>

#include "qtrp/io/loop.h"
#include "qtrp/io/socket.h"

namespace qtrp::quic {

class Alarm final : private io::Watcher {
 public:
  Alarm(io::Loop& loop, std::function<void()> ring)
      : fd_(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)),
        ring_(std::move(ring)),
        watch_(loop.watch(fd_.get(), *this)) {
    watch_->arm_read();
  }
  /// Rings once at `when` (steady_clock is CLOCK_MONOTONIC), at once if that is over, not at all for TimePoint::max().
  void set(TimePoint when) {
    if (when == when_) return;
    when_ = when;
    itimerspec spec{};
    if (when != TimePoint::max()) {
      auto ns = std::max<std::int64_t>(std::chrono::nanoseconds(when.time_since_epoch()).count(), 1);
      spec.it_value = {ns / 1'000'000'000, ns % 1'000'000'000};
    }
    ::timerfd_settime(fd_.get(), TFD_TIMER_ABSTIME, &spec, nullptr);
  }

 private:
  void on_ready(io::Readiness) override {
    std::uint64_t count = 0;
    bool rang = ::read(fd_.get(), &count, sizeof count) == sizeof count;
    watch_->arm_read();
    if (!rang) return;
    when_ = TimePoint::max();
    ring_();
  }

  io::Fd fd_;
  std::function<void()> ring_;
  std::unique_ptr<io::Watch> watch_;
  TimePoint when_ = TimePoint::max();
};

}  // namespace qtrp::quic
