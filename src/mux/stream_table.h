// The streams by id: an open-addressing hash table over slabs of streams, so that opening and closing allocate nothing
// in the long run; and the memory of which ids the peer has used, so that none is used twice.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "mux/stream.h"

namespace qtrp::mux {

class StreamTable {
 public:
  explicit StreamTable(std::uint64_t seed);

  Stream* find(std::uint32_t id) {
    if (last_ != nullptr && last_->id == id) return last_;
    return look_up(id);
  }
  /// A fresh stream in the table. The id must not be in it.
  Stream& insert(std::uint32_t id);
  /// A fresh stream that is not in the table.
  Stream& obtain(std::uint32_t id);
  /// Takes the stream out of the table; its memory stays until recycle().
  void remove(Stream& stream);
  void recycle(Stream& stream);
  std::size_t size() const { return size_; }
  /// Bytes held for streams and look-up.
  std::size_t memory() const { return slabs_.size() * kSlab * sizeof(Stream) + slots_.capacity() * sizeof(Stream*); }

  /// Calls `visit(Stream&)` for every stream in the table. `visit` must not insert or remove.
  template <typename Visit>
  void for_each(Visit visit) {
    for (Stream* stream : slots_) {
      if (stream != nullptr) visit(*stream);
    }
  }

 private:
  static constexpr std::size_t kSlab = 32;

  Stream* look_up(std::uint32_t id);
  std::size_t home(std::uint32_t id) const;
  void grow();

  std::vector<Stream*> slots_;  // a power of two, at most three quarters full
  std::vector<std::unique_ptr<Stream[]>> slabs_;
  Stream* free_ = nullptr;  // linked by next_control
  Stream* last_ = nullptr;  // the one found last
  std::size_t size_ = 0;
  std::uint64_t seed_;
};

/// Which ids of one parity were used. Libraries may send SYNs slightly out of order, so it remembers the last kSpan ids
/// one by one.
class UsedIds {
 public:
  static constexpr std::uint32_t kSpan = 4096;  ///< ids remembered singly

  /// Marks an id used. False: it was used before, or is too old to say.
  bool use(std::uint32_t id);
  /// Whether the id was used, or is so old that it must be taken for used.
  bool used(std::uint32_t id) const;

 private:
  std::uint32_t highest_ = 0;  // id / 2; 0: none
  std::array<std::uint64_t, kSpan / 64> bits_{};
};

}  // namespace qtrp::mux
