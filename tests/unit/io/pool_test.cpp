#include "qtrp/io/pool.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

namespace qtrp::io {
namespace {

TEST(ByteQueue, GivesBackWhatWasPutInInOrder) {
  BufferPool pool;
  ByteQueue queue;
  std::string in, out;
  std::mt19937 random(7);
  for (int i = 0; i < 2000; ++i) {
    std::string piece(random() % 5000, char('a' + i % 26));
    queue.append(as_bytes(piece), pool);
    in += piece;
    for (std::size_t left = random() % 5000; left > 0 && !queue.empty();) {
      const std::size_t n = std::min(left, queue.front().size());
      out += as_text(queue.front().first(n));
      queue.pop(n);
      left -= n;
    }
    ASSERT_EQ(queue.size(), in.size() - out.size());
  }
  iovec pieces[4];
  const std::size_t count = queue.gather(pieces, 4);
  EXPECT_GT(count, 0u);
  EXPECT_EQ(pieces[0].iov_base, queue.front().data());
  while (!queue.empty()) {
    out += as_text(queue.front());
    queue.pop(queue.front().size());
  }
  EXPECT_EQ(in, out);
}

TEST(BufferPool, ReusesWhatCameBack) {
  BufferPool pool;
  std::byte* first;
  {
    Chunk chunk = pool.large();
    first = chunk.data();
    EXPECT_EQ(chunk.capacity(), BufferPool::kLarge);
  }
  EXPECT_EQ(pool.large().data(), first);
}

TEST(BufferPool, KnowsWhatIsOnLoan) {
  BufferPool pool;
  {
    Chunk small = pool.small(), large = pool.large();
    EXPECT_EQ(pool.lent(), BufferPool::kSmall + BufferPool::kLarge);
    small = std::move(large);
    EXPECT_EQ(pool.lent(), BufferPool::kLarge);
  }
  EXPECT_EQ(pool.lent(), 0U);
}

}  // namespace
}  // namespace qtrp::io
