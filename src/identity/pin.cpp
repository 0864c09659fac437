// Public-key pins as text, hexadecimal, and random bytes.
#include <fmt/format.h>
#include <sodium.h>

#include "qtrp/identity/identity.h"

namespace qtrp::identity {
namespace {

constexpr std::string_view kHexForm = "sha256:";
constexpr std::string_view kBase64Form = "sha256//";  // curl's --pinnedpubkey

unsigned char* raw(std::byte* bytes) {
  return reinterpret_cast<unsigned char*>(bytes);
}

}  // namespace

Result<std::array<std::byte, 32>> parse_pin(std::string_view text) {
  std::array<std::byte, 32> pin;
  std::size_t length = 0;
  if (text.starts_with(kBase64Form)) {
    const std::string_view digits = text.substr(kBase64Form.size());
    if (sodium_base642bin(raw(pin.data()), pin.size(), digits.data(), digits.size(), nullptr, &length, nullptr,
                          sodium_base64_VARIANT_ORIGINAL) == 0 &&
        length == pin.size()) {
      return pin;
    }
  } else {
    const std::string_view digits = text.starts_with(kHexForm) ? text.substr(kHexForm.size()) : text;
    if (digits.size() == 2 * pin.size() &&
        sodium_hex2bin(raw(pin.data()), pin.size(), digits.data(), digits.size(), nullptr, &length, nullptr) == 0 &&
        length == pin.size()) {
      return pin;
    }
  }
  return fail(ErrorKind::config,
              fmt::format("'{}' is no pin: expected sha256: and 64 hexadecimal digits (as the server's log shows it), "
                          "or sha256// and 44 base64 characters",
                          text));
}

std::string format_pin(Bytes sha256) {
  return std::string(kHexForm) + to_hex(sha256);
}

void random_bytes(MutableBytes out) {
  if (!out.empty()) randombytes_buf(out.data(), out.size());
}

std::string to_hex(Bytes bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(2 * bytes.size());
  for (const std::byte byte : bytes) {
    text += kDigits[std::to_integer<unsigned>(byte) >> 4];
    text += kDigits[std::to_integer<unsigned>(byte) & 15U];
  }
  return text;
}

}  // namespace qtrp::identity
