// The engine of `transport: epoll`: edge-triggered epoll, an eventfd for posts from other threads, a timer heap. A
// descriptor is registered once for everything, so the steady state makes no epoll_ctl call.
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <mutex>
#include <system_error>

#include "io/timer_heap.h"
#include "qtrp/io/loop.h"
#include "qtrp/io/socket.h"

namespace qtrp::io {
namespace {

class EpollLoop;

class EpollWatch final : public Watch {
 public:
  EpollWatch(EpollLoop& loop, std::uint32_t slot, int fd) : loop_(loop), slot_(slot), fd_(fd) {}
  ~EpollWatch() override;
  // Edges come unasked; whoever waits has seen a would-block since the last one.
  void arm_read() override {}
  void arm_write() override {}

 private:
  EpollLoop& loop_;
  std::uint32_t slot_;
  int fd_;
};

class EpollLoop final : public Loop {
 public:
  EpollLoop() : epoll_(::epoll_create1(EPOLL_CLOEXEC)), wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (!epoll_ || !wake_) throw std::system_error(errno, std::generic_category(), "epoll");
    epoll_event event{};
    event.events = EPOLLIN | EPOLLET;
    event.data.u64 = kWake;
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event);
  }

  ~EpollLoop() override { bury_all(); }

  void run() override {
    std::array<epoll_event, 256> events;
    while (!stopped_.load(std::memory_order_acquire)) {
      const int n = wait(events);
      now_ = Clock::now();
      for (int i = 0; i < n; ++i) dispatch(events[static_cast<std::size_t>(i)]);
      run_posted();
      timers_.run_due(now_);
      end_turn();
      if (now_ - trimmed_ > std::chrono::seconds(5)) {
        trimmed_ = now_;
        pool().trim();
      }
    }
  }

  void stop() override {
    stopped_.store(true, std::memory_order_release);
    wake();
  }

  void post(Task task) override {
    bool first;
    {
      const std::lock_guard lock(mutex_);
      first = posted_.empty();
      posted_.push_back(std::move(task));
    }
    if (first) wake();
  }

  std::unique_ptr<Watch> watch(int fd, Watcher& watcher) override {
    std::uint32_t slot;
    if (free_.empty()) {
      slot = static_cast<std::uint32_t>(slots_.size());
      slots_.emplace_back();
    } else {
      slot = free_.back();
      free_.pop_back();
    }
    slots_[slot].watcher = &watcher;
    epoll_event event{};
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET;
    event.data.u64 = (std::uint64_t{slots_[slot].generation} << 32) | slot;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
      throw std::system_error(errno, std::generic_category(), "epoll_ctl");
    }
    return std::make_unique<EpollWatch>(*this, slot, fd);
  }

  void forget(std::uint32_t slot, int fd) {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
    slots_[slot].watcher = nullptr;
    ++slots_[slot].generation;
    free_.push_back(slot);
  }

  TimerId at(TimePoint when, Task task) override { return timers_.add(when, std::move(task)); }
  void cancel(TimerId timer) override { timers_.remove(timer); }
  std::string_view engine() const override { return "epoll"; }

 private:
  struct Slot {
    Watcher* watcher = nullptr;
    std::uint32_t generation = 0;
  };
  static constexpr std::uint64_t kWake = ~std::uint64_t{0};

  int wait(std::array<epoll_event, 256>& events) {
    timespec timeout{};
    timespec* limit = &timeout;
    if (!turn_end_pending()) {
      if (const auto next = timers_.next()) {
        const auto left = std::max(Duration::zero(), *next - Clock::now());
        timeout.tv_sec = static_cast<time_t>(left / std::chrono::seconds(1));
        timeout.tv_nsec = static_cast<long>((left % std::chrono::seconds(1)).count());
      } else {
        limit = nullptr;
      }
    }
    if (!no_pwait2_) {
      const int n = ::epoll_pwait2(epoll_.get(), events.data(), static_cast<int>(events.size()), limit, nullptr);
      if (n >= 0 || errno != ENOSYS) return n;
      no_pwait2_ = true;  // before kernel 5.11
    }
    // Rounded up, so that a timer is due when the wait ends.
    const int ms = limit ? static_cast<int>(std::min<std::int64_t>(timeout.tv_sec, 1'000'000) * 1000 +
                                            (timeout.tv_nsec + 999'999) / 1'000'000)
                         : -1;
    return ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), ms);
  }

  void dispatch(const epoll_event& event) {
    if (event.data.u64 == kWake) {
      std::uint64_t count;
      [[maybe_unused]] const ssize_t n = ::read(wake_.get(), &count, sizeof count);
      return;
    }
    const auto slot = static_cast<std::uint32_t>(event.data.u64);
    // A handler earlier in this batch may have closed this one, and its slot may serve another by now.
    if (slots_[slot].generation != event.data.u64 >> 32 || !slots_[slot].watcher) return;
    Readiness r;
    r.readable = (event.events & EPOLLIN) != 0;
    r.writable = (event.events & EPOLLOUT) != 0;
    r.peer_closed = (event.events & (EPOLLRDHUP | EPOLLHUP)) != 0;
    r.error = (event.events & EPOLLERR) != 0;
    r.urgent = (event.events & EPOLLPRI) != 0;
    slots_[slot].watcher->on_ready(r);
  }

  void run_posted() {
    {
      const std::lock_guard lock(mutex_);
      running_.swap(posted_);
    }
    for (Task& task : running_) task();
    running_.clear();
  }

  void wake() {
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = ::write(wake_.get(), &one, sizeof one);
  }

  Fd epoll_, wake_;
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_;
  TimerHeap timers_;
  std::atomic<bool> stopped_ = false;
  std::mutex mutex_;
  std::vector<Task> posted_, running_;
  bool no_pwait2_ = false;
  TimePoint trimmed_{};
};

EpollWatch::~EpollWatch() {
  loop_.forget(slot_, fd_);
}

}  // namespace

std::unique_ptr<Loop> make_epoll_loop() {
  return std::make_unique<EpollLoop>();
}

}  // namespace qtrp::io
