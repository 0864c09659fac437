#include "client/advice.h"

#include <fmt/format.h>
#include <netdb.h>

#include <cerrno>

namespace qtrp::client {
namespace {

std::string advice(const Error& error, const config::ClientConfig& config) {
  const bool quic = config.transport == config::Transport::quic;
  const std::uint16_t port = config.server.port;
  switch (error.code) {
    case ECONNREFUSED:
      return fmt::format("nothing listens there: is qtrp-server running{}, and on port {}?",
                         quic ? " with transport quic" : "", port);
    case ENETUNREACH:
    case EHOSTUNREACH: return "there is no way to that address from here: is this machine's network up?";
    case EAI_NONAME:
    case EAI_NODATA:
    case EAI_AGAIN:
    case EAI_FAIL: return "check the spelling of `server`, and that this machine can look names up";
    default: break;
  }
  if (error.kind != ErrorKind::timeout) return "";
  if (quic && error.code == 0 && error.message.find("QUIC") != std::string::npos) {
    return fmt::format(
        "UDP may be blocked on the way: let UDP port {} through at the server, or use transport net or epoll on both "
        "sides",
        port);
  }
  if (error.code == ETIMEDOUT)
    return fmt::format("a firewall may drop it: let TCP port {} through at the server, and check the address", port);
  return "";
}

}  // namespace

std::string advised(const Error& error, const config::ClientConfig& config) {
  const std::string more = advice(error, config);
  return more.empty() ? error.message : fmt::format("{}; {}", error.message, more);
}

std::string advised_local(const Error& error) {
  switch (error.code) {
    case ECONNREFUSED: return error.message + "; is it running?";
    case ETIMEDOUT:
    case ENETUNREACH:
    case EHOSTUNREACH: return error.message + "; can this machine reach it?";
    default: return error.message;
  }
}

}  // namespace qtrp::client
