// Guesses a protocol by its first bytes.
#include "crypto/foreign.h"

#include <array>

namespace qtrp::crypto {

bool may_be_tls(Bytes first) {
  // RFC 8446, section 5.1: content types 20 to 23, then the legacy version 0x03 0x00 to 0x03 0x04.
  if (!first.empty() && (first[0] < std::byte{20} || first[0] > std::byte{23})) return false;
  if (first.size() > 1 && first[1] != std::byte{3}) return false;
  return first.size() < 3 || first[2] <= std::byte{4};
}

std::string describe_foreign(Bytes first) {
  const std::string_view text = as_text(first);
  if (first.size() >= 3 && may_be_tls(first)) return "it speaks TLS: crypto: tls on its side?";
  if (text.starts_with("SSH-")) return "it is an SSH server or client";
  for (const std::string_view method :
       {"GET ", "POST ", "HEAD ", "PUT ", "OPTIONS ", "CONNECT ", "DELETE ", "PRI ", "HTTP/"}) {
    if (text.starts_with(method)) return "it speaks HTTP";
  }
  if (text.starts_with("QTRP")) return "it speaks QTRP without encryption: crypto: none on its side?";
  return "another crypto on its side, or no QTRP at all";
}

}  // namespace qtrp::crypto
