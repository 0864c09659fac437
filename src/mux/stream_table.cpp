#include "mux/stream_table.h"

namespace qtrp::mux {

StreamTable::StreamTable(std::uint64_t seed) : slots_(16), seed_(seed) {}

std::size_t StreamTable::home(std::uint32_t id) const {
  // A peer chooses its ids: without the seed it could choose them all into one run.
  std::uint64_t mixed = (id + seed_) * 0x9E3779B97F4A7C15ULL;
  mixed ^= mixed >> 32;
  mixed *= 0xD6E8FEB86659FD93ULL;
  return static_cast<std::size_t>(mixed >> 32) & (slots_.size() - 1);
}

Stream* StreamTable::look_up(std::uint32_t id) {
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t slot = home(id); slots_[slot] != nullptr; slot = (slot + 1) & mask) {
    if (slots_[slot]->id == id) return last_ = slots_[slot];
  }
  return nullptr;
}

void StreamTable::grow() {
  std::vector<Stream*> old(slots_.size() * 2);
  old.swap(slots_);
  const std::size_t mask = slots_.size() - 1;
  for (Stream* stream : old) {
    if (stream == nullptr) continue;
    std::size_t slot = home(stream->id);
    while (slots_[slot] != nullptr) slot = (slot + 1) & mask;
    slots_[slot] = stream;
  }
}

Stream& StreamTable::obtain(std::uint32_t id) {
  if (free_ == nullptr) {
    slabs_.push_back(std::make_unique<Stream[]>(kSlab));
    for (std::size_t i = kSlab; i-- > 0;) {
      Stream& stream = slabs_.back()[i];
      stream.next_control = free_;
      free_ = &stream;
    }
  }
  Stream& stream = *free_;
  free_ = stream.next_control;
  stream = Stream{};
  stream.id = id;
  return stream;
}

Stream& StreamTable::insert(std::uint32_t id) {
  if ((size_ + 1) * 4 > slots_.size() * 3) grow();
  Stream& stream = obtain(id);
  const std::size_t mask = slots_.size() - 1;
  std::size_t slot = home(id);
  while (slots_[slot] != nullptr) slot = (slot + 1) & mask;
  slots_[slot] = &stream;
  ++size_;
  return stream;
}

void StreamTable::remove(Stream& stream) {
  if (last_ == &stream) last_ = nullptr;
  const std::size_t mask = slots_.size() - 1;
  std::size_t hole = home(stream.id);
  while (slots_[hole] != &stream) hole = (hole + 1) & mask;
  // Close the gap: whoever may stand at the hole, by where its search begins, moves there.
  for (std::size_t next = (hole + 1) & mask; slots_[next] != nullptr; next = (next + 1) & mask) {
    const std::size_t from = home(slots_[next]->id);
    if (((next - from) & mask) >= ((next - hole) & mask)) {
      slots_[hole] = slots_[next];
      hole = next;
    }
  }
  slots_[hole] = nullptr;
  --size_;
}

void StreamTable::recycle(Stream& stream) {
  stream.next_control = free_;
  free_ = &stream;
}

bool UsedIds::used(std::uint32_t id) const {
  const std::uint32_t number = id / 2;
  if (number > highest_) return false;
  if (highest_ - number >= kSpan) return true;
  return (bits_[number % kSpan / 64] >> (number % 64) & 1U) != 0;
}

bool UsedIds::use(std::uint32_t id) {
  if (used(id)) return false;
  const std::uint32_t number = id / 2;
  if (number > highest_) {
    // Forget what falls out of the span.
    if (number - highest_ >= kSpan) {
      bits_.fill(0);
    } else {
      for (std::uint32_t n = highest_ + 1; n != number; ++n) bits_[n % kSpan / 64] &= ~(1ULL << (n % 64));
    }
    highest_ = number;
  }
  bits_[number % kSpan / 64] |= 1ULL << (number % 64);
  return true;
}

}  // namespace qtrp::mux
