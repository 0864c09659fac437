// The Brutal congestion controller in the kernel (brutal.bpf.c): loaded and registered under a name of this process,
// gone with it.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "qtrp/base/error.h"

namespace qtrp::pacing {

/// After load() every member may be called from any thread.
class BpfBrutal {
 public:
  struct Options {
    bool link = true;  ///< register by a link where the kernel has that (6.4); false is for tests of the other way
  };
  /// Fails with one line that says what is missing: a capability, the kernel's BTF, or this build's part.
  static Result<std::unique_ptr<BpfBrutal>> load(Options options);
  static Result<std::unique_ptr<BpfBrutal>> load() { return load(Options{}); }
  ~BpfBrutal();
  BpfBrutal(const BpfBrutal&) = delete;
  BpfBrutal& operator=(const BpfBrutal&) = delete;

  /// For TCP_CONGESTION; at most 15 characters, "qtrp_" first. Not in the list of allowed controllers, so it takes
  /// CAP_NET_ADMIN to select.
  const std::string& name() const { return name_; }
  /// The rate of the socket `fd`, and the lower bound of its retransmission timer beyond the round trip (0: as it is),
  /// whether the controller is selected already or not. Takes effect with the next acknowledgement.
  Result<void> set_target(int fd, std::uint64_t bytes_per_second, std::chrono::microseconds minimum_rto = {});
  struct Figures {
    double ack_rate = 0;                 ///< share of this socket's packets that arrive, over 5 s, without the floor
    std::uint64_t bytes_per_second = 0;  ///< target / ack rate, payload and retransmissions
  };
  /// Nothing before the controller was selected.
  std::optional<Figures> figures(int fd) const;

 private:
  BpfBrutal() = default;
  struct State;
  std::unique_ptr<State> state_;
  std::string name_;
};

}  // namespace qtrp::pacing
