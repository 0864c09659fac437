// The test link's small language: "loss 5", "a>b rate=20M", "down". The same on the command line and on stdin.
#pragma once

#include <string>
#include <string_view>

#include "link_queue.h"
#include "qtrp/base/error.h"

namespace qtrp::testlink {

/// Applies one setting to both directions, or to the one that it names first ("a>b", "b>a").
/// delay, reorder_by: ms, or with a unit us, ms, s. loss, reorder, duplicate, corrupt: percent. rate: Mbit/s, or with
/// k, M, G; 0 is unlimited. queue: ms, or with a unit us, ms, s, B, kB, MB. down, stall; up ends both.
Result<void> apply(std::string_view setting, LinkParameters& a_to_b, LinkParameters& b_to_a);

}  // namespace qtrp::testlink
