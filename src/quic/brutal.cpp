// Brutal as a QUIC congestion controller: the arithmetic is pacing::Brutal's, the samples are packets acknowledged and
// lost.
#include "qtrp/pacing/brutal.h"

#include <algorithm>
#include <memory>

#include "congestion.h"
#include "wire.h"

namespace qtrp::quic {
namespace {

// The target counts what the tunnel writes, as it does with TCP, and not what every datagram has around it: short
// header with the server's connection id and a packet number of two bytes, and the AEAD's tag (RFC 9000, 17.3; RFC
// 9001, 5.3).
constexpr std::uint64_t kPacketOverhead = 1 + kServerIdLength + 2 + 16;

class BrutalController final : public Controller {
 public:
  explicit BrutalController(std::uint64_t target) : brutal_(target) {}

  void on_acked(const PacketFate&, const PathState&, TimePoint now) override { brutal_.on_packets(now, 1, 0); }
  void on_lost(const PacketFate&, const PathState&, TimePoint now) override { brutal_.on_packets(now, 0, 1); }
  void reset(const PathState&, TimePoint) override { brutal_ = pacing::Brutal(brutal_.target()); }

  std::uint64_t window(const PathState& path, TimePoint now) const override {
    return brutal_.window(now, path.smoothed_rtt, path.packet_size);
  }
  std::uint64_t rate(const PathState& path, TimePoint now) const override {
    const auto size = std::max(path.packet_size, 2 * kPacketOverhead);
    return brutal_.rate(now) * size / (size - kPacketOverhead);
  }
  std::string_view name() const override { return "brutal"; }
  void set_target(std::uint64_t target) override { brutal_.set_target(target); }
  std::uint64_t target() const override { return brutal_.target(); }
  double ack_rate(TimePoint now) const override { return brutal_.ack_rate().measured(now); }

 private:
  pacing::Brutal brutal_;
};

}  // namespace

std::unique_ptr<Controller> make_brutal(std::uint64_t target_bytes_per_second) {
  return std::make_unique<BrutalController>(target_bytes_per_second);
}

}  // namespace qtrp::quic
