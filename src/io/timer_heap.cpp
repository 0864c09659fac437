#include "io/timer_heap.h"

#include <utility>

namespace qtrp::io {

TimerId TimerHeap::add(TimePoint when, Task task) {
  std::uint32_t slot;
  if (free_.empty()) {
    slot = static_cast<std::uint32_t>(slots_.size());
    slots_.emplace_back();
  } else {
    slot = free_.back();
    free_.pop_back();
  }
  slots_[slot].task = std::move(task);
  slots_[slot].used = true;
  heap_.push_back({when, sequence_++, slot});
  slots_[slot].position = static_cast<std::uint32_t>(heap_.size() - 1);
  up(heap_.size() - 1);
  return (std::uint64_t{slots_[slot].generation} << 32) | slot;
}

void TimerHeap::remove(TimerId id) {
  const auto slot = static_cast<std::uint32_t>(id);
  if (slot >= slots_.size() || !slots_[slot].used || slots_[slot].generation != id >> 32) return;
  take(slots_[slot].position);
}

std::optional<TimePoint> TimerHeap::next() const {
  if (heap_.empty()) return std::nullopt;
  return heap_.front().when;
}

void TimerHeap::run_due(TimePoint now) {
  const std::uint64_t before = sequence_;
  while (!heap_.empty() && heap_.front().when <= now && heap_.front().sequence < before) {
    Task task = take(0);
    task();
  }
}

void TimerHeap::place(std::size_t at, Entry entry) {
  heap_[at] = entry;
  slots_[entry.slot].position = static_cast<std::uint32_t>(at);
}

void TimerHeap::up(std::size_t at) {
  const Entry entry = heap_[at];
  while (at > 0 && entry < heap_[(at - 1) / 2]) {
    place(at, heap_[(at - 1) / 2]);
    at = (at - 1) / 2;
  }
  place(at, entry);
}

void TimerHeap::down(std::size_t at) {
  const Entry entry = heap_[at];
  for (;;) {
    std::size_t child = 2 * at + 1;
    if (child >= heap_.size()) break;
    if (child + 1 < heap_.size() && heap_[child + 1] < heap_[child]) ++child;
    if (!(heap_[child] < entry)) break;
    place(at, heap_[child]);
    at = child;
  }
  place(at, entry);
}

Task TimerHeap::take(std::size_t at) {
  Slot& slot = slots_[heap_[at].slot];
  Task task = std::move(slot.task);
  slot.task = nullptr;
  slot.used = false;
  if (++slot.generation == 0) slot.generation = 1;
  free_.push_back(heap_[at].slot);
  const Entry last = heap_.back();
  heap_.pop_back();
  if (at < heap_.size()) {
    place(at, last);
    up(at);
    down(slots_[last.slot].position);
  }
  return task;
}

}  // namespace qtrp::io
