// BBR of the first version's kind (Cardwell et al., "BBR: Congestion-Based Congestion Control", ACM Queue 2016): paces
// at the rate that the path was seen to deliver, keeps about two bandwidth-delay products in flight, and doesn't take
// loss for congestion. ngtcp2's own BBR is of the later kind, which gives way above 2 % loss; this one holds to about
// 20 %. Unlike the first version it sees a queue of its own making by the round trips and lets it drain: the largest of
// many samples is a little more than the path's rate, and without that the window would stand in the queue.
#include <algorithm>
#include <array>
#include <deque>
#include <memory>
#include <utility>

#include "congestion.h"

namespace qtrp::quic {
namespace {

constexpr double kHighGain = 2.885;  // 2 / ln 2: doubles the rate each round trip
constexpr double kWindowGain = 2.0;
constexpr std::array<double, 8> kCycle{1.25, 0.75, 1, 1, 1, 1, 1, 1};
constexpr std::uint64_t kBandwidthRounds = 10;
constexpr Duration kMinRttLife = std::chrono::seconds(10);
constexpr Duration kProbeRttTime = std::chrono::milliseconds(200);
constexpr std::uint64_t kInitialPackets = 32, kLeastPackets = 4;
// What a loop's turn, delayed acknowledgements and batches hold back; on a path of less than a millisecond it is most
// of the window.
constexpr Duration kSlack = std::chrono::milliseconds(4);
// A queue that is still there after so many round trips at kBrake is somebody else's.
constexpr double kBrake = 0.9;
constexpr int kMostBrakes = 16;
constexpr int kLeastSamples = 8;

class Bbr final : public Controller {
 public:
  void on_acked(const PacketFate& packet, const PathState&, TimePoint) override {
    application_limited_ = packet.application_limited;
  }

  void on_ack(const AckSummary& ack, const PathState& path, TimePoint now) override {
    delivered_ += ack.delivered;
    bool round_start = ack.delivered_when_sent >= next_round_;
    if (round_start) {
      next_round_ = delivered_;
      ++round_;
    }
    update_bandwidth(path);
    if (ack.rtt > Duration::zero()) {
      if (round_samples_++ == 0 || ack.rtt < round_rtt_) round_rtt_ = ack.rtt;
    }
    if (round_start) {
      judge_queue();
      check_full();
    }
    update_min_rtt(ack, path, now);
    step(path, ack, round_start, now);
    update_window(ack, path);
  }

  void on_persistent_congestion(const PathState& path, TimePoint) override {
    window_ = kLeastPackets * path.packet_size;
  }

  void reset(const PathState&, TimePoint) override {
    std::uint64_t lost = lost_packets;
    PathState state = last_path;
    *this = Bbr();
    lost_packets = lost;
    last_path = state;
  }

  std::uint64_t window(const PathState& path, TimePoint) const override {
    std::uint64_t least = kLeastPackets * path.packet_size;
    if (window_ == 0) return kInitialPackets * path.packet_size;
    if (mode_ == Mode::probe_rtt) return std::max(least, std::min(window_, product(0.5)));
    return std::max(least, window_);
  }
  std::uint64_t rate(const PathState& path, TimePoint now) const override {
    if (samples_.empty()) {
      if (path.smoothed_rtt <= Duration::zero()) return 0;
      return static_cast<std::uint64_t>(kHighGain * static_cast<double>(window(path, now)) * 1e9 /
                                        static_cast<double>(path.smoothed_rtt.count()));
    }
    return std::max<std::uint64_t>(static_cast<std::uint64_t>(gain() * static_cast<double>(bandwidth())),
                                   8 * path.packet_size);
  }
  std::string_view name() const override { return "bbr"; }

 private:
  enum class Mode { startup, drain, probe_bandwidth, probe_rtt };
  struct Sample {
    std::uint64_t round, rate;
  };

  std::uint64_t bandwidth() const { return samples_.empty() ? 0 : samples_.front().rate; }
  /// `gain` bandwidth-delay products, bytes.
  std::uint64_t product(double gain) const {
    return static_cast<std::uint64_t>(gain * static_cast<double>(bandwidth()) * static_cast<double>(min_rtt_.count()) *
                                      1e-9);
  }
  double gain() const {
    switch (mode_) {
      case Mode::startup: return kHighGain;
      case Mode::drain: return 1 / kHighGain;
      case Mode::probe_bandwidth: return queue_stands_ && kCycle[phase_] == 1 ? kBrake : kCycle[phase_];
      case Mode::probe_rtt: return 1;
    }
    return 1;
  }

  /// The largest delivery rate of the last ten round trips; what the application held back counts only upwards.
  void update_bandwidth(const PathState& path) {
    while (!samples_.empty() && samples_.front().round + kBandwidthRounds < round_ && samples_.size() > 1)
      samples_.pop_front();
    if (path.delivery_rate == 0 || (application_limited_ && path.delivery_rate < bandwidth())) return;
    while (!samples_.empty() &&
           (samples_.back().rate <= path.delivery_rate || samples_.back().round + kBandwidthRounds < round_))
      samples_.pop_back();
    samples_.push_back({round_, path.delivery_rate});
  }

