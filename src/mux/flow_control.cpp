#include "mux/flow_control.h"

#include <algorithm>
#include <limits>

namespace qtrp::mux {
namespace {

constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();
constexpr std::uint32_t kWidestWindow = 1U << 30;  // smux counts modulo 2^32 and compares signed
constexpr std::uint64_t kUpdateStep = 64U
                                      << 10;  // credit is given back in steps of at least this much, or half a window
constexpr std::uint64_t kLeastTarget = 1024;
// A window doubles while it is used up within so many round trips. Two would do on a clean link; on a lossy one what is
// missing holds up the rest until it was sent again, and again, so a window's worth takes several.
constexpr int kRoundTrips = 16;
constexpr Duration kUnknownRtt = std::chrono::milliseconds(100);
constexpr Duration kLeastRtt = std::chrono::milliseconds(2);  // below it scheduling, not the link, is the round trip

std::uint32_t window_of(std::size_t bytes) {
  return static_cast<std::uint32_t>(std::min<std::size_t>(bytes, kWidestWindow));
}

// The share of the buffer that one stream's window, or all windows above the initial ones, may claim.
std::uint64_t share(std::uint64_t bytes) {
  return bytes - bytes / 8;
}

}  // namespace

FlowControl::FlowControl(const Options& options)
    : protocol_(options.protocol),
      following_(options.ours.extensions),
      initial_(options.ours.initial_window != 0 ? window_of(options.ours.initial_window) : smux::kInitialWindow),
      fixed_(std::max<std::uint32_t>(window_of(options.stream_window), 1)),
      most_(window_of(options.max_stream_window)),
      bound_(options.session_buffer) {
  // yamux's first 256 KiB are in its specification; only more can be announced.
  if (protocol_ == Protocol::yamux) initial_ = std::max(initial_, yamux::kInitialWindow);
}

void FlowControl::begin(Stream& stream, TimePoint now) {
  stream.tune_began = now;
  stream.window = following_ ? initial_ : fixed_;
  switch (protocol_) {
    case Protocol::smux1: stream.limit = stream.highest_limit = kUnlimited; break;
    case Protocol::yamux: stream.limit = stream.highest_limit = yamux::kInitialWindow; break;
    case Protocol::smux2:
      // A peer that has not read our preface yet assumes the library's window.
      stream.highest_limit = following_ ? std::max(initial_, smux::kInitialWindow) : smux::kInitialWindow;
      stream.limit = following_ ? initial_ : smux::kInitialWindow;
      break;
  }
  reserved_ += excess(stream);
}

void FlowControl::rebase(Stream& stream) const {
  if (!following_) stream.window = fixed_;
}

std::uint64_t FlowControl::excess(const Stream& stream) const {
  if (protocol_ == Protocol::smux1) return 0;
  const std::uint64_t granted = stream.limit > stream.moved ? stream.limit - stream.moved : 0;
  return granted > initial_ ? granted - initial_ : 0;
}

Duration FlowControl::round_trip() const {
  return rtt_ == Duration::zero() ? kUnknownRtt : std::max(rtt_, kLeastRtt);
}

void FlowControl::hand_out(Stream& stream, std::size_t n, TimePoint now) {
  if (stream.buffered() == 0 && now - stream.tune_began > 2 * kRoundTrips * round_trip()) {
    stream.tune_began = now;  // it was idle: what came before says nothing about the link
    stream.tune_moved = stream.moved;
  }
  stream.received += n;
  buffered_ += n;
}

void FlowControl::follow(Stream& stream, TimePoint now) const {
  if (stream.moved - stream.tune_moved < stream.window) return;
  if (now - stream.tune_began <= kRoundTrips * round_trip())
    stream.window = std::min(stream.window * 2, std::max(most_, initial_));
  stream.tune_moved = stream.moved;
  stream.tune_began = now;
}

void FlowControl::move(Stream& stream, std::size_t n, TimePoint now) {
  n = static_cast<std::size_t>(std::min<std::uint64_t>(n, stream.buffered()));
  reserved_ -= excess(stream);
  stream.moved += n;
  reserved_ += excess(stream);
  buffered_ -= n;
  if (following_ && protocol_ != Protocol::smux1) follow(stream, now);
}

void FlowControl::release(Stream& stream) {
  buffered_ -= static_cast<std::size_t>(stream.buffered());
  reserved_ -= excess(stream);
  stream.moved = stream.received;
  stream.limit = 0;
}

std::uint64_t FlowControl::target(const Stream& stream, std::size_t streams) const {
  if (!following_) return stream.window;
  const std::uint64_t least = std::min<std::uint64_t>(initial_, std::max(bound_ / (4 * (streams + 1)), kLeastTarget));
  const std::uint64_t wanted = std::min<std::uint64_t>(stream.window, std::max(share(room()), least));
  // Up to half of the bound is kept for the initial windows that every stream has anyway.
  const std::uint64_t kept = std::min<std::uint64_t>(streams * std::uint64_t{initial_}, bound_ / 2);
  const std::uint64_t claimed = kept + reserved_ - excess(stream);
  const std::uint64_t spare = share(bound_) > claimed ? share(bound_) - claimed : 0;
  return std::min(wanted, initial_ + spare);
}

std::uint64_t FlowControl::next_limit(const Stream& stream, std::size_t streams) const {
  return std::max(stream.limit, stream.moved + target(stream, streams));
}

bool FlowControl::worth_update(const Stream& stream, std::size_t streams) const {
  if (protocol_ == Protocol::smux1 || stream.finish_received) return false;
  const std::uint64_t aim = target(stream, streams);
  const std::uint64_t step = std::max(aim / 16, std::min(aim / 2, kUpdateStep));
  return stream.moved + aim >= stream.limit + std::max<std::uint64_t>(step, 1);
}

void FlowControl::granted(Stream& stream, std::uint64_t limit) {
  reserved_ -= excess(stream);
  // yamux counts in differences: what crossed with a yield stays in the peer's hands.
  if (protocol_ == Protocol::yamux) stream.highest_limit += limit - stream.limit;
  stream.limit = limit;
  reserved_ += excess(stream);
  stream.highest_limit = std::max(stream.highest_limit, limit);
}

void FlowControl::yielded(Stream& stream, std::uint32_t kept) {
  reserved_ -= excess(stream);
  stream.limit = std::min(stream.limit, stream.received + kept);
  reserved_ += excess(stream);
  stream.window = std::min(stream.window, std::max(kept, initial_));
}

}  // namespace qtrp::mux
