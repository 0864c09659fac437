// What the first bytes of a peer look like that does not speak our crypto; for error messages only.
#pragma once

#include <string>

#include "qtrp/base/bytes.h"

namespace qtrp::crypto {

/// For example "it speaks TLS: crypto: tls on its side?". Takes the first bytes, as many as there are.
std::string describe_foreign(Bytes first);

/// Whether this can be the beginning of a TLS record; true as long as too few bytes are there to tell.
bool may_be_tls(Bytes first);

}  // namespace qtrp::crypto