  /// The shortest round trip of the last round tells whether a queue stood through all of it.
  void judge_queue() {
    // Of a few, all may have waited for a delayed acknowledgement (RFC 9000, section 13.2.1).
    const bool enough = std::exchange(round_samples_, 0) >= kLeastSamples && min_rtt_ > Duration::zero();
    const bool stands = enough && round_rtt_ > min_rtt_ + std::max(min_rtt_ / 50, kSlack / 2);
    standing_rounds_ = stands ? standing_rounds_ + 1 : 0;
    queue_stands_ = stands && standing_rounds_ <= kMostBrakes;
    // In start-up, with nothing gained in the round before: the path delivers all that it can.
    if (!full_ && rounds_without_growth_ > 0 && stands && round_rtt_ > min_rtt_ + std::max(min_rtt_ / 8, kSlack))
      full_ = true;
  }

  void check_full() {
    if (full_ || application_limited_) return;
    if (bandwidth() >= full_bandwidth_ + full_bandwidth_ / 4) {
      full_bandwidth_ = bandwidth();
      rounds_without_growth_ = 0;
    } else if (++rounds_without_growth_ >= 3) {
      full_ = true;
    }
  }

  void update_min_rtt(const AckSummary& ack, const PathState& path, TimePoint now) {
    min_rtt_old_ = min_rtt_ > Duration::zero() && now - min_rtt_at_ > kMinRttLife;
    Duration rtt = ack.rtt > Duration::zero() ? ack.rtt : path.smoothed_rtt;
    if (rtt <= Duration::zero()) return;
    if (min_rtt_ == Duration::zero() || rtt <= min_rtt_ || min_rtt_old_) {
      min_rtt_ = rtt;
      min_rtt_at_ = now;
    }
  }

  void step(const PathState& path, const AckSummary& ack, bool round_start, TimePoint now) {
    if (mode_ == Mode::startup && full_) mode_ = Mode::drain;
    if (mode_ == Mode::drain && path.in_flight <= product(1)) {
      mode_ = Mode::probe_bandwidth;
      phase_ = 2 + static_cast<std::size_t>(round_ % 6);
      phase_at_ = now;
    }
    if (mode_ == Mode::probe_bandwidth) {
      bool over = now - phase_at_ > min_rtt_;
      if (kCycle[phase_] > 1) over = over && (ack.lost > 0 || ack.prior_in_flight >= product(kCycle[phase_]));
      if (kCycle[phase_] < 1) over = over || ack.prior_in_flight <= product(1);
      if (over) {
        phase_ = (phase_ + 1) % kCycle.size();
        if (phase_ == 0 && queue_stands_) phase_ = kCycle.size() - 1;  // nothing to probe for
        phase_at_ = now;
      }
    }
    if (mode_ != Mode::probe_rtt && min_rtt_old_ && !application_limited_) {
      mode_ = Mode::probe_rtt;
      probe_rtt_until_ = {};
    }
    if (mode_ == Mode::probe_rtt) {
      if (probe_rtt_until_ == TimePoint{} && path.in_flight <= window(path, now)) {
        probe_rtt_until_ = now + kProbeRttTime;
        probe_rtt_round_ = round_ + 1;
      } else if (probe_rtt_until_ != TimePoint{} && now >= probe_rtt_until_ && round_ >= probe_rtt_round_ &&
                 round_start) {
        min_rtt_at_ = now;
        mode_ = full_ ? Mode::probe_bandwidth : Mode::startup;
        phase_ = 2;
        phase_at_ = now;
      }
    }
  }

  void update_window(const AckSummary& ack, const PathState& path) {
    if (window_ == 0) window_ = kInitialPackets * path.packet_size;
    double gain_now = full_ ? kWindowGain : kHighGain;
    std::uint64_t target =
        product(gain_now) +
        static_cast<std::uint64_t>(static_cast<double>(bandwidth()) * static_cast<double>(kSlack.count()) * 1e-9) +
        3 * path.packet_size;
    if (full_) {
      window_ = std::min(window_ + ack.delivered, target);
    } else if (window_ < target || delivered_ < kInitialPackets * path.packet_size) {
      window_ += ack.delivered;
    }
    window_ = std::max(window_, kLeastPackets * path.packet_size);
  }

  Mode mode_ = Mode::startup;
  std::uint64_t window_ = 0;  // bytes, 0 until the first acknowledgement
  std::uint64_t delivered_ = 0, next_round_ = 0, round_ = 0;
  std::deque<Sample> samples_;  // falling rates: the first is the largest
  bool application_limited_ = false;
  bool full_ = false;
  std::uint64_t full_bandwidth_ = 0;
  int rounds_without_growth_ = 0;
  Duration min_rtt_{}, round_rtt_{};  // round_rtt_: the shortest of this round's samples
  int round_samples_ = 0;
  int standing_rounds_ = 0;
  bool queue_stands_ = false;
  TimePoint min_rtt_at_{};
  bool min_rtt_old_ = false;
  std::size_t phase_ = 0;
  TimePoint phase_at_{};
  TimePoint probe_rtt_until_{};
  std::uint64_t probe_rtt_round_ = 0;
};

}  // namespace

std::unique_ptr<Controller> make_bbr() {
  return std::make_unique<Bbr>();
}

}  // namespace qtrp::quic
