#include "server/advice.h"

#include <fmt/format.h>

#include <cerrno>

namespace qtrp::server {

Error advised(Error error, const io::Endpoint& at) {
  switch (error.code) {
    case EADDRINUSE:
      error.message +=
          fmt::format("; another program or client has the port: 'ss -lntup sport = :{}' says which", at.port());
      break;
    case EACCES:
      if (at.port() < 1024)
        error.message +=
            "; ports below 1024 need CAP_NET_BIND_SERVICE ('qtrp-server install --low-ports', see "
            "docs/troubleshooting.md)";
      break;
    case EADDRNOTAVAIL: error.message += "; no interface of this machine has that address"; break;
    default: break;
  }
  return error;
}

}  // namespace qtrp::server
