// Timers of a loop: a binary heap over reusable slots. Starting and cancelling cost O(log n) and allocate nothing once
// warm; asking for the next one costs nothing.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "qtrp/base/time.h"
#include "qtrp/io/loop.h"

namespace qtrp::io {

class TimerHeap {
 public:
  TimerId add(TimePoint when, Task task);
  void remove(TimerId id);
  std::optional<TimePoint> next() const;
  /// Runs every timer that was due at `now`, in order of time. A timer started by a task runs in a later call.
  void run_due(TimePoint now);
  std::size_t size() const { return heap_.size(); }

 private:
  struct Slot {
    Task task;
    std::uint32_t generation = 1;
    std::uint32_t position = 0;  // in heap_, while in use
    bool used = false;
  };
  struct Entry {
    TimePoint when;
    std::uint64_t sequence;  // equal times run in the order they were started
    std::uint32_t slot;
    bool operator<(const Entry& o) const { return when != o.when ? when < o.when : sequence < o.sequence; }
  };
  void place(std::size_t at, Entry entry);
  void up(std::size_t at);
  void down(std::size_t at);
  Task take(std::size_t at);

  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_;
  std::vector<Entry> heap_;
  std::uint64_t sequence_ = 0;
};

}  // namespace qtrp::io
