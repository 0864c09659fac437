// Buffers of a loop: fixed-size chunks kept for reuse, so that the steady state allocates nothing and idle connections
// own nothing.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "qtrp/base/bytes.h"

namespace qtrp::io {

class BufferPool;

/// A chunk on loan; goes back to its pool when destroyed. `size` bytes beginning at `begin` are filled.
class Chunk {
 public:
  Chunk() = default;
  Chunk(Chunk&& other) noexcept { *this = std::move(other); }
  Chunk& operator=(Chunk&& other) noexcept;
  ~Chunk() { release(); }
  explicit operator bool() const { return data_ != nullptr; }
  std::byte* data() { return data_; }
  std::size_t capacity() const { return capacity_; }
  MutableBytes filled() { return {data_ + begin, size}; }
  MutableBytes space() { return {data_ + begin + size, capacity_ - begin - size}; }
  void release();

  std::size_t begin = 0, size = 0;

 private:
  friend class BufferPool;
  BufferPool* pool_ = nullptr;
  std::byte* data_ = nullptr;
  std::size_t capacity_ = 0;
};

class BufferPool {
 public:
  static constexpr std::size_t kSmall = 16 << 10, kLarge = 256 << 10;
  BufferPool() = default;
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  Chunk small() { return take(0); }  ///< kSmall bytes
  Chunk large() { return take(1); }  ///< kLarge bytes
  /// Frees kept chunks beyond a few; called by the loop now and then.
  void trim();
  /// Bytes of all chunks on loan.
  std::size_t lent() const { return lent_; }

 private:
  friend class Chunk;
  Chunk take(int size_class);
  void give_back(std::byte* data, std::size_t capacity);
  std::vector<std::byte*> free_[2];
  std::size_t low_[2] = {0, 0};  // fewest free since the last trim
  std::size_t lent_ = 0;
};

/// A first-in-first-out byte queue in small chunks, for what a slow socket would not take.
class ByteQueue {
 public:
  bool empty() const { return size_ == 0; }
  std::size_t size() const { return size_; }
  void append(Bytes bytes, BufferPool& pool);
  /// The first contiguous piece.
  Bytes front() const;
  void pop(std::size_t n);
  void clear();
  /// Fills up to `count` iovecs with the first pieces; returns how many.
  std::size_t gather(iovec* out, std::size_t count) const;

 private:
  std::vector<Chunk> chunks_;  // few; the window bounds them
  std::size_t first_ = 0, size_ = 0;
};

}  // namespace qtrp::io
