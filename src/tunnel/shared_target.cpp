#include "qtrp/tunnel/shared_target.h"

namespace qtrp::tunnel {

SharedTarget::SharedTarget(io::Loop& loop, session::Session& session, std::shared_ptr<pacing::TargetShare> share)
    : loop_(loop), session_(session), share_(std::move(share)), member_(share_->join()), timer_(loop) {
  follow();
}

SharedTarget::~SharedTarget() {
  share_->leave(member_);
}

void SharedTarget::follow() {
  const bool alone = share_->members() == 1;
  const std::uint64_t target = share_->target();
  if (target == 0 || alone) {
    session_.set_target(target, alone);
  } else {
    session_.set_target(share_->report(member_, session_.stats().wire_bytes_out, loop_.now()), alone);
  }
  timer_.start(target != 0 && !alone ? pacing::TargetShare::kReportInterval : std::chrono::seconds(1),
               [this] { follow(); });
}

}  // namespace qtrp::tunnel
