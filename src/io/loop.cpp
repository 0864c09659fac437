// What both engines share: work at the turn's end, late destruction, scratch memory.
#include "qtrp/io/loop.h"

#include "qtrp/io/pipe.h"

namespace qtrp::io {

Loop::Loop() : now_(Clock::now()), bury_([this] { bury(); }) {
  turn_end_.next_ = turn_end_.prev_ = &turn_end_;
}

Loop::~Loop() {
  // What is still queued must not point into a loop that is gone.
  while (turn_end_.next_ != &turn_end_) turn_end_.next_->unlink();
  turn_end_.next_ = turn_end_.prev_ = nullptr;
}

void Loop::bury_all() {
  while (!graveyard_.empty()) bury();
}

void Loop::bury() {
  std::vector<Dead> dead;
  dead.swap(graveyard_);
  for (const Dead& d : dead) d.destroy(d.object);
  if (graveyard_.empty()) {
    dead.clear();
    graveyard_.swap(dead);  // keeps the capacity
  }
}

TimerId Loop::after(Duration delay, Task task) {
  return at(now_ + delay, std::move(task));
}

void Loop::at_turn_end(TurnEnd& work) {
  if (work.next_) return;
  work.prev_ = turn_end_.prev_;
  work.next_ = &turn_end_;
  turn_end_.prev_->next_ = &work;
  turn_end_.prev_ = &work;
}

void Loop::end_turn() {
  if (turn_end_.next_ == &turn_end_) return;
  // A marker behind the last entry: what is queued while these run belongs to the next turn.
  TurnEnd marker;
  at_turn_end(marker);
  while (turn_end_.next_ != &marker) {
    TurnEnd* work = turn_end_.next_;
    work->unlink();
    work->work_();
  }
}

PipePool& Loop::pipes() {
  if (!pipes_) pipes_ = std::make_unique<PipePool>();
  return *pipes_;
}

MutableBytes Loop::scratch() {
  if (!scratch_) scratch_ = std::make_unique_for_overwrite<std::byte[]>(kScratch);
  return {scratch_.get(), kScratch};
}

void Timer::start(Duration delay, Task task) {
  cancel();
  id_ = loop_.after(delay, [this, run = std::move(task)]() mutable {
    id_ = 0;
    // The task may start this timer again or destroy it: nothing of `this` is touched after it.
    run();
  });
}

void Timer::cancel() {
  if (id_ != 0) loop_.cancel(std::exchange(id_, 0));
}

}  // namespace qtrp::io
