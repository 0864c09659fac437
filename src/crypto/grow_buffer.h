// A byte buffer that grows as needed, does not clear what it gets, and gives memory back once it is no longer needed.
#pragma once

#include <memory>

#include "qtrp/base/bytes.h"

namespace qtrp::crypto {

class GrowBuffer {
 public:
  std::byte* data() { return data_.get(); }
  std::size_t size() const { return size_; }
  std::size_t capacity() const { return capacity_; }
  Bytes bytes() const { return {data_.get(), size_}; }

  void append(Bytes bytes) {
    if (bytes.empty()) return;
    if (size_ + bytes.size() > capacity_) grow(std::max(size_ + bytes.size(), 2 * capacity_));
    std::memcpy(data_.get() + size_, bytes.data(), bytes.size());
    size_ += bytes.size();
  }
  /// `more` bytes were written behind the end, within the capacity.
  void extend(std::size_t more) { size_ += more; }
  /// Empties the buffer and makes sure of `needed` bytes. A buffer that was more than 4 times too large 8 times in a
  /// row shrinks.
  void restart(std::size_t needed) {
    size_ = 0;
    if (needed > capacity_) {
      release();
      grow(needed);
    } else if (capacity_ <= kSmall || needed > capacity_ / 4) {
      oversized_ = 0;
    } else if (++oversized_ == 8) {
      release();
      if (needed > 0) grow(needed);
    }
  }
  void clear() {
    size_ = 0;
    if (capacity_ > kSmall) release();
  }

 private:
  static constexpr std::size_t kSmall = 4096;  ///< bytes that are not worth giving back

  void release() {
    data_.reset();
    size_ = capacity_ = 0;
    oversized_ = 0;
  }
  void grow(std::size_t capacity) {
    auto larger = std::make_unique_for_overwrite<std::byte[]>(capacity);
    if (size_ > 0) std::memcpy(larger.get(), data_.get(), size_);
    data_ = std::move(larger);
    capacity_ = capacity;
  }

  std::unique_ptr<std::byte[]> data_;
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
  int oversized_ = 0;
};

}  // namespace qtrp::crypto
