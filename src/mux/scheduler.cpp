#include "mux/scheduler.h"

#include <algorithm>

namespace qtrp::mux {
namespace {

constexpr std::uint32_t kRoundBytes = 1U << 20;  // what a round of all streams aims to hold
constexpr std::int32_t kLeastQuantum = 4096;     // below it headers and wake-ups would cost more than fairness is worth
constexpr std::int32_t kLeastTurn = 512;         // less left of a turn is kept for the next

}  // namespace

void TurnList::push_back(Stream& stream, Queue name) {
  stream.queue = name;
  stream.previous_turn = tail_;
  stream.next_turn = nullptr;
  (tail_ != nullptr ? tail_->next_turn : head_) = &stream;
  tail_ = &stream;
}

void TurnList::remove(Stream& stream) {
  (stream.previous_turn != nullptr ? stream.previous_turn->next_turn : head_) = stream.next_turn;
  (stream.next_turn != nullptr ? stream.next_turn->previous_turn : tail_) = stream.previous_turn;
  stream.queue = Queue::none;
}

std::int32_t Scheduler::quantum() const {
  const auto share = kRoundBytes / static_cast<std::uint32_t>(std::max<std::size_t>(count_, 1));
  return std::max(static_cast<std::int32_t>(std::min(share, max_quantum_)), kLeastQuantum);
}

void Scheduler::next_round(Stream& stream) {
  stream.deficit += quantum();
  stream.round = round_ + 1;
  turns_.push_back(stream, Queue::turns);
}

void Scheduler::add(Stream& stream) {
  if (stream.queue != Queue::none) return;
  ++count_;
  if (static_cast<std::int32_t>(stream.round - round_) < 0) {
    stream.deficit = quantum();
    stream.round = round_;
  }
  if (stream.round != round_) {  // its next turn was given already: it waits for it
    turns_.push_back(stream, Queue::turns);
  } else if (stream.deficit >= kLeastTurn) {
    fresh_.push_back(stream, Queue::fresh);
  } else {
    next_round(stream);
  }
}

void Scheduler::remove(Stream& stream) {
  if (stream.queue == Queue::none) return;
  (stream.queue == Queue::fresh ? fresh_ : turns_).remove(stream);
  --count_;
}

void Scheduler::defer(Stream& stream) {
  if (stream.queue == Queue::none) return;
  (stream.queue == Queue::fresh ? fresh_ : turns_).remove(stream);
  next_round(stream);
}

Stream* Scheduler::pick(bool fresh_only) {
  for (;;) {
    TurnList& list = fresh_.head() != nullptr || fresh_only ? fresh_ : turns_;
    Stream* stream = list.head();
    if (stream == nullptr) return nullptr;
    if (&list == &turns_ && stream->round != round_) round_ = stream->round;
    if (stream->deficit >= kLeastTurn) {
      // More streams than when the turn was given make it shorter.
      stream->deficit = std::min(stream->deficit, quantum());
      return stream;
    }
    list.remove(*stream);
    next_round(*stream);
  }
}

}  // namespace qtrp::mux
