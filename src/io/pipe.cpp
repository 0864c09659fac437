#include "qtrp/io/pipe.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace qtrp::io {

Pipe::~Pipe() {
  if (pool_ && read_) pool_->give_back(*this);
}

MutableBytes Pipe::drain(MutableBytes into) {
  std::size_t have = 0;
  const std::size_t wanted = std::min(filled, into.size());
  while (have < wanted) {
    const ssize_t n = ::read(read_.get(), into.data() + have, wanted - have);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    have += static_cast<std::size_t>(n);
  }
  filled -= have;
  return into.first(have);
}

std::optional<Pipe> PipePool::take() {
  if (!free_.empty()) {
    Pipe pipe = std::move(free_.back());
    free_.pop_back();
    pipe.pool_ = this;
    ++lent_;
    return pipe;
  }
  if (lent_ >= kMost) return std::nullopt;
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return std::nullopt;
  Pipe pipe;
  pipe.read_ = Fd(ends[0]);
  pipe.write_ = Fd(ends[1]);
  int size = ::fcntl(ends[1], F_SETPIPE_SZ, static_cast<int>(kWanted));
  if (size < 0) size = ::fcntl(ends[1], F_SETPIPE_SZ, static_cast<int>(kLeast));
  if (size < static_cast<int>(kLeast)) return std::nullopt;  // too small to be worth it
  pipe.capacity_ = static_cast<std::size_t>(size);
  pipe.pool_ = this;
  ++lent_;
  return pipe;
}

void PipePool::give_back(Pipe& pipe) {
  --lent_;
  if (pipe.filled > 0) return;  // closes: what is in it belongs to nobody
  pipe.pool_ = nullptr;
  free_.push_back(std::move(pipe));
}

}  // namespace qtrp::io
