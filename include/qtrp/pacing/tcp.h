// Congestion control, pacing and buffers of a tunnel's TCP socket. TcpControl is made once a daemon and chooses how
// Brutal runs here (a BPF congestion controller, the tcp-brutal module, or a token bucket over the base controller);
// TunnelPacing is one tunnel socket's share of it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "qtrp/base/error.h"
#include "qtrp/base/time.h"
#include "qtrp/pacing/ack_rate.h"
#include "qtrp/pacing/probe_rtt.h"
#include "qtrp/pacing/token_bucket.h"

namespace qtrp::pacing {

class BpfBrutal;

/// How Brutal's rate is enforced on TCP.
enum class TcpMechanism : std::uint8_t {
  bpf,  ///< our congestion controller, loaded into the kernel (needs CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, kernel BTF)
  module,  ///< the tcp-brutal kernel module
  pacer,   ///< the base controller, capped from user space: it can slow TCP down, but not make it ignore loss
};

class TcpControl {
 public:
  struct Options {
    std::string mode = "auto";    ///< brutal.mode: auto, bpf, module, pacer
    std::string congestion = {};  ///< tcp.congestion: the base controller; empty: bbr where the kernel has it, else the
                                  ///< kernel's default; on loopback one that doesn't pace
    std::uint64_t buffer = 0;     ///< tcp.buffer: bytes of each socket buffer; 0: follow the link
    bool brutal = false;          ///< a target is configured: choose the mechanism now rather than at the first target
  };
  /// Fails with kind config when a controller or mode that was named by hand cannot be had here; the text says why.
  static Result<std::unique_ptr<TcpControl>> create(const Options& options);
  ~TcpControl();
  TcpControl(const TcpControl&) = delete;
  TcpControl& operator=(const TcpControl&) = delete;

  /// One line for the log: "bbr"; "brutal (bpf)"; "brutal (pacer over bbr), because loading a BPF program needs
  /// CAP_BPF". Says how Brutal would run only once it was chosen. Any thread.
  std::string describe() const;
  /// The base controller's name. Constant.
  const std::string& base() const { return base_; }

  /// Before listen(): the receive buffer's ceiling, which accepted sockets inherit (their window scale is fixed by the
  /// SYN, RFC 7323). Forced past net.core.rmem_max where allowed (CAP_NET_ADMIN), else left to the kernel's own tuning;
  /// logs the sysctls to raise, once. Any thread.
  void prepare_listener(int fd);
  /// The same for who sets the listener's buffer himself: bytes for SO_RCVBUFFORCE, or 0 to leave it alone.
  int receive_buffer();
  /// Before connect(): the same.
  void prepare_connect(int fd);

  /// The most that either buffer is grown to, in bytes: by memory of the machine, from 8 to 64 MiB.
  static std::uint64_t buffer_ceiling();

  /// The most bytes that a send buffer may be set to: the ceiling where it may be forced; else what any process may ask
  /// for (`askable`, net.core.wmem_max), as long as the kernel's own tuning stops before that; else 0, leave it to the
  /// kernel. `tuned` is where the tuning stops (the last figure of net.ipv4.tcp_wmem): the kernel counts its
  /// book-keeping there, and doubles what it is asked for to have room for it (socket(7)).
  static std::uint64_t send_ceiling(bool forced, std::uint64_t askable, std::uint64_t tuned) {
    if (forced) return buffer_ceiling();
    return askable > tuned / 2 ? std::min(askable, buffer_ceiling()) : 0;
  }

 private:
  friend class TunnelPacing;
  struct State;
  TcpControl();
  TcpMechanism mechanism();  // chooses at the first call
  BpfBrutal* bpf();          // null unless mechanism() is bpf
  bool force_buffers() const;
  void controller_lost(const std::string& why);

  std::string base_;
  bool named_ = false;  // by tcp.congestion: it holds on loopback as well
  std::uint64_t fixed_buffer_ = 0;
  std::uint64_t send_ceiling_ = 0;
  std::unique_ptr<State> state_;
};

/// One look at a tunnel's socket; all figures since it was connected. What the kernel doesn't tell is 0.
struct TcpSample {
  Duration rtt{};  ///< smoothed
  Duration min_rtt{};
  std::uint64_t retransmitted_bytes = 0;
  std::uint64_t lost_packets = 0;       ///< segments sent again
  std::uint64_t delivery_rate_bps = 0;  ///< the kernel's latest estimate, of payload
  std::uint64_t rate_bps = 0;           ///< pacing rate now: payload and retransmissions
  std::uint64_t target_bps = 0;         ///< Brutal's target; 0 without
  double ack_rate = 0;                  ///< share of packets that arrive, over 5 s, without the floor; 0 unknown
  std::uint64_t unsent_bytes = 0;       ///< in the kernel and not sent yet
  std::uint64_t unacked_packets = 0;
};

/// Not thread-safe; belongs to the tunnel's loop. The TcpControl must outlive it.
///
/// The target counts TCP payload, as the tunnel writes it (records, frames and all), without IP and TCP headers. What
/// has to be sent again comes on top, so that the target arrives.
class TunnelPacing {
 public:
  explicit TunnelPacing(TcpControl& control) : control_(control), bucket_(0, kBurst, kMinimumBurst) {}

