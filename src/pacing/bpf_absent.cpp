// Stands in for bpf_brutal.cpp in a build without clang's BPF target or libbpf.
#include "bpf_brutal.h"

namespace qtrp::pacing {

struct BpfBrutal::State {};
BpfBrutal::~BpfBrutal() = default;

Result<std::unique_ptr<BpfBrutal>> BpfBrutal::load(Options) {
  return fail(ErrorKind::config, "this build is without the BPF controller");
}
Result<void> BpfBrutal::set_target(int, std::uint64_t, std::chrono::microseconds) {
  return fail(ErrorKind::config, "no BPF controller");
}
std::optional<BpfBrutal::Figures> BpfBrutal::figures(int) const {
  return std::nullopt;
}

}  // namespace qtrp::pacing
