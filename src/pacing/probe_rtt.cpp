#include "qtrp/pacing/probe_rtt.h"

namespace qtrp::pacing {

void ProbeRtt::sample(TimePoint now, std::uint32_t min_rtt_us, std::uint32_t cwnd_gain) {
  const bool was_pausing = pausing_;
  pausing_ = cwnd_gain == kGain;
  // The kernel counts the ten seconds from the latest lower round trip, or from the end of the last pause: it was
  // between the last sample and this one, so the earlier bound is the safe one.
  if (!pausing_ && (was_pausing || min_rtt_us != min_rtt_us_))
    due_ = (sampled_ == TimePoint{} ? now : sampled_) + kWindow;
  min_rtt_us_ = min_rtt_us;
  sampled_ = now;
}

}  // namespace qtrp::pacing