  /// How long after the round trip, at least, a thin tunnel under the kernel's Brutal waits for an acknowledgement
  /// before it sends a packet again (the kernel's own is 200 ms). QUIC waits max_ack_delay there, 25 ms (RFC 9002,
  /// 6.2.1); a kernel that can be told this also delays its acknowledgements by less. Only there: Linux lowers its
  /// timer at once but raises it only with the variance that it measures, so a download that comes later keeps the
  /// short one, which fires before RACK finds a piece that was lost twice. That costs Brutal no rate, but BBR and the
  /// pacer over it up to half, and messages in the same tunnel some 200 ms.
  static constexpr std::chrono::microseconds kThinMinimumRto{20'000};
  /// Whether the timer is what finds a lost packet: with so few in flight there may be none behind it whose
  /// acknowledgement tells. In between it stays as it was.
  static bool thin(std::uint64_t unacked_packets, bool was) { return unacked_packets <= (was ? 32U : 8U); }
  static constexpr Duration kSampleInterval = std::chrono::milliseconds(100);
  /// Whether it is time for sample().
  bool sample_due(TimePoint now) const {
    return now - sampled_ >= (probe_.near(now) ? ProbeRtt::kClose : kSampleInterval);
  }

  /// Takes on a connected socket: chooses the controller, sets TCP_NOTSENT_LOWAT and the retransmission timer. `fd`
  /// stays the caller's and must stay open.
  void apply(int fd, TimePoint now);
  /// Bits per second of payload; 0 switches Brutal off. At once, also before apply().
  void set_target(std::uint64_t bits_per_second, TimePoint now);
  std::uint64_t target() const { return target_bps_; }
  /// False where the client has another tunnel for what must not wait beside a download.
  void set_alone(bool alone);

  /// True while allowance(), next_time() and sent() mean something: the caller must pace. Changes with set_target().
  bool paced_by_caller() const { return pacing_; }
  /// Bytes that may be written to the socket now; no limit unless paced_by_caller().
  std::uint64_t allowance(TimePoint now);
  /// When allowance() will be worth a write (a millisecond's worth, or a packet).
  TimePoint next_time(TimePoint now);
  void sent(std::uint64_t bytes, TimePoint now);

  /// True on links where milliseconds of data are less than what the kernel takes beyond the unsent limit (64 KB): ask
  /// Socket::wants_more() after each write, and write no more than batch() at a time.
  bool keeps_short() const { return rate_settled_ && unsent_limit_ < kLargeUnsent; }
  /// Bytes that a keystroke may find in front of it: half the unsent limit; four packets when BBR is about to pause.
  std::size_t batch() const;

  /// BBR is about to pause: nothing but keystrokes for now, ask again every ProbeRtt::kClose.
  bool pause_imminent(TimePoint now) const {
    return bbr_ && probe_.imminent(now, std::min<Duration>(sample_.rtt, kMostLead));
  }

  /// Reads TCP_INFO and lets the send buffer, the unsent limit and the pacer follow it. Call while there is traffic,
  /// when sample_due(), and before statistics are shown.
  const TcpSample& sample(TimePoint now);
  const TcpSample& last_sample() const { return sample_; }
  /// "brutal (bpf)", "brutal (module)", "brutal (pacer over bbr)", "bbr".
  std::string describe() const;

 private:
  // What a process on a busy machine is late by, and 1.5 % of a second. The kernel smooths it, so it doesn't reach the
  // link as a burst.
  static constexpr Duration kBurst = std::chrono::milliseconds(15);
  static constexpr std::uint64_t kMinimumBurst = 4096;
  static constexpr Duration kMostLead = std::chrono::milliseconds(100);
  static constexpr std::uint32_t kNothing = 1;  // as an unsent limit: the socket is writable when all was sent
  static constexpr std::uint32_t kLargeUnsent = 256U << 10U;  // 4 ms of 500 Mbit/s

  void choose(TimePoint now);
  bool select(const std::string& congestion);
  void tune_pacer(TimePoint now);
  bool set_send_buffer(std::uint64_t bytes) const;
  void grow_send_buffer();
  void set_unsent_limit();
  void set_minimum_rto();
  void foresee_pause(TimePoint now);
  bool pause_near() const { return unsent_limit_ == kNothing; }

  TcpControl& control_;
  int fd_ = -1;
  std::uint64_t target_bps_ = 0;
  std::optional<TcpMechanism> brutal_;  // what runs on this socket; none: the base controller
  bool pacing_ = false;
  bool closed_to_bpf_ = false;  // the kernel refused our controller once on this socket
  TokenBucket bucket_;
  AckRate acks_;
  ProbeRtt probe_;
  bool bbr_ = false;  // the kernel's runs on this socket
  std::uint32_t mss_ = 1448;
  TcpSample sample_;
  TimePoint sampled_{};
  std::uint64_t delivered_packets_ = 0;
  std::uint64_t send_buffer_ = 0;  // set, or 0 while the kernel tunes it
  std::uint32_t unsent_limit_ = 0;
  std::chrono::microseconds kernels_rto_{200'000}, minimum_rto_ = kernels_rto_;
  bool thin_ = true, alone_ = true;
  bool rto_option_ = false;    // the kernel has one; else only the BPF controller can set it
  bool rate_settled_ = false;  // known, and BBR has left its start-up
};

}  // namespace qtrp::pacing
