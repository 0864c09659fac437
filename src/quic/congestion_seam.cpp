// Puts a Controller where ngtcp2 would have its Reno: the linker's --wrap sends ngtcp2_cc_reno_init here. Without the
// exact ngtcp2 (see CMakeLists.txt) the seam is absent and has_own_congestion() says so.
#include <string>

#include "congestion.h"

#ifdef QTRP_QUIC_SEAM

#include "ngtcp2_cc_abi.h"

namespace qtrp::quic {
namespace {

thread_local Controller* wanted = nullptr;

Controller& controller_of(qtrp_cc* cc) {
  return *reinterpret_cast<Controller*>(static_cast<std::uintptr_t>(reinterpret_cast<qtrp_cc_reno*>(cc)->own));
}
TimePoint time_of(ngtcp2_tstamp ts) {
  return TimePoint(std::chrono::nanoseconds(static_cast<std::int64_t>(ts)));
}
Duration duration_of(ngtcp2_duration d) {
  return d == UINT64_MAX ? Duration{} : Duration(std::chrono::nanoseconds(static_cast<std::int64_t>(d)));
}

PathState state_of(const qtrp_cc_stat& stat) {
  bool measured = stat.first_rtt_sample != UINT64_MAX;
  return {measured ? duration_of(stat.smoothed_rtt) : Duration{}, measured ? duration_of(stat.min_rtt) : Duration{},
          stat.in_flight, stat.packet_size, stat.delivery_rate};
}
PacketFate fate_of(const qtrp_cc_packet& packet) {
  return {packet.length, time_of(packet.sent), packet.application_limited != 0};
}

template <typename F>
void with(qtrp_cc* cc, qtrp_cc_stat* stat, ngtcp2_tstamp ts, F&& call) {
  Controller& controller = controller_of(cc);
  controller.last_path = state_of(*stat);
  call(controller, controller.last_path);
  stat->cwnd = controller.window(controller.last_path, time_of(ts));
}

void on_acked(qtrp_cc* cc, qtrp_cc_stat* stat, const qtrp_cc_packet* packet, ngtcp2_tstamp ts) {
  with(cc, stat, ts, [&](Controller& c, const PathState& path) { c.on_acked(fate_of(*packet), path, time_of(ts)); });
}
void on_lost(qtrp_cc* cc, qtrp_cc_stat* stat, const qtrp_cc_packet* packet, ngtcp2_tstamp ts) {
  with(cc, stat, ts, [&](Controller& c, const PathState& path) {
    ++c.lost_packets;
    c.on_lost(fate_of(*packet), path, time_of(ts));
  });
}
void on_persistent_congestion(qtrp_cc* cc, qtrp_cc_stat* stat, ngtcp2_tstamp ts) {
  with(cc, stat, ts, [&](Controller& c, const PathState& path) { c.on_persistent_congestion(path, time_of(ts)); });
}
void on_ack(qtrp_cc* cc, qtrp_cc_stat* stat, const qtrp_cc_ack* ack, ngtcp2_tstamp ts) {
  with(cc, stat, ts, [&](Controller& c, const PathState& path) {
    c.on_ack({ack->prior_in_flight, ack->delivered, ack->lost, ack->delivered_when_sent, duration_of(ack->rtt)}, path,
             time_of(ts));
  });
}
void on_sent(qtrp_cc* cc, qtrp_cc_stat* stat, const qtrp_cc_packet* packet) {
  with(cc, stat, packet->sent,
       [&](Controller& c, const PathState& path) { c.on_sent(packet->length, path, time_of(packet->sent)); });
}
void reset(qtrp_cc* cc, qtrp_cc_stat* stat, ngtcp2_tstamp ts) {
  with(cc, stat, ts, [&](Controller& c, const PathState& path) { c.reset(path, time_of(ts)); });
}

}  // namespace

ControllerScope::ControllerScope(Controller* controller) {
  wanted = controller;
}
ControllerScope::~ControllerScope() {
  wanted = nullptr;
}

bool has_own_congestion() {
  return true;
}

}  // namespace qtrp::quic

extern "C" void __wrap_ngtcp2_cc_reno_init(qtrp_cc_reno* reno, void* log) {
  using namespace qtrp::quic;
  if (!wanted) {
    __real_ngtcp2_cc_reno_init(reno, log);
    return;
  }
  reno->cc = {.log = log,
              .on_acked = on_acked,
              .on_lost = on_lost,
              .congestion_event = nullptr,
              .on_spurious_congestion = nullptr,
              .on_persistent_congestion = on_persistent_congestion,
              .on_ack = on_ack,
              .on_sent = on_sent,
              .new_rtt_sample = nullptr,
              .reset = reset,
              .event = nullptr};
  reno->own = reinterpret_cast<std::uintptr_t>(wanted);
}

#else

namespace qtrp::quic {
ControllerScope::ControllerScope(Controller*) {}
ControllerScope::~ControllerScope() = default;
bool has_own_congestion() {
  return false;
}
}  // namespace qtrp::quic

#endif

namespace qtrp::quic {

std::string congestion_name(const Options& options) {
  if (options.brutal_target > 0) return has_own_congestion() ? "brutal" : "bbr (ngtcp2)";
  if (options.congestion == "bbr") return has_own_congestion() ? "bbr" : "bbr (ngtcp2)";
  return options.congestion;
}

}  // namespace qtrp::quic
