#include "qtrp/session/session.h"

namespace qtrp::session {

std::string_view to_string(ResetCode code) {
  switch (code) {
    case ResetCode::unspecified: return "unspecified";
    case ResetCode::cancelled: return "cancelled";
    case ResetCode::refused: return "local service refused the connection";
    case ResetCode::unreachable: return "local service unreachable";
    case ResetCode::unknown_proxy: return "unknown proxy";
    case ResetCode::limit: return "limit reached";
    case ResetCode::flow_control: return "window overrun";
    case ResetCode::protocol: return "protocol violation";
    case ResetCode::shutting_down: return "shutting down";
    case ResetCode::session_lost: return "tunnel lost";
  }
  return "unknown reason";
}

void dispatch(const Event& event) {
  auto* owner = static_cast<StreamOwner*>(event.owner);
  if (!owner) return;
  switch (event.kind) {
    case EventKind::body: owner->on_body(event.body); break;
    case EventKind::finished: owner->on_finished(); break;
    case EventKind::reset: owner->on_reset(event.code); break;
    default: break;
  }
}

}  // namespace qtrp::session
