// Collects figures that belong to other threads: each of them makes its part on its own thread, nobody locks what he
// works on.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "qtrp/base/time.h"

namespace qtrp::stats {

template <typename Part>
class Gather {
 public:
  /// A task for the thread that may call `make`. What `make` refers to must outlive that thread's tasks, not this
  /// object.
  template <typename Make>
  auto task(Make make) {
    ++expected_;
    return [state = state_, make = std::move(make)]() mutable {
      Part part = make();
      const std::lock_guard lock(state->mutex);
      state->parts.push_back(std::move(part));
      state->arrived.notify_one();
    };
  }
  /// The parts that have come, in no order: all of them, or those of `limit` where a thread is busy or has ended.
  std::vector<Part> wait(Duration limit) {
    std::unique_lock lock(state_->mutex);
    state_->arrived.wait_for(lock, limit, [this] { return state_->parts.size() == expected_; });
    return std::exchange(state_->parts, {});
  }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable arrived;
    std::vector<Part> parts;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
  std::size_t expected_ = 0;
};

}  // namespace qtrp::stats
