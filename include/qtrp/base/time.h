// The clock of the pure rooms: they are handed a TimePoint and never read one themselves.
#pragma once

#include <chrono>

namespace qtrp {

using Clock = std::chrono::steady_clock;
using TimePoint = Clock::time_point;  ///< nanoseconds, monotonic
using Duration = Clock::duration;     ///< nanoseconds

}  // namespace qtrp
