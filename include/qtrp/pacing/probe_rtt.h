// Foresees the pauses of the kernel's BBR. When ten seconds brought no lower round-trip time it keeps no more than four
// packets in flight for 200 ms, to look at the empty link (PROBE_RTT; Linux, net/ipv4/tcp_bbr.c: bbr_min_rtt_win_sec,
// bbr_probe_rtt_mode_ms, bbr_cwnd_min_target). Whatever stands unsent in the socket by then waits all that time, and a
// keystroke behind it; who knows the hour can keep the socket empty. Pure: the caller brings the time and the figures.
#pragma once

#include <cstdint>

#include "qtrp/base/time.h"

namespace qtrp::pacing {

class ProbeRtt {
 public:
  static constexpr Duration kWindow = std::chrono::seconds(10);      ///< bbr_min_rtt_win_sec
  static constexpr Duration kLead = std::chrono::milliseconds(20);   ///< a timer's and a sample's inaccuracy
  static constexpr Duration kLate = std::chrono::milliseconds(150);  ///< samples are 100 ms apart, acknowledgements too
  static constexpr Duration kOverdue = std::chrono::milliseconds(500);  ///< then the forecast was wrong
  static constexpr Duration kClose = std::chrono::milliseconds(2);      ///< between samples while near()
  static constexpr std::uint32_t kGain = 256;                           ///< bbr_cwnd_gain of 1.0: only PROBE_RTT has it

  /// What TCP_CC_INFO told at `now` (linux/inet_diag.h, tcp_bbr_info): the shortest round trip in microseconds and the
  /// gain of the window, in 256ths. Time never goes back.
  void sample(TimePoint now, std::uint32_t min_rtt_us, std::uint32_t cwnd_gain);
  /// A pause is about to come or goes on: leave nothing unsent in the socket, and sample every kClose.
  bool near(TimePoint now) const {
    return pausing_ || (due_ != TimePoint{} && now >= due_ - kLead && now < due_ + kOverdue);
  }
  bool pausing() const { return pausing_; }
  /// So close that what is sent now would still be on its way then. The pause begins with silence until all but four
  /// packets were acknowledged: the less, the shorter.
  bool imminent(TimePoint now, Duration round_trip) const {
    return !pausing_ && due_ != TimePoint{} && now >= due_ - kLead - round_trip && now < due_ + kLate;
  }

 private:
  TimePoint sampled_{};
  TimePoint due_{};  // the earliest that it can come; unset: not known
  std::uint32_t min_rtt_us_ = 0;
  bool pausing_ = false;
};

}  // namespace qtrp::pacing
