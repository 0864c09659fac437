#include "qtrp/stats/rate_meter.h"

#include <algorithm>

namespace qtrp::stats {

void RateMeter::add(TimePoint now, std::uint64_t total) {
  if (count_ > 0 && total < at(0).total) count_ = 0;
  samples_[next_] = {now, total};
  next_ = (next_ + 1) % samples_.size();
  count_ = std::min(count_ + 1, samples_.size());
}

double RateMeter::per_second() const {
  if (count_ < 2) return 0;
  const Sample& newest = at(0);
  // At least the sample before the newest, however long ago it was.
  std::size_t oldest = 1;
  while (oldest + 1 < count_ && newest.time - at(oldest + 1).time <= window_) ++oldest;
  const double seconds = std::chrono::duration<double>(newest.time - at(oldest).time).count();
  return seconds > 0 ? static_cast<double>(newest.total - at(oldest).total) / seconds : 0;
}

}  // namespace qtrp::stats
