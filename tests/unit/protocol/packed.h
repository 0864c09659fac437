// A msgpack writer of the tests' own, so that what the protocol room writes and reads is checked against the format
// (github.com/msgpack/msgpack/blob/master/spec.md) and not against its own library.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "qtrp/base/bytes.h"

namespace qtrp::protocol::test {

using Buffer = std::vector<std::byte>;

inline Buffer operator+(Buffer a, const Buffer& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// Bytes from hexadecimal digits; blanks are skipped.
inline Buffer hex(std::string_view digits) {
  Buffer out;
  int high = -1;
  for (const char c : digits) {
    const int value = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (value < 0) continue;
    if (high < 0) {
      high = value;
    } else {
      out.push_back(static_cast<std::byte>(high * 16 + value));
      high = -1;
    }
  }
  return out;
}
inline std::string to_hex(Bytes bytes) {
  std::string out;
  for (const std::byte b : bytes) {
    constexpr std::string_view digits = "0123456789abcdef";
    out += digits[static_cast<std::size_t>(b) >> 4];
    out += digits[static_cast<std::size_t>(b) & 15];
  }
  return out;
}

template <typename T>
Buffer big_endian(T value) {
  Buffer out(sizeof(T));
  store_be<T>(out.data(), value);
  return out;
}

inline Buffer raw(std::string_view text) {
  const Bytes bytes = as_bytes(text);
  return {bytes.begin(), bytes.end()};
}
/// fixstr, str8 or str16.
inline Buffer str(std::string_view text) {
  const auto n = text.size();
  const Buffer head = n < 32    ? Buffer{static_cast<std::byte>(0xa0 + n)}
                      : n < 256 ? Buffer{std::byte{0xd9}, static_cast<std::byte>(n)}
                                : Buffer{std::byte{0xda}} + big_endian(static_cast<std::uint16_t>(n));
  return head + raw(text);
}
/// bin8, bin16 or bin32.
inline Buffer bin(const Buffer& bytes) {
  const auto n = bytes.size();
  const Buffer head = n < 256     ? Buffer{std::byte{0xc4}, static_cast<std::byte>(n)}
                      : n < 65536 ? Buffer{std::byte{0xc5}} + big_endian(static_cast<std::uint16_t>(n))
                                  : Buffer{std::byte{0xc6}} + big_endian(static_cast<std::uint32_t>(n));
  return head + bytes;
}
inline Buffer u64(std::uint64_t value) {
  return Buffer{std::byte{0xcf}} + big_endian(value);
}
inline Buffer i64(std::int64_t value) {
  return Buffer{std::byte{0xd3}} + big_endian(static_cast<std::uint64_t>(value));
}
inline Buffer boolean(bool value) {
  return {std::byte{value ? std::uint8_t{0xc3} : std::uint8_t{0xc2}}};
}
inline Buffer nil() {
  return {std::byte{0xc0}};
}
inline Buffer array(const std::vector<Buffer>& items) {
  Buffer out = Buffer{std::byte{0xdc}} + big_endian(static_cast<std::uint16_t>(items.size()));
  for (const Buffer& item : items) out = out + item;
  return out;
}

using Keys = std::vector<std::pair<std::string, Buffer>>;
inline Buffer map(const Keys& keys) {
  Buffer out = Buffer{std::byte{0xde}} + big_endian(static_cast<std::uint16_t>(keys.size()));
  for (const auto& [key, value] : keys) out = out + str(key) + value;
  return out;
}
/// With the length in front, as on the wire.
inline Buffer framed(const Buffer& payload) {
  return big_endian(static_cast<std::uint32_t>(payload.size())) + payload;
}

}  // namespace qtrp::protocol::test
