// Brutal, the congestion controller that Hysteria defined: send at a rate that the user names, divided by the share of
// packets that arrive, so that the named rate arrives whatever the loss. Losses never shrink the window. Pure
// arithmetic, shared by TCP and QUIC.
#pragma once

#include <cstdint>

#include "qtrp/base/time.h"
#include "qtrp/pacing/ack_rate.h"

namespace qtrp::pacing {

class Brutal {
 public:
  static constexpr std::uint64_t kWindowRoundTrips =
      2;  ///< the congestion window holds so many round trips of the rate
  static constexpr std::uint64_t kMinimumWindowPackets = 10;
  static constexpr Duration kAssumedRtt = std::chrono::milliseconds(100);  ///< before the first measurement

  explicit Brutal(std::uint64_t target_bytes_per_second) : target_(target_bytes_per_second) {}

  void set_target(std::uint64_t bytes_per_second) { target_ = bytes_per_second; }
  std::uint64_t target() const { return target_; }
  /// Packets acknowledged and packets declared lost.
  void on_packets(TimePoint now, std::uint64_t acknowledged, std::uint64_t lost) { acks_.add(now, acknowledged, lost); }
  const AckRate& ack_rate() const { return acks_; }

  /// target / ack rate, in bytes per second.
  std::uint64_t rate(TimePoint now) const;
  /// rate * smoothed round-trip time * 2 in bytes, at least kMinimumWindowPackets of `packet_size`. A zero `srtt` is
  /// not measured yet.
  std::uint64_t window(TimePoint now, Duration srtt, std::uint64_t packet_size) const;

 private:
  std::uint64_t target_;
  AckRate acks_;
};

}  // namespace qtrp::pacing
