#include "qtrp/pacing/tcp.h"

#include <linux/inet_diag.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <mutex>
#include <system_error>

#include "bpf_brutal.h"
#include "qtrp/base/log.h"
#include "qtrp/io/endpoint.h"

namespace qtrp::pacing {
namespace {

constexpr std::uint64_t kMiB = 1U << 20U;

// The tcp-brutal module's socket option (its README, "usage"): the rate in bytes per second, the window as tenths of
// rate * round trip.
constexpr int kTcpBrutalParams = 23301;
struct [[gnu::packed]] TcpBrutalParams {
  std::uint64_t rate;
  std::uint32_t window_gain;
};
constexpr std::uint32_t kModuleWindowGain = 20;

constexpr int kTcpRtoMinUs = 45;  // TCP_RTO_MIN_US of linux/tcp.h, since Linux 6.15

int select_congestion(int fd, const std::string& name) {
  return setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name.data(), static_cast<socklen_t>(name.size())) == 0 ? 0 : errno;
}

std::string selected_congestion(int fd) {
  std::array<char, 16> name{};
  socklen_t size = name.size();
  if (getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name.data(), &size) != 0) return "";
  return std::string(name.data(), strnlen(name.data(), name.size()));
}

bool peer_is_loopback(int fd) {
  io::Endpoint peer;
  socklen_t size = io::Endpoint::capacity();
  if (getpeername(fd, peer.data(), &size) != 0) return false;
  peer.set_size(size);
  return peer.is_loopback();
}

std::string first_line(const char* file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  std::ranges::replace(line, '\t', ' ');
  return line;
}

int as_buffer_size(std::uint64_t bytes) {
  return static_cast<int>(std::min<std::uint64_t>(bytes, 1U << 30U));
}

// Bytes that this process may set a send buffer to. Read from a socket: /proc/sys/net/core is not in every namespace.
std::uint64_t most_askable(int fd) {
  int size = std::numeric_limits<int>::max() / 2;
  socklen_t length = sizeof size;
  if (setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, length) != 0 ||
      getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, &length) != 0) {
    return 0;
  }
  return static_cast<std::uint64_t>(size) / 2;
}

// Bytes, book-keeping and all, at which the kernel's tuning of a send buffer stops; no limit where it doesn't say.
std::uint64_t most_tuned() {
  std::ifstream in("/proc/sys/net/ipv4/tcp_wmem");
  std::uint64_t least = 0, start = 0, most = 0;
  return in >> least >> start >> most ? most : std::numeric_limits<std::uint64_t>::max();
}

// A TCP socket that is never connected, to ask the kernel with.
class Scratch {
 public:
  Scratch() : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    if (fd_ < 0) fd_ = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  }
  ~Scratch() {
    if (fd_ >= 0) close(fd_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  int fd() const { return fd_; }

 private:
  int fd_;
};

}  // namespace

struct TcpControl::State {
  mutable std::mutex mutex;
  std::string mode;
  std::optional<TcpMechanism> mechanism;
  std::string why;  // the mechanism is not the first choice
  std::unique_ptr<BpfBrutal> bpf;
  std::atomic<bool> force{false}, told_sysctls{false}, told_lost{false};
};

TcpControl::TcpControl() : state_(std::make_unique<State>()) {}
TcpControl::~TcpControl() = default;

