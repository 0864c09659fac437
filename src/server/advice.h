// What an administrator of the server may do about an error of listening. docs/troubleshooting.md lists them.
#pragma once

#include <string>

#include "qtrp/base/error.h"
#include "qtrp/io/endpoint.h"

namespace qtrp::server {

/// The error of listening `at`, with advice where there is some.
Error advised(Error error, const io::Endpoint& at);

}  // namespace qtrp::server
