#include "io/timer_heap.h"

#include <gtest/gtest.h>

#include <random>

namespace qtrp::io {
namespace {

using std::chrono::milliseconds;

TEST(TimerHeap, RunsDueTimersInOrderOfTimeThenStart) {
  TimerHeap heap;
  std::string order;
  const TimePoint t0{};
  heap.add(t0 + milliseconds(20), [&] { order += 'c'; });
  heap.add(t0 + milliseconds(10), [&] { order += 'a'; });
  heap.add(t0 + milliseconds(10), [&] { order += 'b'; });
  heap.add(t0 + milliseconds(30), [&] { order += 'd'; });
  heap.run_due(t0 + milliseconds(20));
  EXPECT_EQ(order, "abc");
  EXPECT_EQ(heap.next(), t0 + milliseconds(30));
}

TEST(TimerHeap, ACancelledTimerNeverRunsAndItsIdIsNotReused) {
  TimerHeap heap;
  int ran = 0;
  const TimerId first = heap.add(TimePoint{}, [&] { ++ran; });
  heap.remove(first);
  const TimerId second = heap.add(TimePoint{}, [&] { ran += 10; });
  EXPECT_NE(first, second);
  heap.remove(first);  // stale: must not hit the second
  heap.run_due(TimePoint{});
  EXPECT_EQ(ran, 10);
  EXPECT_EQ(heap.size(), 0u);
}

TEST(TimerHeap, ATimerStartedByATaskWaitsForTheNextCall) {
  TimerHeap heap;
  int ran = 0;
  heap.add(TimePoint{}, [&] { heap.add(TimePoint{}, [&] { ++ran; }); });
  heap.run_due(TimePoint{});
  EXPECT_EQ(ran, 0);
  heap.run_due(TimePoint{});
  EXPECT_EQ(ran, 1);
}

TEST(TimerHeap, StaysAHeapUnderRandomAddingAndRemoving) {
  TimerHeap heap;
  std::mt19937 random(11);
  std::vector<TimerId> ids;
  TimePoint last{};
  int ran = 0, removed = 0;
  for (int i = 0; i < 1000; ++i) {
    const TimePoint when{milliseconds(random() % 1000)};
    ids.push_back(heap.add(when, [&, when] {
      EXPECT_GE(when, last);
      last = when;
      ++ran;
    }));
  }
  for (int i = 0; i < 1000; i += 3, ++removed) heap.remove(ids[static_cast<std::size_t>(i)]);
  heap.run_due(TimePoint{milliseconds(1000)});
  EXPECT_EQ(ran, 1000 - removed);
}

}  // namespace
}  // namespace qtrp::io
