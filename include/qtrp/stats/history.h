// The traffic of the last hour for the dashboard's plot: a ring of averages over 5 seconds each. Pure: it is handed the
// time and the totals.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "qtrp/base/time.h"
#include "qtrp/stats/snapshot.h"

namespace qtrp::stats {

class History {
 public:
  static constexpr std::chrono::seconds step{5}, span{3600};

  /// Totals at a time, in order; call more often than every `step`. Steps without a call are filled with the average
  /// over them.
  void add(TimePoint now, const Totals& totals);
  /// {"step_seconds", "span_seconds", "in_mbps": [oldest, ...], "out_mbps": [...]}
  std::string to_json() const;

 private:
  struct Point {
    double in_mbps = 0, out_mbps = 0;
  };
  std::array<Point, static_cast<std::size_t>(span / step)> points_{};
  std::size_t next_ = 0, count_ = 0;
  bool begun_ = false;
  TimePoint last_{};
  Totals before_;
};

}  // namespace qtrp::stats