Result<std::unique_ptr<TcpControl>> TcpControl::create(const Options& options) {
  auto control = std::unique_ptr<TcpControl>(new TcpControl);
  State& state = *control->state_;
  state.mode = options.mode;
  if (options.mode != "auto" && options.mode != "bpf" && options.mode != "module" && options.mode != "pacer") {
    return fail(ErrorKind::config, "brutal.mode '" + options.mode + "' is none of auto, bpf, module, pacer");
  }
  const Scratch scratch;
  if (scratch.fd() < 0) return fail_errno("make a TCP socket", errno);
  if (options.congestion.empty()) {
    select_congestion(scratch.fd(), "bbr");  // where that fails the kernel's default stays
  } else if (const int error = select_congestion(scratch.fd(), options.congestion); error != 0) {
    return fail(
        ErrorKind::config,
        "tcp.congestion '" + options.congestion + "' " +
            (error == EPERM ? "is not open to this user (net.ipv4.tcp_allowed_congestion_control or CAP_NET_ADMIN)"
                            : "is not in this kernel, which has: " +
                                  first_line("/proc/sys/net/ipv4/tcp_available_congestion_control")));
  }
  control->base_ = selected_congestion(scratch.fd());
  control->named_ = !options.congestion.empty();
  control->fixed_buffer_ = options.buffer;
  const int probe = 64 << 10;
  state.force = setsockopt(scratch.fd(), SOL_SOCKET, SO_RCVBUFFORCE, &probe, sizeof probe) == 0;
  control->send_ceiling_ = send_ceiling(state.force, most_askable(scratch.fd()), most_tuned());
  if (options.brutal) {
    const TcpMechanism chosen = control->mechanism();
    if ((options.mode == "bpf" && chosen != TcpMechanism::bpf) ||
        (options.mode == "module" && chosen != TcpMechanism::module)) {
      return fail(ErrorKind::config, "brutal.mode '" + options.mode + "' cannot be had here: " + state.why);
    }
  }
  return control;
}

TcpMechanism TcpControl::mechanism() {
  State& state = *state_;
  const std::lock_guard lock(state.mutex);
  if (state.mechanism) return *state.mechanism;
  const auto because = [&state](const std::string& reason) { state.why += (state.why.empty() ? "" : "; ") + reason; };
  if (state.mode == "auto" || state.mode == "bpf") {
    auto loaded = BpfBrutal::load();
    if (loaded) {
      state.bpf = std::move(*loaded);
      return state.mechanism.emplace(TcpMechanism::bpf);
    }
    because(loaded.error().message);
  }
  if (state.mode == "auto" || state.mode == "module") {
    const Scratch scratch;
    const int error = select_congestion(scratch.fd(), "brutal");
    if (error == 0) return state.mechanism.emplace(TcpMechanism::module);
    if (state.mode == "module" || error != ENOENT)
      because(std::string("tcp-brutal module: ") +
              (error == ENOENT ? "not loaded" : std::generic_category().message(error)));
  }
  return state.mechanism.emplace(TcpMechanism::pacer);
}

BpfBrutal* TcpControl::bpf() {
  return state_->bpf.get();
}
bool TcpControl::force_buffers() const {
  return state_->force;
}

void TcpControl::controller_lost(const std::string& why) {
  if (!state_->told_lost.exchange(true))
    log::warn("Brutal's BPF controller can't be selected ({}): new tunnels use the pacer over {}", why, base_);
}

std::string TcpControl::describe() const {
  const std::lock_guard lock(state_->mutex);
  if (!state_->mechanism) return base_;
  std::string text;
  switch (*state_->mechanism) {
    case TcpMechanism::bpf: text = "brutal (bpf)"; break;
    case TcpMechanism::module: text = "brutal (module)"; break;
    case TcpMechanism::pacer: text = "brutal (pacer over " + base_ + ")"; break;
  }
  return state_->why.empty() ? text : text + ", because " + state_->why;
}

std::uint64_t TcpControl::buffer_ceiling() {
  struct sysinfo info{};
  if (sysinfo(&info) != 0) return 8 * kMiB;
  return std::clamp<std::uint64_t>(std::uint64_t{info.totalram} * info.mem_unit / 16, 8 * kMiB, 64 * kMiB);
}

void TcpControl::prepare_listener(int fd) {
  prepare_connect(fd);
}

void TcpControl::prepare_connect(int fd) {
  // Only a ceiling: memory is taken when packets wait to be read.
  if (const int size = receive_buffer(); size != 0) {
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
  } else if (fixed_buffer_ != 0) {
    const int wanted = as_buffer_size(fixed_buffer_);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &wanted, sizeof wanted);
  }
}

