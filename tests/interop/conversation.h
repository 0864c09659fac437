// What is said on a stream in the interoperability tests, in C++: the mirror of go/exchange.go.
#pragma once

#include <array>
#include <cstdint>

#include "qtrp/session/session.h"

namespace qtrp::mux::interop {

/// One stream's talk: the opener's (request, then an answer) or the other end's.
class Conversation final : public session::Source {
 public:
  /// The opener's side.
  Conversation(std::uint64_t seed, std::uint64_t size, std::uint64_t answer);
  /// The other end's side: learns the rest from the head.
  Conversation() = default;

  session::Produced produce(MutableBytes into) override;
  /// Takes what arrived. True: there is something to say now that there was not.
  bool receive(Bytes body);
  /// The peer's direction ended.
  void finish();
  /// Both directions said all they should, and nothing was wrong.
  bool complete() const { return finished_ && said_all_ && correct_; }
  bool correct() const { return correct_; }
  std::uint64_t received() const { return received_; }

 private:
  bool opener_ = false;
  std::uint64_t seed_ = 0, size_ = 0, answer_ = 0;
  std::array<std::byte, 24> head_{};  // the opener's head, both ways
  std::size_t head_done_ = 0;
  std::uint64_t sent_ = 0;      // of our pattern
  std::uint64_t received_ = 0;  // of the peer's pattern
  std::uint64_t sum_ = 0xcbf29ce484222325U;
  std::array<std::byte, 8> told_{};  // the checksum, sent or received
  std::size_t told_done_ = 0;
  bool finished_ = false;
  bool said_all_ = false;
  bool correct_ = true;
};

}  // namespace qtrp::mux::interop
