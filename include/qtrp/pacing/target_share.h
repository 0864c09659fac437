// One target for several tunnels of a client: each gets what it can use, and who has more to send gets what the others
// leave. The arithmetic takes the time as an argument; a lock lets tunnels on different loops report.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>

#include "qtrp/base/time.h"

namespace qtrp::pacing {

class TargetShare {
 public:
  using Member = std::uint64_t;
  static constexpr Duration kReportInterval = std::chrono::milliseconds(100);

  explicit TargetShare(std::uint64_t bits_per_second) : target_(bits_per_second) {}

  /// All members follow with their next report. 0 switches Brutal off for all of them. Any thread.
  void set_target(std::uint64_t bits_per_second);
  std::uint64_t target() const;
  std::size_t members() const;

  /// A new tunnel; its first share comes with its first report. Any thread.
  Member join();
  void leave(Member member);

  /// Call every kReportInterval: `bytes_sent` is the member's total so far. Returns its target in bits per second until
  /// the next report. All shares together are the target. One tunnel alone, or the only one with more to send, gets all
  /// of it but a small reserve for the idle ones, which a tunnel that starts to send may use until its next report. Any
  /// thread.
  std::uint64_t report(Member member, std::uint64_t bytes_sent, TimePoint now);

 private:
  struct State {
    std::uint64_t bytes = 0;
    TimePoint reported{};
    bool known = false;  // reported at least once
    bool hungry = true;  // used what it was given: may want more
    double demand = 0;   // bits per second that it used, and half as much again
    double share = 0;
  };
  double fair_share(const State& of) const;

  mutable std::mutex mutex_;
  std::uint64_t target_;
  std::map<Member, State> members_;
  Member next_ = 1;
};

}  // namespace qtrp::pacing
