#include "conversation.h"

#include <algorithm>

namespace qtrp::mux::interop {

using session::Produced;

namespace {

std::byte pattern(std::uint64_t seed, std::uint64_t offset) {
  const std::uint64_t word = (offset / 8 + 1) * 0x9E3779B97F4A7C15ULL + seed * 0xD6E8FEB86659FD93ULL;
  return static_cast<std::byte>((word ^ (word >> 29)) >> (offset % 8 * 8) & 0xFF);
}

std::uint64_t add(std::uint64_t sum, std::byte byte) {
  return (sum ^ std::to_integer<std::uint64_t>(byte)) * 0x100000001b3U;
}

}  // namespace

Conversation::Conversation(std::uint64_t seed, std::uint64_t size, std::uint64_t answer)
    : opener_(true), seed_(seed), size_(size), answer_(answer) {
  store_be<std::uint64_t>(&head_[0], seed);
  store_be<std::uint64_t>(&head_[8], size);
  store_be<std::uint64_t>(&head_[16], answer);
}

Produced Conversation::produce(MutableBytes into) {
  std::size_t n = 0;
  if (opener_) {
    while (head_done_ < head_.size() && n < into.size()) into[n++] = head_[head_done_++];
    if (head_done_ < head_.size()) return {.n = n, .status = Produced::Status::more, .code = {}};
  } else if (head_done_ < head_.size()) {
    const auto status =
        finished_ ? Produced::Status::end : Produced::Status::would_block;  // opened and closed, nothing said
    return {.n = 0, .status = status, .code = {}};
  }
  const std::uint64_t size = opener_ ? size_ : answer_;
  const std::uint64_t seed = opener_ ? seed_ : seed_ + 1;
  for (; sent_ < size && n < into.size(); ++sent_, ++n) into[n] = pattern(seed, sent_);
  if (sent_ < size) return {.n = n, .status = Produced::Status::more, .code = {}};
  if (!opener_) {
    if (received_ < size_) return {.n = n, .status = Produced::Status::would_block, .code = {}};
    if (told_done_ == 0) store_be<std::uint64_t>(told_.data(), sum_);
    while (told_done_ < told_.size() && n < into.size()) into[n++] = told_[told_done_++];
    if (told_done_ < told_.size()) return {.n = n, .status = Produced::Status::more, .code = {}};
  }
  said_all_ = true;
  return {.n = n, .status = Produced::Status::end, .code = {}};
}

bool Conversation::receive(Bytes body) {
  bool news = false;
  while (!opener_ && head_done_ < head_.size() && !body.empty()) {
    head_[head_done_++] = body.front();
    body = body.subspan(1);
    if (head_done_ == head_.size()) {
      seed_ = load_be<std::uint64_t>(&head_[0]);
      size_ = load_be<std::uint64_t>(&head_[8]);
      answer_ = load_be<std::uint64_t>(&head_[16]);
      news = true;
    }
  }
  const std::uint64_t size = opener_ ? answer_ : size_;
  const std::uint64_t seed = opener_ ? seed_ + 1 : seed_;
  for (const std::byte byte : body) {
    if (received_ < size) {
      correct_ = correct_ && byte == pattern(seed, received_);
      if (!opener_) sum_ = add(sum_, byte);
      news = ++received_ == size || news;
    } else if (opener_ && told_done_ < told_.size()) {
      told_[told_done_++] = byte;
    } else {
      correct_ = false;  // more than was promised
    }
  }
  return news;
}

void Conversation::finish() {
  finished_ = true;
  if (!opener_) {
    correct_ = correct_ && head_done_ == head_.size() && received_ == size_;
    return;
  }
  if (received_ != answer_ || told_done_ != told_.size()) {
    correct_ = false;
    return;
  }
  std::uint64_t own = 0xcbf29ce484222325U;
  for (std::uint64_t i = 0; i < size_; ++i) own = add(own, pattern(seed_, i));
  correct_ = correct_ && load_be<std::uint64_t>(told_.data()) == own;
}

}  // namespace qtrp::mux::interop
