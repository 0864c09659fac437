// Pipes that payload is spliced through, kept for reuse. Bounded: an ordinary user's pipes may hold 64 MB together
// (pipe-user-pages-soft, pipe(7)), so beyond the bound there is none and the caller copies.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "qtrp/base/bytes.h"
#include "qtrp/io/socket.h"

namespace qtrp::io {

class PipePool;

/// A non-blocking pipe on loan. Give it back empty, or it is closed instead of kept.
class Pipe {
 public:
  Pipe(Pipe&&) noexcept = default;
  Pipe& operator=(Pipe&&) noexcept = default;
  ~Pipe();
  int read_end() const { return read_.get(); }
  int write_end() const { return write_.get(); }
  std::size_t capacity() const {
    return capacity_;
  }  ///< bytes, in whole pages; payload in larger fragments may exceed it
  std::size_t filled = 0;  ///< bytes in it now; kept by the user
  /// Reads what is in it, at most into.size() bytes; returns them. For what could not be spliced on.
  MutableBytes drain(MutableBytes into);

 private:
  friend class PipePool;
  Pipe() = default;
  PipePool* pool_ = nullptr;
  Fd read_, write_;
  std::size_t capacity_ = 0;
};

/// One a loop; outlives its pipes.
class PipePool {
 public:
  static constexpr std::size_t kWanted = 1 << 20;  ///< bytes: the default of fs.pipe-max-size
  static constexpr std::size_t kLeast = 256 << 10;
  static constexpr std::size_t kMost = 16;
  std::optional<Pipe> take();

 private:
  friend class Pipe;
  void give_back(Pipe& pipe);
  std::vector<Pipe> free_;
  std::size_t lent_ = 0;
};

}  // namespace qtrp::io