int TcpControl::receive_buffer() {
  if (force_buffers()) return as_buffer_size(fixed_buffer_ != 0 ? fixed_buffer_ : buffer_ceiling());
  if (!state_->told_sysctls.exchange(true)) {
    log::info(
        "socket buffers follow the kernel's limits; for long or lossy links raise the last figure of net.ipv4.tcp_rmem "
        "(now: {}) and net.ipv4.tcp_wmem (now: {}), or run with CAP_NET_ADMIN",
        first_line("/proc/sys/net/ipv4/tcp_rmem"), first_line("/proc/sys/net/ipv4/tcp_wmem"));
  }
  return 0;
}

bool TunnelPacing::select(const std::string& congestion) {
  const int error = select_congestion(fd_, congestion);
  if (error != 0) log::debug("TCP_CONGESTION {}: {}", congestion, std::generic_category().message(error));
  return error == 0;
}

void TunnelPacing::apply(int fd, TimePoint now) {
  fd_ = fd;
  sampled_ = now;
  if (control_.fixed_buffer_ != 0) set_send_buffer(control_.fixed_buffer_);
  int kernels_rto = 0;
  socklen_t size = sizeof kernels_rto;
  rto_option_ = getsockopt(fd_, IPPROTO_TCP, kTcpRtoMinUs, &kernels_rto, &size) == 0;
  if (rto_option_) minimum_rto_ = kernels_rto_ = std::chrono::microseconds(kernels_rto);
  set_unsent_limit();
  choose(now);
}

void TunnelPacing::set_target(std::uint64_t bits_per_second, TimePoint now) {
  if (bits_per_second == target_bps_) return;
  target_bps_ = bits_per_second;
  if (fd_ >= 0) choose(now);
}

// Puts the socket under what the target asks for. Falls back where the kernel refuses, so a connection always goes on.
void TunnelPacing::choose(TimePoint now) {
  std::optional<TcpMechanism> wanted;
  if (target_bps_ != 0) wanted = control_.mechanism();
  const std::uint64_t bytes_per_second = target_bps_ / 8;

  if (wanted == TcpMechanism::bpf) {
    const auto told =
        closed_to_bpf_ ? fail(ErrorKind::closed, "refused before") : control_.bpf()->set_target(fd_, bytes_per_second);
    if (!told || (brutal_ != TcpMechanism::bpf && !select(control_.bpf()->name()))) {
      control_.controller_lost(told ? "it is no longer registered" : told.error().message);
      closed_to_bpf_ = true;
      wanted = TcpMechanism::pacer;
    }
  }
  if (wanted == TcpMechanism::module) {
    const TcpBrutalParams parameters{bytes_per_second, kModuleWindowGain};
    if ((brutal_ != TcpMechanism::module && !select("brutal")) ||
        setsockopt(fd_, IPPROTO_TCP, kTcpBrutalParams, &parameters, sizeof parameters) != 0) {
      wanted = TcpMechanism::pacer;
    }
  }
  const bool kernel_paces = wanted == TcpMechanism::bpf || wanted == TcpMechanism::module;
  // On loopback the socket came with one that doesn't pace (io::set_loopback_congestion).
  const bool keep = !wanted && !control_.named_ && peer_is_loopback(fd_);
  if (!kernel_paces && !keep && selected_congestion(fd_) != control_.base_) select(control_.base_);
  brutal_ = wanted;
  pacing_ = wanted == TcpMechanism::pacer;
  bbr_ = !kernel_paces && selected_congestion(fd_) == "bbr";
  tune_pacer(now);
  set_minimum_rto();
}

// The pacer lets the target's worth of new bytes through; the kernel may send them again on top, as fast as would make
// up for the loss. What the kernel held back it must not send in a burst either: never above the target by more than 2
// % over any second, so its own limit stands just above.
void TunnelPacing::tune_pacer(TimePoint now) {
  std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
  if (pacing_) {
    bucket_.set_rate(target_bps_ / 8, now);
    most = static_cast<std::uint64_t>(static_cast<double>(target_bps_) / 8 / acks_.value(now) * 1.015);
  }
  setsockopt(fd_, SOL_SOCKET, SO_MAX_PACING_RATE, &most, sizeof most);
}

std::uint64_t TunnelPacing::allowance(TimePoint now) {
  return pacing_ ? bucket_.allowance(now) : std::numeric_limits<std::uint64_t>::max();
}

