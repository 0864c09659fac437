// The share of packets that arrive, as Hysteria's Brutal measures it: acknowledged / (acknowledged + lost) over a
// sliding window of five seconds in slots of one second. Pure: the caller brings the time.
#pragma once

#include <array>
#include <cstdint>

#include "qtrp/base/time.h"

namespace qtrp::pacing {

class AckRate {
 public:
  static constexpr std::int64_t kSlots = 5;             ///< of one second each
  static constexpr std::uint64_t kMinimumSamples = 50;  ///< below this the link counts as lossless
  static constexpr double kFloor = 0.8;                 ///< so the sending rate is at most 1.25 times the target

  /// Counts packets (or bytes, but one unit throughout) that were acknowledged and lost at `now`. Time never goes back.
  void add(TimePoint now, std::uint64_t acknowledged, std::uint64_t lost);
  /// In [kFloor, 1]; 1 with fewer than kMinimumSamples in the window.
  double value(TimePoint now) const { return floored(measured(now)); }
  /// The same without the floor, in [0, 1]: for statistics.
  double measured(TimePoint now) const;

 private:
  struct Slot {
    std::int64_t second = -1;
    std::uint64_t acknowledged = 0, lost = 0;
  };
  static double floored(double rate) { return rate < kFloor ? kFloor : rate; }
  std::array<Slot, kSlots> slots_;
};

}  // namespace qtrp::pacing
