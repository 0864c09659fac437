// One stream's state: what both directions, the scheduler and the list of owed frames know about it. Plain data; 152
// bytes, so that ten thousand idle streams cost little.
#pragma once

#include <cstdint>

#include "qtrp/base/time.h"
#include "qtrp/session/session.h"

namespace qtrp::mux {

/// Frames that a stream owes its peer, one bit each: however often a thing is asked for, it is sent once.
enum Owed : std::uint8_t {
  kOweOpen = 1,
  kOweAccept = 2,
  kOweWindow = 4,
  kOweFinish = 8,
  kOweReset = 16,
  kOweYield = 32,
};

enum class Queue : std::uint8_t { none, fresh, turns };

struct Stream {
  std::uint32_t id = 0;
  std::uint8_t owed = 0;
  Queue queue = Queue::none;
  bool ours : 1 = false;        ///< opened by this end
  bool unaccepted : 1 = false;  ///< yamux: our SYN was not acknowledged yet
  bool ready : 1 = false;       ///< the source has something to say
  bool finish_sent : 1 = false;
  bool finish_received : 1 = false;
  bool updated : 1 = false;     ///< the peer has named a window of its own for this stream
  bool gone : 1 = false;        ///< no longer in the table; kept only for the lists below
  bool in_control : 1 = false;  ///< in the list of streams that owe frames
  bool in_events : 1 = false;   ///< in the list of streams whose owner is still to be told of the reset
  bool yielding : 1 = false;    ///< idle with credit to give back

  session::ResetCode code = session::ResetCode::unspecified;
  std::uint32_t round = 0;   ///< scheduler: the round that `deficit` was given for
  std::int32_t deficit = 0;  ///< scheduler: bytes left of its turn
  std::uint32_t window = 0;  ///< receive window aimed at
  std::uint32_t active = 0;  ///< seconds since the session began at the last sign of life (foreign half-close)

  session::Source* source = nullptr;
  void* owner = nullptr;
  Stream* previous_turn = nullptr;
  Stream* next_turn = nullptr;
  Stream* next_control = nullptr;
  Stream* next_event = nullptr;

  // Sending, in bytes since the stream began.
  std::uint64_t sent = 0;
  std::uint64_t send_limit = 0;
  std::uint64_t peer_consumed = 0;

  // Receiving, in bytes since the stream began.
  std::uint64_t received = 0;
  std::uint64_t moved = 0;
  std::uint64_t limit = 0;          ///< announced to the peer, or assumed by it
  std::uint64_t highest_limit = 0;  ///< what the peer is judged by
  std::uint64_t tune_moved = 0;     ///< `moved` when the current measurement of the window began
  TimePoint tune_began{};

  std::uint64_t send_window() const { return send_limit > sent ? send_limit - sent : 0; }
  std::uint64_t buffered() const { return received - moved; }
};

}  // namespace qtrp::mux
