#include "qtrp/pacing/token_bucket.h"

#include <algorithm>
#include <limits>

namespace qtrp::pacing {
namespace {

constexpr std::int64_t kNano = 1'000'000'000;
constexpr std::uint64_t kMaximumRate = 100'000'000'000;  // keeps a burst below 2^63 billionths of a byte

}  // namespace

TokenBucket::TokenBucket(std::uint64_t bytes_per_second, Duration burst, std::uint64_t minimum_burst)
    : rate_(std::min(bytes_per_second, kMaximumRate)),
      burst_time_(std::clamp<Duration>(burst, Duration(0), std::chrono::milliseconds(50))),
      minimum_burst_(std::min<std::uint64_t>(minimum_burst, 1U << 30U)),
      credit_(static_cast<std::int64_t>(this->burst()) * kNano) {}

std::uint64_t TokenBucket::burst() const {
  const auto nanoseconds = static_cast<std::uint64_t>(burst_time_.count());
  return std::max(minimum_burst_, rate_ * nanoseconds / static_cast<std::uint64_t>(kNano));
}

void TokenBucket::refill(TimePoint now) {
  if (!started_) {
    started_ = true;
    last_ = now;
    return;
  }
  if (now <= last_) return;
  const std::int64_t limit = static_cast<std::int64_t>(burst()) * kNano;
  const auto earned = static_cast<__int128>(rate_) * (now - last_).count() + credit_;
  last_ = now;
  credit_ = earned > limit ? limit : static_cast<std::int64_t>(earned);
}

void TokenBucket::set_rate(std::uint64_t bytes_per_second, TimePoint now) {
  refill(now);
  rate_ = std::min(bytes_per_second, kMaximumRate);
  credit_ = std::min(credit_, static_cast<std::int64_t>(burst()) * kNano);
}

std::uint64_t TokenBucket::allowance(TimePoint now) {
  refill(now);
  if (rate_ == 0 || credit_ <= 0) return 0;
  return static_cast<std::uint64_t>(credit_ / kNano);
}

void TokenBucket::sent(std::uint64_t n, TimePoint now) {
  refill(now);
  constexpr std::int64_t deepest = std::numeric_limits<std::int64_t>::min() / 2;
  const auto left = static_cast<__int128>(credit_) - static_cast<__int128>(n) * kNano;
  credit_ = left < deepest ? deepest : static_cast<std::int64_t>(left);
}

TimePoint TokenBucket::next_time(std::uint64_t n, TimePoint now) {
  refill(now);
  const std::int64_t wanted = static_cast<std::int64_t>(std::min(n, burst())) * kNano;
  if (rate_ == 0) return TimePoint::max();
  if (credit_ >= wanted) return now;
  const auto missing =
      static_cast<std::uint64_t>(wanted) - static_cast<std::uint64_t>(credit_);  // wraps right when in debt
  const std::uint64_t nanoseconds = missing / rate_ + (missing % rate_ != 0 ? 1 : 0);
  return now + Duration(static_cast<std::int64_t>(nanoseconds));
}

}  // namespace qtrp::pacing
