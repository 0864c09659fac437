// Tells the service manager that started this process how far it is: the protocol of sd_notify(3), without its library.
#pragma once

#include <string_view>

namespace qtrp {

/// Sends `state` ("READY=1", "STOPPING=1") to the datagram socket that $NOTIFY_SOCKET names: a path, or "@" and a name
/// of Linux's abstract space. Without that variable nothing is done; what cannot be sent is lost silently, since the
/// manager's own time-out tells of it.
void notify_service_manager(std::string_view state);

}  // namespace qtrp
