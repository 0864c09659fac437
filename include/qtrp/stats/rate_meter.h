// The rate of a counter over the last seconds, from samples of its total. Pure: it is handed the time and the total.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "qtrp/base/time.h"

namespace qtrp::stats {

class RateMeter {
 public:
  /// The rate is that of the last `window`. Feed it at least twice and at most 32 times a window.
  explicit RateMeter(Duration window = std::chrono::seconds(5)) : window_(window) {}

  /// A sample; samples come in the order of time. A total below the last one (a counter that began anew) starts over.
  void add(TimePoint now, std::uint64_t total);
  /// Per second, between the newest sample and the oldest one in its window; 0 with fewer than two samples.
  double per_second() const;

 private:
  struct Sample {
    TimePoint time;
    std::uint64_t total = 0;
  };
  const Sample& at(std::size_t age) const {
    return samples_[(next_ + samples_.size() - 1 - age) % samples_.size()];
  }  ///< 0: the newest

  Duration window_;
  std::array<Sample, 33> samples_{};
  std::size_t next_ = 0, count_ = 0;
};

}  // namespace qtrp::stats
