// The engine of `transport: net`: Boost.Asio waits for readiness, the sockets' calls stay our own. The only source that
// includes Asio.
#include <poll.h>

#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

#include "io/timer_heap.h"
#include "qtrp/io/loop.h"

namespace qtrp::io {
namespace {

namespace asio = boost::asio;

class AsioWatch final : public Watch {
 public:
  AsioWatch(asio::io_context& context, int fd, Watcher& watcher)
      : state_(std::make_shared<State>(context, fd, watcher)) {
    state_->wait_error(state_);
  }
  ~AsioWatch() override {
    state_->watcher = nullptr;
    state_->descriptor.release();  // ends the waits; the descriptor stays its owner's
  }
  void arm_read() override {
    if (state_->interrupted) state_->wait_error(state_);
    if (std::exchange(state_->reading, true)) return;
    state_->descriptor.async_wait(asio::posix::stream_descriptor::wait_read,
                                  [s = state_](const boost::system::error_code& e) {
                                    s->reading = false;
                                    if (!e && s->watcher) s->watcher->on_ready({.readable = true});
                                  });
  }
  void arm_write() override {
    if (std::exchange(state_->writing, true)) return;
    state_->descriptor.async_wait(asio::posix::stream_descriptor::wait_write,
                                  [s = state_](const boost::system::error_code& e) {
                                    s->writing = false;
                                    if (!e && s->watcher) s->watcher->on_ready({.writable = true});
                                  });
  }

 private:
  struct State {
    State(asio::io_context& context, int fd, Watcher& w) : descriptor(context, fd), watcher(&w) {}
    // Completes on EPOLLERR, EPOLLHUP or urgent data, without saying which: poll() does. After urgent data it begins
    // anew with the next read only: until somebody reads the data, it would complete at once for ever.
    void wait_error(const std::shared_ptr<State>& self) {
      interrupted = false;
      descriptor.async_wait(asio::posix::stream_descriptor::wait_error, [s = self](const boost::system::error_code& e) {
        if (e || !s->watcher) return;
        pollfd probe{s->descriptor.native_handle(), POLLPRI, 0};
        if (::poll(&probe, 1, 0) < 0) return;
        if ((probe.revents & POLLERR) != 0) return s->watcher->on_ready({.error = true});
        if ((probe.revents & POLLHUP) != 0) return;
        s->interrupted = true;
        s->watcher->on_ready({.urgent = true});
      });
    }
    asio::posix::stream_descriptor descriptor;
    Watcher* watcher;
    bool reading = false, writing = false;
    bool interrupted = false;  // by urgent data: nobody waits for an error
  };
  std::shared_ptr<State> state_;
};

class AsioLoop final : public Loop {
 public:
  AsioLoop() : context_(1), work_(asio::make_work_guard(context_)), timer_(context_) {}
  ~AsioLoop() override { bury_all(); }

  void run() override {
    while (!stopped_.load(std::memory_order_acquire)) {
      if (turn_end_pending()) {
        context_.poll_one();
      } else {
        arm_timer();
        context_.run_one();
      }
      now_ = Clock::now();
      // Bounded, so that handlers that re-arm themselves cannot keep the turn from ending.
      for (int i = 0; i < 128 && context_.poll_one() != 0; ++i) {
      }
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
    asio::post(context_, [] {});
  }
  void post(Task task) override { asio::post(context_, std::move(task)); }
  std::unique_ptr<Watch> watch(int fd, Watcher& watcher) override {
    return std::make_unique<AsioWatch>(context_, fd, watcher);
  }
  TimerId at(TimePoint when, Task task) override { return timers_.add(when, std::move(task)); }
  void cancel(TimerId timer) override { timers_.remove(timer); }
  std::string_view engine() const override { return "net"; }

 private:
  void arm_timer() {
    const auto next = timers_.next();
    if (next == armed_) return;
    armed_ = next;
    if (!next) {
      timer_.cancel();
      return;
    }
    timer_.expires_at(*next);
    timer_.async_wait([this](const boost::system::error_code& e) {
      if (!e) armed_.reset();
    });
  }

  asio::io_context context_;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  asio::steady_timer timer_;
  std::optional<TimePoint> armed_;
  TimerHeap timers_;
  std::atomic<bool> stopped_ = false;
  TimePoint trimmed_{};
};

}  // namespace

std::unique_ptr<Loop> make_asio_loop() {
  return std::make_unique<AsioLoop>();
}

}  // namespace qtrp::io
