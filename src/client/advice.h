// What a user of the client may do about an error: each is told with the next thing to look at. docs/troubleshooting.md
// lists them.
#pragma once

#include <string>

#include "qtrp/base/error.h"
#include "qtrp/config/config.h"

namespace qtrp::client {

/// The message of an error of dialing the server, with advice where there is some.
std::string advised(const Error& error, const config::ClientConfig& config);
/// The same for a local service.
std::string advised_local(const Error& error);

}  // namespace qtrp::client
