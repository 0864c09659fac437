#include "congestion.h"
namespace qtrp::quic {
std::unique_ptr<Controller> make_bbr() {
  return nullptr;
}
}  // namespace qtrp::quic
