// Key material that is wiped when it goes.
#pragma once

#include <sodium.h>

#include <algorithm>
#include <array>
#include <span>

#include "qtrp/base/bytes.h"

namespace qtrp::crypto {

template <std::size_t N>
class Secret {
 public:
  Secret() = default;
  explicit Secret(std::span<const std::byte, N> from) { std::copy(from.begin(), from.end(), bytes_.begin()); }
  Secret(const Secret&) = default;
  Secret& operator=(const Secret&) = default;
  ~Secret() { wipe(); }
  std::byte* data() { return bytes_.data(); }
  const std::byte* data() const { return bytes_.data(); }
  std::span<std::byte, N> span() { return bytes_; }
  std::span<const std::byte, N> span() const { return bytes_; }
  void wipe() { sodium_memzero(bytes_.data(), N); }

 private:
  std::array<std::byte, N> bytes_{};
};

}  // namespace qtrp::crypto