TimePoint TunnelPacing::next_time(TimePoint now) {
  return pacing_ ? bucket_.next_time(std::max<std::uint64_t>(target_bps_ / 8 / 1000, 1500), now) : now;
}

void TunnelPacing::sent(std::uint64_t bytes, TimePoint now) {
  if (pacing_) bucket_.sent(bytes, now);
}

const TcpSample& TunnelPacing::sample(TimePoint now) {
  tcp_info info{};
  socklen_t size = sizeof info;
  if (fd_ < 0 || getsockopt(fd_, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return sample_;
  const std::uint64_t lost =
      info.tcpi_total_retrans - std::min<std::uint64_t>(sample_.lost_packets, info.tcpi_total_retrans);
  const std::uint64_t delivered =
      info.tcpi_delivered - std::min<std::uint64_t>(delivered_packets_, info.tcpi_delivered);
  acks_.add(now, delivered, lost);
  delivered_packets_ = info.tcpi_delivered;
  sample_.rtt = std::chrono::microseconds(info.tcpi_rtt);
  sample_.min_rtt = std::chrono::microseconds(info.tcpi_min_rtt == ~0U ? 0 : info.tcpi_min_rtt);
  sample_.retransmitted_bytes = info.tcpi_bytes_retrans;
  sample_.lost_packets = info.tcpi_total_retrans;
  sample_.delivery_rate_bps = info.tcpi_delivery_rate * 8;
  sample_.rate_bps = info.tcpi_pacing_rate == ~0ULL ? 0 : info.tcpi_pacing_rate * 8;
  sample_.target_bps = target_bps_;
  sample_.unsent_bytes = info.tcpi_notsent_bytes;
  sample_.unacked_packets = info.tcpi_unacked;
  sample_.ack_rate = acks_.measured(now);
  if (brutal_ == TcpMechanism::bpf) {
    if (const auto figures = control_.bpf()->figures(fd_)) {
      sample_.ack_rate = figures->ack_rate;
      sample_.rate_bps = figures->bytes_per_second * 8;
    }
  }
  mss_ = std::max<std::uint32_t>(info.tcpi_snd_mss, 536);
  sampled_ = now;
  foresee_pause(now);
  grow_send_buffer();
  set_unsent_limit();
  if (const bool thin = TunnelPacing::thin(sample_.unacked_packets, thin_); thin != thin_) {
    thin_ = thin;
    set_minimum_rto();
  }
  if (pacing_) tune_pacer(now);
  return sample_;
}

bool TunnelPacing::set_send_buffer(std::uint64_t bytes) const {
  const int size = as_buffer_size(bytes);
  return setsockopt(fd_, SOL_SOCKET, control_.force_buffers() ? SO_SNDBUFFORCE : SO_SNDBUF, &size, sizeof size) == 0;
}

// What is sent and not acknowledged spans several round trips while lost pieces are sent again (and again). The
// kernel's own tuning goes on until it would stop at its limit; a size that was set never shrinks.
void TunnelPacing::grow_send_buffer() {
  if (control_.send_ceiling_ == 0 || control_.fixed_buffer_ != 0) return;
  constexpr double kRoundTrips = 16;  // at 20 % loss some packet in flight is always lost five times or more
  const double rtt = std::chrono::duration<double>(sample_.rtt).count();
  const double rate = static_cast<double>(target_bps_ != 0 ? target_bps_ : sample_.delivery_rate_bps);
  const auto wanted = std::min(static_cast<std::uint64_t>(rate / 8 * rtt * kRoundTrips), control_.send_ceiling_);
  if (wanted < send_buffer_ + send_buffer_ / 4) return;
  if (send_buffer_ == 0) {
    int now_there = 0;
    socklen_t size = sizeof now_there;
    // The kernel doubles what it is given, for its own book-keeping, and reports the double.
    if (getsockopt(fd_, SOL_SOCKET, SO_SNDBUF, &now_there, &size) != 0 ||
        wanted * 2 <= static_cast<std::uint64_t>(now_there))
      return;
    if (target_bps_ == 0 && wanted < 2 * kMiB) return;
  }
  if (set_send_buffer(wanted)) send_buffer_ = wanted;
}

void TunnelPacing::set_alone(bool alone) {
  if (alone == alone_) return;
  alone_ = alone;
  if (fd_ >= 0) set_minimum_rto();
}

void TunnelPacing::set_minimum_rto() {
  const bool brutal_by_kernel = brutal_ == TcpMechanism::bpf || brutal_ == TcpMechanism::module;
  const auto wanted = thin_ && !alone_ && brutal_by_kernel ? std::min(kThinMinimumRto, kernels_rto_) : kernels_rto_;
  if (wanted == minimum_rto_) return;
  minimum_rto_ = wanted;
  if (rto_option_) {
    const int us = static_cast<int>(wanted.count());
    setsockopt(fd_, IPPROTO_TCP, kTcpRtoMinUs, &us, sizeof us);
  } else if (brutal_ == TcpMechanism::bpf) {
    // Where it fails choose() has said so, or will.
    if (!control_.bpf()->set_target(fd_, target_bps_ / 8, wanted)) log::debug("the retransmission timer stays");
  }
}

void TunnelPacing::foresee_pause(TimePoint now) {
  // Four packets each round trip: on a short way that is no pause.
  constexpr Duration kLong = std::chrono::milliseconds(5);
  if (!bbr_ || sample_.min_rtt < kLong) {
    probe_ = {};
    return;
  }
  tcp_bbr_info bbr{};
  socklen_t size = sizeof bbr;
  if (getsockopt(fd_, IPPROTO_TCP, TCP_CC_INFO, &bbr, &size) == 0 && size == sizeof bbr)
    probe_.sample(now, bbr.bbr_min_rtt, bbr.bbr_cwnd_gain);
}

std::size_t TunnelPacing::batch() const {
  constexpr std::uint32_t kLeast = 8U << 10U;
  if (!pause_near()) return std::max(kLeast, unsent_limit_ / 2);
  return std::size_t{mss_} * (probe_.pausing() ? 2 : 4);  // BBR keeps four packets in flight in its pause
}

// So much may wait in the kernel unsent that it doesn't run dry while the process waits for a processor, and no queue
// that a keystroke would notice. Brutal makes up for a dry moment; BBR takes it for the end of demand and, when it
// happens too often, never leaves its start-up.
void TunnelPacing::set_unsent_limit() {
  const bool kernel_brutal = brutal_ && *brutal_ != TcpMechanism::pacer;
  const std::uint64_t rate = kernel_brutal ? target_bps_ : std::max(sample_.rate_bps, sample_.delivery_rate_bps);
  // In its start-up BBR paces at nearly three times what is delivered.
  const bool starting = !kernel_brutal && sample_.rate_bps > sample_.delivery_rate_bps * 3 / 2;
  const std::uint64_t per_second = starting ? 100 : kernel_brutal ? 400 : 250;  // 10 ms, 2.5 ms, 4 ms
  std::uint64_t wanted = 128U << 10U;
  rate_settled_ = rate != 0 && !starting;
  if (rate != 0) wanted = std::clamp<std::uint64_t>(rate / 8 / per_second, 16U << 10U, 2U << 20U);
  if (probe_.near(sampled_)) wanted = kNothing;
  // Only changes that matter, so that a steady tunnel costs no system call.
  if (unsent_limit_ != 0 && wanted < unsent_limit_ * 2ULL && wanted * 2 > unsent_limit_) return;
  unsent_limit_ = static_cast<std::uint32_t>(wanted);
  setsockopt(fd_, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent_limit_, sizeof unsent_limit_);
}

std::string TunnelPacing::describe() const {
  if (!brutal_) return fd_ >= 0 ? selected_congestion(fd_) : control_.base_;
  switch (*brutal_) {
    case TcpMechanism::bpf: return "brutal (bpf)";
    case TcpMechanism::module: return "brutal (module)";
    case TcpMechanism::pacer: break;
  }
  return "brutal (pacer over " + control_.base_ + ")";
}

}  // namespace qtrp::pacing
