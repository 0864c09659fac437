// A token bucket in bytes: exact in the long run (integer arithmetic in billionths of a byte, so no rounding adds up),
// its burst bounded in time rather than in bytes. Pure: the caller brings the time.
#pragma once

#include <cstdint>

#include "qtrp/base/time.h"

namespace qtrp::pacing {

class TokenBucket {
 public:
  /// What may leave at once after a pause: so many bytes as the rate gives in `burst`, but at least `minimum_burst`
  /// bytes (a packet must fit). Over any interval t at most rate * t + burst is granted. A rate of 0 grants nothing; at
  /// most 100 GB/s.
  explicit TokenBucket(std::uint64_t bytes_per_second, Duration burst = std::chrono::milliseconds(2),
                       std::uint64_t minimum_burst = 3000);

  /// Takes effect from `now` on; credit earned before stays, within the new burst.
  void set_rate(std::uint64_t bytes_per_second, TimePoint now);
  std::uint64_t rate() const { return rate_; }
  /// Bytes that the burst allows at this rate.
  std::uint64_t burst() const;

  /// Whole bytes that may be sent at `now`; 0 while in debt.
  std::uint64_t allowance(TimePoint now);
  /// `n` bytes were sent. More than the allowance puts the bucket in debt, which later time pays back.
  void sent(std::uint64_t n, TimePoint now);
  /// When `n` bytes (capped at burst()) may be sent: `now` if at once, TimePoint::max() if the rate is 0.
  TimePoint next_time(std::uint64_t n, TimePoint now);

 private:
  void refill(TimePoint now);
  std::uint64_t rate_;
  Duration burst_time_;
  std::uint64_t minimum_burst_;
  std::int64_t credit_;  // 1e-9 bytes; negative is debt
  TimePoint last_{};
  bool started_ = false;
};

}  // namespace qtrp::pacing
