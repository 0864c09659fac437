// Receive windows and the session's bound. Between our own ends a window follows the link (it doubles while a stream
// drains it within two round trips) and shrinks as the session's buffer fills; with foreign peers it is fixed. What was
// granted is never taken back.
//
// The bound counts bodies handed out and not yet moved. Grants above the initial window are reserved from it, so they
// cannot overcommit it; initial windows may, and what overruns the bound all the same costs the fullest stream
// (receive.cpp).
#pragma once

#include <cstdint>

#include "mux/frame.h"
#include "mux/stream.h"
#include "qtrp/mux/mux.h"

namespace qtrp::mux {

class FlowControl {
 public:
  explicit FlowControl(const Options& options);

  /// Whether windows follow the link from now on (the peer is ours), or are fixed.
  void set_following(bool following) { following_ = following; }
  bool following() const { return following_; }
  void set_bound(std::size_t bytes) { bound_ = bytes; }
  std::size_t bound() const { return bound_; }
  void set_rtt(Duration rtt) { rtt_ = rtt; }
  std::size_t buffered() const { return buffered_; }
  std::size_t room() const { return bound_ > buffered_ ? bound_ - buffered_ : 0; }

  /// Sets a new stream's receive side up.
  void begin(Stream& stream, TimePoint now);
  /// The peer was told, or turned out not to know, our initial window (negotiation): adapts a stream that was there
  /// before.
  void rebase(Stream& stream) const;
  /// `n` bytes of the stream were handed out.
  void hand_out(Stream& stream, std::size_t n, TimePoint now);
  /// `n` of them are done with (at most those outstanding).
  void move(Stream& stream, std::size_t n, TimePoint now);
  /// The stream holds nothing any more.
  void release(Stream& stream);
  /// Whether telling the peer a new limit is worth a frame.
  bool worth_update(const Stream& stream, std::size_t streams) const;
  /// The limit to tell now; at least the present one.
  std::uint64_t next_limit(const Stream& stream, std::size_t streams) const;
  void granted(Stream& stream, std::uint64_t limit);
  /// The peer keeps only `kept` bytes of its credit.
  void yielded(Stream& stream, std::uint32_t kept);
  /// Initial window that the peer may use at a new stream of ours.
  std::uint32_t initial() const { return initial_; }

 private:
  std::uint64_t target(const Stream& stream, std::size_t streams) const;
  std::uint64_t excess(const Stream& stream) const;
  void follow(Stream& stream, TimePoint now) const;
  Duration round_trip() const;  // that steers the windows

  Protocol protocol_;
  bool following_;
  std::uint32_t initial_;
  std::uint32_t fixed_;
  std::uint32_t most_;
  std::size_t bound_;
  std::size_t buffered_ = 0;
  std::uint64_t reserved_ = 0;  // sum of excess() over all streams
  Duration rtt_{};
};

}  // namespace qtrp::mux
