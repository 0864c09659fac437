#include "link_queue.h"

#include <algorithm>
#include <cstring>

namespace qtrp::testlink {

Packet PacketPool::take() {
  if (free_.empty()) return Packet(new Buffer);
  Packet packet = std::move(free_.back());
  free_.pop_back();
  return packet;
}

// splitmix64 (Steele, Lea, Flood 2014): one state word, passes the usual tests, and the same seed gives the same
// losses.
std::uint64_t LinkDirection::random() {
  random_ += 0x9e3779b97f4a7c15U;
  std::uint64_t z = random_;
  z = (z ^ (z >> 30U)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27U)) * 0x94d049bb133111ebU;
  return z ^ (z >> 31U);
}

double LinkDirection::chance() {
  return static_cast<double>(random() >> 11U) * 0x1.0p-53;
}

void LinkDirection::drop(Packet packet, std::uint64_t& counter) {
  ++counter;
  pool_.give_back(std::move(packet));
}

void LinkDirection::set(const LinkParameters& parameters, TimePoint now) {
  transmit_until(now);
  const bool resumed = parameters_.stalled && !parameters.stalled;
  parameters_ = parameters;
  if (resumed) free_at_ = std::max(free_at_, now);
  if (!parameters_.down) return;
  for (auto& waiting : queue_) drop(std::move(waiting.packet), counters_.lost);
  for (auto& flying : wire_) drop(std::move(flying.packet), counters_.lost);
  for (; !late_.empty(); late_.pop()) ++counters_.lost;
  queue_.clear();
  wire_.clear();
  queued_bytes_ = 0;
}

std::uint64_t LinkDirection::queue_limit() const {
  if (parameters_.queue_bytes != 0) return parameters_.queue_bytes;
  if (parameters_.rate_bps == 0) return std::numeric_limits<std::uint64_t>::max();
  const auto seconds = std::chrono::duration<double>(parameters_.queue_time).count();
  return std::max<std::uint64_t>(Buffer::kCapacity,
                                 static_cast<std::uint64_t>(seconds * static_cast<double>(parameters_.rate_bps) / 8));
}

Duration LinkDirection::transmit_time(std::uint32_t size, std::uint64_t& carry) const {
  if (parameters_.rate_bps == 0) return Duration(0);
  const std::uint64_t work = carry + std::uint64_t{size} * 8 * 1'000'000'000;
  carry = work % parameters_.rate_bps;
  return Duration(static_cast<std::int64_t>(work / parameters_.rate_bps));
}

void LinkDirection::offer(Packet packet, TimePoint now) {
  ++counters_.packets;
  counters_.bytes += packet->size;
  if (parameters_.down) return drop(std::move(packet), counters_.lost);
  transmit_until(now);
  if (queued_bytes_ + packet->size > queue_limit()) return drop(std::move(packet), counters_.dropped);
  queued_bytes_ += packet->size;
  queue_.push_back({std::move(packet), now});
  transmit_until(now);
  counters_.queue_bytes_max = std::max(counters_.queue_bytes_max, queued_bytes_);
}

// The transmitter takes the head of the queue whenever it is free. Its clock is the model's own, so late calls change
// nothing.
void LinkDirection::transmit_until(TimePoint now) {
  if (parameters_.stalled) return;
  while (!queue_.empty()) {
    const TimePoint start = std::max(free_at_, queue_.front().arrived);
    if (start > now) return;
    if (start > free_at_) carry_ = 0;
    Packet packet = std::move(queue_.front().packet);
    queue_.pop_front();
    queued_bytes_ -= packet->size;
    free_at_ = start + transmit_time(packet->size, carry_);
    launch(std::move(packet), free_at_);
  }
}

void LinkDirection::launch(Packet packet, TimePoint sent) {
  if (parameters_.loss > 0 && chance() < parameters_.loss) return drop(std::move(packet), counters_.lost);
  if (parameters_.corrupt > 0 && chance() < parameters_.corrupt && packet->size > 0) {
    packet->data[random() % packet->size] ^= static_cast<std::byte>(1U << (random() % 8));
    ++counters_.corrupted;
  }
  if (parameters_.reorder > 0 && chance() < parameters_.reorder) {
    ++counters_.reordered;
    late_.push({sent + parameters_.delay + parameters_.reorder_by, sequence_++, std::move(packet)});
    return;
  }
  last_due_ = std::max(last_due_, sent + parameters_.delay);
  if (parameters_.duplicate > 0 && chance() < parameters_.duplicate) {
    ++counters_.duplicated;
    Packet twin = pool_.take();
    twin->size = packet->size;
    std::memcpy(twin->data, packet->data, packet->size);
    fly(std::move(twin), last_due_);
  }
  fly(std::move(packet), last_due_);
}

Packet LinkDirection::take(TimePoint now) {
  transmit_until(now);
  Packet packet;
  if (!late_.empty() && late_.top().due <= now && (wire_.empty() || late_.top().due <= wire_.front().due)) {
    packet = std::move(const_cast<Flying&>(late_.top()).packet);  // the next statement removes it
    late_.pop();
  } else if (!wire_.empty() && wire_.front().due <= now) {
    packet = std::move(wire_.front().packet);
    wire_.pop_front();
  } else {
    return nullptr;
  }
  ++counters_.delivered_packets;
  counters_.delivered_bytes += packet->size;
  return packet;
}

TimePoint LinkDirection::next() const {
  TimePoint when = TimePoint::max();
  if (!wire_.empty()) when = wire_.front().due;
  if (!late_.empty()) when = std::min(when, late_.top().due);
  if (!queue_.empty() && !parameters_.stalled) {
    std::uint64_t carry = carry_;
    const TimePoint start = std::max(free_at_, queue_.front().arrived);
    when = std::min(when, start + transmit_time(queue_.front().packet->size, carry) + parameters_.delay);
  }
  return when;
}

}  // namespace qtrp::testlink
