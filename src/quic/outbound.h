// What a stream still has to send or has unacknowledged. ngtcp2 keeps pointers to sent bytes until they are
// acknowledged, so they live in blocks that the streams of a connection share: an idle stream owns none, and a thousand
// small messages fit into one block.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "qtrp/base/bytes.h"
#include "qtrp/io/pool.h"

namespace qtrp::quic {

/// A pooled chunk filled from the front; goes back to the pool when no piece refers to it and it is not the current
/// one.
struct Block {
  io::Chunk chunk;
  std::size_t used = 0;
  std::size_t references = 0;
  MutableBytes space() { return {chunk.data() + used, chunk.capacity() - used}; }
};

/// Hands out room for bytes that stay where they are until released.
class Arena {
 public:
  explicit Arena(io::BufferPool& pool) : pool_(&pool) {}
  /// The current block, with at least `least` bytes of space (at most BufferPool::kLarge). `expect` is what will come
  /// soon: it decides about the size of a new block.
  Block& room(std::size_t least, std::size_t expect);
  /// `n` bytes of `block`'s space are filled and referred to once more.
  std::byte* commit(Block& block, std::size_t n);
  void release(Block& block);
  /// Two pieces of `block` became one.
  void merge(Block& block) { --block.references; }
  /// Gives the current block back if nothing refers to it.
  void idle();
  std::size_t blocks() const { return blocks_.size(); }

 private:
  void drop(Block& block);
  io::BufferPool* pool_;
  std::vector<std::unique_ptr<Block>> blocks_;
  Block* current_ = nullptr;
};

/// The bytes of one direction of one stream, from the first that is not acknowledged to the last that was produced.
class Outbound {
 public:
  struct Piece {
    const std::byte* data;
    std::size_t length;
    Block* block;  ///< nullptr: memory that outlives the connection
  };
  void add(const std::byte* data, std::size_t length, Block* block, Arena& arena);
  std::size_t unsent() const { return produced_ - sent_; }
  bool all_acknowledged() const { return acknowledged_ == produced_; }
  /// Fills `out` with unsent pieces; returns how many.
  template <typename Vec>
  std::size_t gather(Vec* out, std::size_t count) const {
    std::size_t n = 0, skip = sent_in_first_unsent_;
    for (std::size_t i = first_unsent_; i < pieces_.size() && n < count; ++i, skip = 0) {
      out[n].base = reinterpret_cast<decltype(out[n].base)>(const_cast<std::byte*>(pieces_[i].data + skip));
      out[n++].len = pieces_[i].length - skip;
    }
    return n;
  }
  void sent(std::size_t n);
  /// Everything before `offset` of the stream is acknowledged.
  void acknowledged(std::uint64_t offset, Arena& arena);
  void clear(Arena& arena);

 private:
  std::deque<Piece> pieces_;
  std::size_t first_unsent_ = 0, sent_in_first_unsent_ = 0;
  std::size_t acknowledged_in_first_ = 0;
  std::uint64_t produced_ = 0, sent_ = 0, acknowledged_ = 0;
};

}  // namespace qtrp::quic
