#include "qtrp/pacing/target_share.h"

#include <algorithm>
#include <vector>

namespace qtrp::pacing {
namespace {

constexpr double kReserve = 0.02;  // of the target, for each tunnel that has nothing to send: its first 100 ms
constexpr double kHungry = 0.8;    // of its share; who uses more may be held back by it

}  // namespace

void TargetShare::set_target(std::uint64_t bits_per_second) {
  const std::lock_guard lock(mutex_);
  target_ = bits_per_second;
}

std::uint64_t TargetShare::target() const {
  const std::lock_guard lock(mutex_);
  return target_;
}

std::size_t TargetShare::members() const {
  const std::lock_guard lock(mutex_);
  return members_.size();
}

TargetShare::Member TargetShare::join() {
  const std::lock_guard lock(mutex_);
  members_[next_];
  return next_++;
}

void TargetShare::leave(Member member) {
  const std::lock_guard lock(mutex_);
  members_.erase(member);
}

// Max-min: the modest get what they ask for, the hungry split the rest evenly; what nobody asks for is split evenly
// too.
double TargetShare::fair_share(const State& of) const {
  const auto target = static_cast<double>(target_);
  const double reserve = std::min(kReserve * target, target / static_cast<double>(members_.size()));
  const auto wanted = [&](const State& state) {
    return state.hungry ? target : std::clamp(state.demand, reserve, target);
  };
  std::vector<double> wishes;
  for (const auto& [id, state] : members_) wishes.push_back(wanted(state));
  std::ranges::sort(wishes);
  double left = target, level = 0;
  for (std::size_t i = 0; i < wishes.size(); ++i) {
    level = left / static_cast<double>(wishes.size() - i);
    if (wishes[i] >= level) return std::min(wanted(of), level);
    left -= wishes[i];
  }
  return wanted(of) + left / static_cast<double>(wishes.size());
}

std::uint64_t TargetShare::report(Member member, std::uint64_t bytes_sent, TimePoint now) {
  const std::lock_guard lock(mutex_);
  const auto found = members_.find(member);
  if (found == members_.end() || target_ == 0) return 0;
  State& state = found->second;
  if (state.known && now > state.reported) {
    const double used = static_cast<double>(bytes_sent - std::min(bytes_sent, state.bytes)) * 8 /
                        std::chrono::duration<double>(now - state.reported).count();
    state.hungry = used > kHungry * state.share;
    state.demand = used * 1.5;
  }
  state.known = true;
  state.bytes = bytes_sent;
  state.reported = now;
  state.share = fair_share(state);
  return static_cast<std::uint64_t>(state.share);
}

}  // namespace qtrp::pacing
