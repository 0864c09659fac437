// One direction of the test link as a pure model: a drop-tail queue before a transmitter of a given rate, then a wire
// that delays, loses, reorders, duplicates and corrupts. The caller brings packets and the time, and takes packets back
// when they are due.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <queue>
#include <vector>

#include "qtrp/base/time.h"

namespace qtrp::testlink {

struct Buffer {
  static constexpr std::size_t kCapacity = 2048;
  std::uint32_t size = 0;
  std::byte data[kCapacity];
};
using Packet = std::unique_ptr<Buffer>;

/// Packets for reuse, so that a busy link allocates nothing.
class PacketPool {
 public:
  Packet take();
  void give_back(Packet packet) { free_.push_back(std::move(packet)); }

 private:
  std::vector<Packet> free_;
};

struct LinkParameters {
  Duration delay{};               ///< one way, after the transmitter
  std::uint64_t rate_bps = 0;     ///< bits of IP packets per second; 0 is unlimited
  std::uint64_t queue_bytes = 0;  ///< drop-tail limit of what waits for the transmitter; 0: queue_time decides
  Duration queue_time = std::chrono::milliseconds(100);      ///< the same as time at rate_bps
  double loss = 0, reorder = 0, duplicate = 0, corrupt = 0;  ///< probabilities of a packet that was transmitted
  Duration reorder_by = std::chrono::milliseconds(5);        ///< how much later a reordered packet comes
  bool down = false;                                         ///< loses everything, also what is on the wire
  bool stalled = false;  ///< the transmitter waits; the queue fills; what is on the wire arrives
};

struct LinkCounters {
  std::uint64_t packets = 0, bytes = 0;  ///< offered
  std::uint64_t delivered_packets = 0, delivered_bytes = 0;
  std::uint64_t dropped = 0;  ///< by the full queue
  std::uint64_t lost = 0;     ///< by `loss` and `down`
  std::uint64_t reordered = 0, duplicated = 0, corrupted = 0;
  std::uint64_t queue_bytes_max = 0;
};

class LinkDirection {
 public:
  LinkDirection(PacketPool& pool, std::uint64_t seed) : pool_(pool), random_(seed * 2 + 1) {}

  void set(const LinkParameters& parameters, TimePoint now);
  const LinkParameters& parameters() const { return parameters_; }
  const LinkCounters& counters() const { return counters_; }

  /// A packet arrives at the queue. Times never go back.
  void offer(Packet packet, TimePoint now);
  /// The next packet that is due at `now`, or null.
  Packet take(TimePoint now);
  /// When take() will give the next packet, or TimePoint::max().
  TimePoint next() const;

 private:
  struct Waiting {
    Packet packet;
    TimePoint arrived;
  };
  struct Flying {
    TimePoint due;
    std::uint64_t sequence;
    Packet packet;
  };
  struct Later {
    bool operator()(const Flying& a, const Flying& b) const {
      return a.due != b.due ? a.due > b.due : a.sequence > b.sequence;
    }
  };

  std::uint64_t queue_limit() const;
  Duration transmit_time(std::uint32_t size, std::uint64_t& carry) const;
  void transmit_until(TimePoint now);
  void launch(Packet packet, TimePoint sent);
  void fly(Packet packet, TimePoint due) { wire_.push_back({due, sequence_++, std::move(packet)}); }
  void drop(Packet packet, std::uint64_t& counter);
  double chance();
  std::uint64_t random();

  PacketPool& pool_;
  LinkParameters parameters_;
  LinkCounters counters_;
  std::deque<Waiting> queue_;
  std::uint64_t queued_bytes_ = 0;
  TimePoint free_at_{};                                           // when the transmitter is done with its last packet
  std::uint64_t carry_ = 0;                                       // remainder of the last transmit time, in bit * 1e9
  TimePoint last_due_{};                                          // keeps the order when the delay is lowered
  std::deque<Flying> wire_;                                       // in order
  std::priority_queue<Flying, std::vector<Flying>, Later> late_;  // reordered ones
  std::uint64_t sequence_ = 0, random_;
};

}  // namespace qtrp::testlink
