// When to try again: at once, then after 0.5 s, doubling up to a minute, each with jitter so that a thousand clients of
// a restarted server do not come back in one wave. Pure: the random number is an argument.
#pragma once

#include <cstdint>

#include "qtrp/base/time.h"

namespace qtrp::client {

class Backoff {
 public:
  /// Wait before the next try. `random` is any 32 random bits.
  Duration next(std::uint32_t random);
  /// The last try worked.
  void reset() { failures_ = 0; }
  static constexpr std::chrono::milliseconds kFirst{500};
  static constexpr std::chrono::seconds kMost{60};

 private:
  unsigned failures_ = 0;
};

}  // namespace qtrp::client
