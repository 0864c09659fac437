// The seam between ngtcp2 and congestion controllers of our own (Brutal, BBR of the first version's kind). ngtcp2 1.11
// offers no public way in: congestion_seam.cpp takes the place of its Reno when one of ours is asked for. Controllers
// are pure: tests feed them scripted acks and losses.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "qtrp/base/time.h"
#include "qtrp/quic/endpoint.h"

namespace qtrp::quic {

/// The path as ngtcp2 knows it when a controller is called.
struct PathState {
  Duration smoothed_rtt{};      ///< 0: not measured yet
  Duration min_rtt{};           ///< 0: not measured yet
  std::uint64_t in_flight = 0;  ///< bytes
  std::uint64_t packet_size = 1200;
  std::uint64_t delivery_rate = 0;  ///< bytes per second, of the sample that the acknowledgement gave; 0 unknown
};

/// One packet that was acknowledged or lost.
struct PacketFate {
  std::uint64_t bytes = 0;
  TimePoint sent{};
  bool application_limited = false;  ///< sent while there was less to send than the window allowed
};

/// One acknowledgement, after on_acked() was called for each of its packets.
struct AckSummary {
  std::uint64_t prior_in_flight = 0;      ///< bytes
  std::uint64_t delivered = 0;            ///< bytes
  std::uint64_t lost = 0;                 ///< bytes declared lost by it
  std::uint64_t delivered_when_sent = 0;  ///< the connection's delivered bytes when the newest packet of it was sent
  Duration rtt{};                         ///< 0: no sample
};

class Controller {
 public:
  virtual ~Controller() = default;
  virtual void on_sent(std::uint64_t /*bytes*/, const PathState&, TimePoint /*now*/) {}
  virtual void on_acked(const PacketFate&, const PathState&, TimePoint) {}
  virtual void on_lost(const PacketFate&, const PathState&, TimePoint) {}
  virtual void on_ack(const AckSummary&, const PathState&, TimePoint) {}
  /// Nothing arrived for several timeouts (RFC 9002, section 7.6).
  virtual void on_persistent_congestion(const PathState&, TimePoint) {}
  /// The path is a new one: forget the old.
  virtual void reset(const PathState&, TimePoint) {}

  virtual std::uint64_t window(const PathState&, TimePoint) const = 0;  ///< bytes that may be in flight
  virtual std::uint64_t rate(const PathState&, TimePoint) const = 0;  ///< bytes per second to pace at; 0: not known yet
  virtual std::string_view name() const = 0;
  virtual void set_target(std::uint64_t /*bytes_per_second*/) {}
  virtual std::uint64_t target() const { return 0; }  ///< bytes per second, Brutal's
  virtual double ack_rate(TimePoint) const { return 0; }

  // Kept by the seam.
  std::uint64_t lost_packets = 0;
  PathState last_path;  ///< as of the last call
};

std::unique_ptr<Controller> make_brutal(std::uint64_t target_bytes_per_second);
std::unique_ptr<Controller> make_bbr();
/// Brutal while there is a target, BBR while it is 0; set_target() changes between them.
std::unique_ptr<Controller> make_steering(std::uint64_t target_bytes_per_second);

/// While it lives, a connection made on this thread with NGTCP2_CC_ALGO_RENO gets `controller`, which must outlive that
/// connection.
class ControllerScope {
 public:
  explicit ControllerScope(Controller* controller);
  ~ControllerScope();
  ControllerScope(const ControllerScope&) = delete;
  ControllerScope& operator=(const ControllerScope&) = delete;
};

}  // namespace qtrp::quic
