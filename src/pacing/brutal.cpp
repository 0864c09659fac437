#include "qtrp/pacing/brutal.h"

#include <algorithm>

namespace qtrp::pacing {

std::uint64_t Brutal::rate(TimePoint now) const {
  return static_cast<std::uint64_t>(static_cast<double>(target_) / acks_.value(now));
}

std::uint64_t Brutal::window(TimePoint now, Duration srtt, std::uint64_t packet_size) const {
  if (srtt <= Duration(0)) srtt = kAssumedRtt;
  const double bytes = static_cast<double>(rate(now)) * std::chrono::duration<double>(srtt).count() * kWindowRoundTrips;
  return std::max(static_cast<std::uint64_t>(bytes), kMinimumWindowPackets * packet_size);
}

}  // namespace qtrp::pacing
