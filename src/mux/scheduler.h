// Whose turn it is to send: deficit round robin by bytes (Shreedhar and Varghese, 1995) with the new flows of FQ-CoDel
// (RFC 8290, section 4.2): a stream that was idle for a round goes before those that were not, with one quantum.
#pragma once

#include <cstdint>

#include "mux/stream.h"

namespace qtrp::mux {

/// A doubly linked list through Stream's turn links.
class TurnList {
 public:
  Stream* head() const { return head_; }
  void push_back(Stream& stream, Queue name);
  void remove(Stream& stream);

 private:
  Stream* head_ = nullptr;
  Stream* tail_ = nullptr;
};

class Scheduler {
 public:
  /// Most bytes of one turn; the quantum when nobody competes.
  void set_max_quantum(std::uint32_t bytes) { max_quantum_ = bytes; }

  /// The stream has something to send and may. Idempotent.
  void add(Stream& stream);
  /// It has not, or may not, or is gone. Idempotent.
  void remove(Stream& stream);
  /// The stream whose turn it is, with deficit > 0 for what it may send now; nullptr: nobody. Stays the same until
  /// charge, add or remove.
  /// With `fresh_only` those that were not idle before are passed over.
  Stream* pick(bool fresh_only = false);
  /// The stream whose turn it is has more to say than a keystroke: it waits for its next turn among those that were not
  /// idle.
  void defer(Stream& stream);
  /// The stream sent `bytes` of its turn.
  void charge(Stream& stream, std::size_t bytes) { stream.deficit -= static_cast<std::int32_t>(bytes); }
  /// A stream that was just opened counts as one that was idle.
  void begin(Stream& stream) const { stream.round = round_ - 1; }
  bool empty() const { return count_ == 0; }
  std::size_t size() const { return count_; }

  /// Bytes of a turn with as many streams as there are now.
  std::int32_t quantum() const;

 private:
  void next_round(Stream& stream);

  TurnList fresh_;
  TurnList turns_;
  std::size_t count_ = 0;
  std::uint32_t round_ = 1;
  std::uint32_t max_quantum_ = 65536;
};

}  // namespace qtrp::mux
