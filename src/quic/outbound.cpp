// Blocks and pieces of outgoing (and, for the arena, incoming) stream data.
#include "outbound.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace qtrp::quic {

Block& Arena::room(std::size_t least, std::size_t expect) {
  if (current_ && current_->space().size() >= least) return *current_;
  Block* full = current_;
  blocks_.push_back(std::make_unique<Block>());
  current_ = blocks_.back().get();
  current_->chunk = std::max(least, expect) > io::BufferPool::kSmall ? pool_->large() : pool_->small();
  if (full && full->references == 0) drop(*full);
  return *current_;
}

std::byte* Arena::commit(Block& block, std::size_t n) {
  std::byte* at = block.chunk.data() + block.used;
  block.used += n;
  ++block.references;
  return at;
}

void Arena::release(Block& block) {
  if (--block.references > 0) return;
  if (&block == current_) {
    block.used = 0;
  } else {
    drop(block);
  }
}

void Arena::idle() {
  if (!current_ || current_->references > 0) return;
  Block* last = std::exchange(current_, nullptr);
  drop(*last);
}

void Arena::drop(Block& block) {
  auto at = std::find_if(blocks_.begin(), blocks_.end(), [&](const auto& b) { return b.get() == &block; });
  std::swap(*at, blocks_.back());
  blocks_.pop_back();
}

void Outbound::add(const std::byte* data, std::size_t length, Block* block, Arena& arena) {
  produced_ += length;
  if (!pieces_.empty() && block && pieces_.back().block == block &&
      pieces_.back().data + pieces_.back().length == data) {
    pieces_.back().length += length;
    if (first_unsent_ == pieces_.size()) {  // the last piece was all sent: it has an unsent end now
      first_unsent_ = pieces_.size() - 1;
      sent_in_first_unsent_ = pieces_.back().length - length;
    }
    arena.merge(*block);
    return;
  }
  pieces_.push_back({data, length, block});
}

void Outbound::sent(std::size_t n) {
  sent_ += n;
  sent_in_first_unsent_ += n;
  while (first_unsent_ < pieces_.size() && sent_in_first_unsent_ >= pieces_[first_unsent_].length) {
    sent_in_first_unsent_ -= pieces_[first_unsent_].length;
    ++first_unsent_;
  }
}

void Outbound::acknowledged(std::uint64_t offset, Arena& arena) {
  if (offset <= acknowledged_) return;
  acknowledged_in_first_ += static_cast<std::size_t>(offset - acknowledged_);
  acknowledged_ = offset;
  // A piece that is the last one may still grow: it goes only when something follows it or nothing is left to be sent.
  while (!pieces_.empty() && first_unsent_ > 0 && acknowledged_in_first_ >= pieces_.front().length) {
    acknowledged_in_first_ -= pieces_.front().length;
    if (pieces_.front().block) arena.release(*pieces_.front().block);
    pieces_.pop_front();
    --first_unsent_;
  }
}

void Outbound::clear(Arena& arena) {
  for (Piece& piece : pieces_)
    if (piece.block) arena.release(*piece.block);
  pieces_.clear();
  first_unsent_ = sent_in_first_unsent_ = acknowledged_in_first_ = 0;
  sent_ = acknowledged_ = produced_;
}

}  // namespace qtrp::quic
