#include "qtrp/io/pool.h"

#include <sys/uio.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

namespace qtrp::io {
namespace {

constexpr std::size_t size_of_class(int size_class) {
  return size_class == 0 ? BufferPool::kSmall : BufferPool::kLarge;
}
constexpr std::align_val_t kAlign{64};

}  // namespace

Chunk& Chunk::operator=(Chunk&& other) noexcept {
  if (this != &other) {
    release();
    begin = other.begin;
    size = other.size;
    pool_ = other.pool_;
    data_ = std::exchange(other.data_, nullptr);
    capacity_ = other.capacity_;
    other.begin = other.size = 0;
  }
  return *this;
}

void Chunk::release() {
  if (data_) pool_->give_back(std::exchange(data_, nullptr), capacity_);
  begin = size = 0;
}

BufferPool::~BufferPool() {
  for (auto& list : free_) {
    for (std::byte* data : list) ::operator delete[](data, kAlign);
  }
}

Chunk BufferPool::take(int size_class) {
  auto& list = free_[size_class];
  Chunk chunk;
  chunk.pool_ = this;
  chunk.capacity_ = size_of_class(size_class);
  lent_ += chunk.capacity_;
  if (list.empty()) {
    chunk.data_ = static_cast<std::byte*>(::operator new[](chunk.capacity_, kAlign));
  } else {
    chunk.data_ = list.back();
    list.pop_back();
  }
  low_[size_class] = std::min(low_[size_class], list.size());
  return chunk;
}

void BufferPool::give_back(std::byte* data, std::size_t capacity) {
  free_[capacity == kLarge ? 1 : 0].push_back(data);
  lent_ -= capacity;
}

void BufferPool::trim() {
  // What lay unused since the last trim is not needed at this load; half of it goes, so that a lull does not empty the
  // pool at once.
  for (int c = 0; c < 2; ++c) {
    for (std::size_t n = (low_[c] + 1) / 2; n > 0 && !free_[c].empty(); --n) {
      ::operator delete[](free_[c].back(), kAlign);
      free_[c].pop_back();
    }
    if (free_[c].empty()) free_[c].shrink_to_fit();
    low_[c] = free_[c].size();
  }
}

void ByteQueue::append(Bytes bytes, BufferPool& pool) {
  size_ += bytes.size();
  while (!bytes.empty()) {
    if (first_ == chunks_.size() || chunks_.back().space().empty()) {
      if (first_ > 0) {
        chunks_.erase(chunks_.begin(), chunks_.begin() + static_cast<std::ptrdiff_t>(first_));
        first_ = 0;
      }
      chunks_.push_back(pool.small());
    }
    Chunk& last = chunks_.back();
    const std::size_t n = std::min(bytes.size(), last.space().size());
    std::memcpy(last.space().data(), bytes.data(), n);
    last.size += n;
    bytes = bytes.subspan(n);
  }
}

Bytes ByteQueue::front() const {
  if (size_ == 0) return {};
  auto& chunk = const_cast<Chunk&>(chunks_[first_]);
  return chunk.filled();
}

void ByteQueue::pop(std::size_t n) {
  size_ -= n;
  while (n > 0) {
    Chunk& chunk = chunks_[first_];
    const std::size_t step = std::min(n, chunk.size);
    chunk.begin += step;
    chunk.size -= step;
    n -= step;
    if (chunk.size == 0) {
      chunk.release();
      ++first_;
    }
  }
  if (size_ == 0) clear();
}

void ByteQueue::clear() {
  std::vector<Chunk>().swap(chunks_);
  first_ = size_ = 0;
}

std::size_t ByteQueue::gather(iovec* out, std::size_t count) const {
  std::size_t used = 0;
  for (std::size_t i = first_; i < chunks_.size() && used < count; ++i, ++used) {
    auto& chunk = const_cast<Chunk&>(chunks_[i]);
    out[used] = {chunk.filled().data(), chunk.filled().size()};
  }
  return used;
}

}  // namespace qtrp::io
