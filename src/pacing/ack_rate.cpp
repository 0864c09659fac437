#include "qtrp/pacing/ack_rate.h"

namespace qtrp::pacing {
namespace {

std::int64_t second_of(TimePoint now) {
  return std::chrono::floor<std::chrono::seconds>(now.time_since_epoch()).count();
}

}  // namespace

void AckRate::add(TimePoint now, std::uint64_t acknowledged, std::uint64_t lost) {
  const std::int64_t second = second_of(now);
  Slot& slot = slots_[static_cast<std::size_t>(second % kSlots)];
  if (slot.second != second) slot = {second, 0, 0};
  slot.acknowledged += acknowledged;
  slot.lost += lost;
}

double AckRate::measured(TimePoint now) const {
  const std::int64_t oldest = second_of(now) - kSlots + 1;
  std::uint64_t acknowledged = 0, lost = 0;
  for (const Slot& slot : slots_) {
    if (slot.second < oldest) continue;
    acknowledged += slot.acknowledged;
    lost += slot.lost;
  }
  if (acknowledged + lost < kMinimumSamples) return 1.0;
  return static_cast<double>(acknowledged) / static_cast<double>(acknowledged + lost);
}

}  // namespace qtrp::pacing
