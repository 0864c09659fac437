#include "client/backoff.h"

#include <algorithm>

namespace qtrp::client {

Duration Backoff::next(std::uint32_t random) {
  const unsigned failure = failures_++;
  if (failure == 0) return Duration::zero();
  const Duration whole = std::min<Duration>(kMost, kFirst * (1U << std::min(failure - 1, 16U)));
  // Between half of it and all of it.
  return whole / 2 + Duration((whole / 2).count() / 0xffff * (random & 0xffffU));
}

}  // namespace qtrp::client
