// Brutal while there is a target, BBR while there is none: a target may come and go while the connection runs.
#include <memory>

#include "congestion.h"

namespace qtrp::quic {
namespace {

class Steering final : public Controller {
 public:
  explicit Steering(std::uint64_t target) { set_target(target); }

  void on_sent(std::uint64_t bytes, const PathState& state, TimePoint now) override {
    now_->on_sent(bytes, state, now);
  }
  void on_acked(const PacketFate& packet, const PathState& state, TimePoint now) override {
    now_->on_acked(packet, state, now);
  }
  void on_lost(const PacketFate& packet, const PathState& state, TimePoint now) override {
    now_->on_lost(packet, state, now);
  }
  void on_ack(const AckSummary& ack, const PathState& state, TimePoint now) override { now_->on_ack(ack, state, now); }
  void on_persistent_congestion(const PathState& state, TimePoint now) override {
    now_->on_persistent_congestion(state, now);
  }
  void reset(const PathState& state, TimePoint now) override { now_->reset(state, now); }
  std::uint64_t window(const PathState& state, TimePoint now) const override { return now_->window(state, now); }
  std::uint64_t rate(const PathState& state, TimePoint now) const override { return now_->rate(state, now); }
  std::string_view name() const override { return now_->name(); }
  std::uint64_t target() const override { return now_->target(); }
  double ack_rate(TimePoint now) const override { return now_->ack_rate(now); }

  void set_target(std::uint64_t target) override {
    if (now_ && target > 0 && now_->target() > 0) {
      now_->set_target(target);
    } else if (!now_ || (target > 0) != (now_->target() > 0)) {
      now_ = target > 0 ? make_brutal(target) : make_bbr();
    }
  }

 private:
  std::unique_ptr<Controller> now_;
};

}  // namespace

std::unique_ptr<Controller> make_steering(std::uint64_t target_bytes_per_second) {
  return std::make_unique<Steering>(target_bytes_per_second);
}

}  // namespace qtrp::quic
