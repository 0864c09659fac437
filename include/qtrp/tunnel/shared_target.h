// A tunnel's part in the target that all tunnels of its client share: tells the session how fast it may send, and tells
// the others what it needs.
#pragma once

#include <memory>

#include "qtrp/io/loop.h"
#include "qtrp/pacing/target_share.h"
#include "qtrp/session/session.h"

namespace qtrp::tunnel {

/// Lives on the session's loop, at most as long as the session. A changed target reaches the session within a second.
class SharedTarget {
 public:
  SharedTarget(io::Loop& loop, session::Session& session, std::shared_ptr<pacing::TargetShare> share);
  ~SharedTarget();
  SharedTarget(const SharedTarget&) = delete;
  SharedTarget& operator=(const SharedTarget&) = delete;

 private:
  void follow();

  io::Loop& loop_;
  session::Session& session_;
  const std::shared_ptr<pacing::TargetShare> share_;
  const pacing::TargetShare::Member member_;
  io::Timer timer_;
};

}  // namespace qtrp::tunnel
