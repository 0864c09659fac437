// Packets out of streams: whose turn it is, how much may leave now (congestion window, flow control, pacing), and how
// packets are put together. Bytes are pulled from a stream's source only when they can leave at once.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "connection.h"
#include "wire.h"

namespace qtrp::quic {
namespace {

constexpr std::size_t kQuantum = 64 << 10;                 // bytes of a stream's turn, and of one pull
constexpr std::size_t kMaxSegments = 64;                   // UDP_MAX_SEGMENTS of older kernels
constexpr std::size_t kMaxDeparture = 65'000;              // UDP GSO: all segments together stay under 64 KiB
constexpr Duration kBurst = std::chrono::milliseconds(1);  // of the pacing rate: what may leave back to back
constexpr Duration kFollowUp = std::chrono::milliseconds(8);
constexpr Duration kLossMemory = std::chrono::seconds(10);
constexpr Duration kCloseWait = std::chrono::milliseconds(500);

}  // namespace

void Connection::enqueue(Stream& stream, bool fresh) {
  if (stream.queued) return;
  stream.queued = true;
  (fresh ? fresh_ : bulk_).push_back(stream.id);
}

void Connection::dequeue_front() {
  auto& queue = front_queue();
  if (Stream* stream = find(queue.front())) stream->queued = false;
  queue.pop_front();
  front_sent_ = 0;
}

/// The stream whose turn it is, with unsent bytes or its end to send; nullptr if nobody can send now.
Connection::Stream* Connection::next_stream(std::size_t budget) {
  while (!fresh_.empty() || !bulk_.empty()) {
    Stream* stream = find(front_queue().front());
    if (!stream || stream->closed || stream->gone || stream->reset_queued) {
      dequeue_front();
      continue;
    }
    if (stream->out.unsent() == 0 && front_sent_ >= kQuantum && stream->ready) {  // turn over: behind the others
      dequeue_front();
      enqueue(*stream, false);
      continue;
    }
    if (stream->out.unsent() == 0 && !(stream->ended && !stream->end_sent)) {
      if (!stream->ready || !stream->source) {
        dequeue_front();
        continue;
      }
      switch (pull(*stream, budget)) {
        case Pull::got: break;
        case Pull::nothing: dequeue_front(); continue;
        case Pull::stop: return nullptr;
      }
      if (stream->out.unsent() == 0 && !stream->ended) {
        dequeue_front();
        continue;
      }
    }
    return stream;
  }
  return nullptr;
}

Connection::Pull Connection::pull(Stream& stream, std::size_t budget) {
  std::uint64_t window = ngtcp2_conn_get_max_stream_data_left(conn_, stream.id);
  if (window == 0) {
    stream.blocked = true;
    return Pull::nothing;  // extend_max_stream_data() puts it back
  }
  std::uint64_t connection_window = ngtcp2_conn_get_max_data_left(conn_),
                congestion_window = ngtcp2_conn_get_cwnd_left(conn_);
  if (connection_window == 0 || congestion_window == 0) return Pull::stop;
  // At least a packet's worth, so that a nearly full window doesn't cut data into crumbs.
  std::uint64_t leaves = std::max<std::uint64_t>(std::min<std::uint64_t>(congestion_window, budget), datagram_size());
  std::size_t want = static_cast<std::size_t>(std::min({window, connection_window, leaves, std::uint64_t{kQuantum}}));
  Block& block = outgoing_.room(std::min<std::size_t>(want, 2048), static_cast<std::size_t>(leaves));
  MutableBytes into = block.space().first(std::min(want, block.space().size()));
  session::Produced produced = stream.source->produce(into);
  using Status = session::Produced::Status;
  if (produced.status != Status::more) stream.ready = false;
  if (produced.status == Status::error) {
    drop(stream, produced.code);
    return Pull::nothing;
  }
  if (produced.n > 0) stream.out.add(outgoing_.commit(block, produced.n), produced.n, &block, outgoing_);
  if (produced.status == Status::end) stream.ended = true;
  return produced.n > 0 || stream.ended ? Pull::got : Pull::nothing;
}

/// One packet, from as many streams as fit. Bytes written, 0 if nothing may or need leave, -1 if the connection failed.
std::int64_t Connection::write_packet(MutableBytes into, ngtcp2_path_storage& path, std::uint8_t& ecn,
                                      std::size_t budget, TimePoint now) {
  ngtcp2_pkt_info info{};
  auto* dest = reinterpret_cast<std::uint8_t*>(into.data());
  bool streams_wait = false;  // nothing more of streams in this packet
  for (;;) {
    ngtcp2_vec pieces[16];
    std::size_t count = 0;
    std::int64_t id = -1;
    std::uint32_t flags = NGTCP2_WRITE_STREAM_FLAG_NONE;
    Stream* stream = nullptr;
    Http3::Outgoing page;
    if (!streams_wait && http3_) {
      auto got = http3_->next(page);
      if (!got) {
        failure_ = Error{ErrorKind::protocol, fmt::format("HTTP/3 error {:#x}", got.error())};
        return -1;
      }
      if (*got) {
        id = page.stream;
        static_assert(sizeof(nghttp3_vec) == sizeof(ngtcp2_vec));
        count = page.count;
        for (std::size_t i = 0; i < count; ++i) pieces[i] = {page.pieces[i].base, page.pieces[i].len};
        flags = NGTCP2_WRITE_STREAM_FLAG_MORE | (page.fin ? NGTCP2_WRITE_STREAM_FLAG_FIN : 0);
      }
    }
    if (!streams_wait && id < 0 && handshake_done_ && kind_ != Kind::visitor && (stream = next_stream(budget))) {
      id = stream->id;
      count = stream->out.gather(pieces, std::size(pieces));
      if (stream->out.unsent() < into.size()) flags |= NGTCP2_WRITE_STREAM_FLAG_MORE;
      if (stream->ended && count < std::size(pieces)) flags |= NGTCP2_WRITE_STREAM_FLAG_FIN;
    }
    ngtcp2_ssize taken = -1;
    auto n = ngtcp2_conn_writev_stream(conn_, &path.path, &info, dest, into.size(), &taken, flags, id, pieces, count,
                                       stamp(now));
    if (id >= 0 && taken >= 0) {
      if (stream) {
        auto bytes = static_cast<std::size_t>(taken);
        stream->out.sent(bytes);
        front_sent_ += bytes;
        data_sent_ += bytes;
        if ((flags & NGTCP2_WRITE_STREAM_FLAG_FIN) && stream->out.unsent() == 0) stream->end_sent = true;
      } else {
        http3_->sent(id, static_cast<std::size_t>(taken));
      }
    }
    if (n == NGTCP2_ERR_WRITE_MORE) {
      filling_ = true;
      continue;
    }
    if (n == NGTCP2_ERR_STREAM_DATA_BLOCKED) {
      if (stream) {
        if (ngtcp2_conn_get_max_data_left(conn_) == 0) {
          streams_wait = true;
        } else {
          stream->blocked = true;
          dequeue_front();
        }
      } else {
        http3_->blocked(id);
      }
      continue;
    }
    if (n == NGTCP2_ERR_STREAM_SHUT_WR || n == NGTCP2_ERR_STREAM_NOT_FOUND) {
      if (stream) {
        dequeue_front();
      } else {
        http3_->cannot_write(id);
      }
      continue;
    }
    filling_ = false;
    for (auto [late, code] : std::exchange(late_resets_, {})) ngtcp2_conn_shutdown_stream(conn_, 0, late, code);
    if (n < 0) {
      if (n == NGTCP2_ERR_CLOSING || n == NGTCP2_ERR_DRAINING) return 0;
      failure_ = Error{ErrorKind::protocol, fmt::format("QUIC: {}", ngtcp2_strerror(static_cast<int>(n)))};
      return -1;
    }
    ecn = info.ecn;
    return n;
  }
}

/// ngtcp2's own BBR keeps its pacing rate to itself: it has to pace.
bool Connection::library_paces() const {
  return !controller_ && (setup_.options->congestion == "bbr" || setup_.options->brutal_target > 0);
}

void Connection::update_pacing(TimePoint now) {
  std::uint64_t rate = 0;
  if (controller_) {
    rate = controller_->rate(controller_->last_path, now);
  } else if (!library_paces()) {
    // RFC 9002, section 7.7, with Linux's factors: twice the window a round trip while it still doubles, else 5/4.
    ngtcp2_conn_info info;
    ngtcp2_conn_get_conn_info(conn_, &info);
    if (info.latest_rtt > 0 && info.smoothed_rtt > 0) {
      double factor = info.cwnd < info.ssthresh ? 2.0 : 1.25;
      rate = static_cast<std::uint64_t>(factor * static_cast<double>(info.cwnd) * 1e9 /
                                        static_cast<double>(info.smoothed_rtt));
    }
  }
  if (rate != pacing_rate_) bucket_.set_rate(rate, now);
  pacing_rate_ = rate;
}

/// On a lossy path the last packet of a message gets a successor: then its loss shows by the successor's
/// acknowledgement, after 9/8 of a round trip (RFC 9002, section 6.1.2), instead of by a probe time-out of twice that.
void Connection::plan_follow_up(bool sent_data, TimePoint now) {
  if (controller_ && controller_->lost_packets > lost_seen_) {
    lost_seen_ = controller_->lost_packets;
    lossy_until_ = now + kLossMemory;
  }
  if (!sent_data) return;
  follow_up_at_ = now < lossy_until_ && !paced_ && !more_to_write_ ? now + kFollowUp : TimePoint::max();
}

void Connection::write(MutableBytes into, std::vector<Departure>& out, TimePoint now) {
  more_to_write_ = paced_ = false;
  last_write_ = now;
  if (close_wanted_) write_close(into, out, now);
  if (state_ != State::open) return;
  update_pacing(now);

  std::size_t mtu = datagram_size(), largest = ngtcp2_conn_get_max_tx_udp_payload_size(conn_);
  std::size_t burst = kMaxDeparture, most = SIZE_MAX;
  if (pacing_rate_ > 0) {
    burst = std::clamp<std::size_t>(static_cast<std::size_t>(pacing_rate_ / 1000), 2 * mtu, kMaxDeparture);
    most = 2 * std::max<std::size_t>(static_cast<std::size_t>(pacing_rate_ / 1000), mtu);
  }
  Departure* last = nullptr;
  std::size_t used = 0;
  bool sent_any = false;
  const std::uint64_t data_before = data_sent_;
  if (now >= follow_up_at_) {
    follow_up_at_ = TimePoint::max();
    ngtcp2_conn_extend_max_streams_uni(conn_, 1);  // the smallest thing that is acknowledged and can be had at will
    acknowledgement_due_ = true;
  }
  for (;;) {
    std::uint64_t allowance = pacing_rate_ > 0 ? bucket_.allowance(now) : UINT64_MAX;
    if ((allowance == 0 || used >= most) && !acknowledgement_due_) {
      paced_ = true;
      // Credit for a late turn of the loop is used up at twice the rate, not at once.
      paced_until_ =
          allowance == 0 ? bucket_.next_time(std::max<std::uint64_t>(pacing_rate_ / 2000, mtu), now) : now + kBurst;
      break;
    }
    if (into.size() - used < mtu) {
      more_to_write_ = true;
      break;
    }
    ngtcp2_path_storage path;
    ngtcp2_path_storage_zero(&path);
    std::uint8_t ecn = 0;
    MutableBytes room = into.subspan(used, std::min(largest, into.size() - used));
    std::int64_t n =
        write_packet(room, path, ecn, static_cast<std::size_t>(std::min<std::uint64_t>(allowance, SIZE_MAX)), now);
    acknowledgement_due_ = false;
    if (n < 0) {
      ngtcp2_ccerr error;
      ngtcp2_ccerr_set_application_error(&error, to_wire_kind(failure_->kind), nullptr, 0);
      fail_with(*failure_, error);
      write_close(into.subspan(used), out, now);
      break;
    }
    if (n == 0) break;
    sent_any = true;
    auto size = static_cast<std::size_t>(n);
    bytes_out_ += size;
    if (pacing_rate_ > 0) bucket_.sent(size, now);
    Path to = from_ngtcp2(path.path);
    if (last && last->path == to && last->ecn == ecn && size <= last->segment &&
        last->bytes.size() % last->segment == 0 && last->bytes.size() + size <= burst &&
        last->bytes.size() / last->segment < kMaxSegments) {
      last->bytes = {last->bytes.data(), last->bytes.size() + size};
    } else {
      out.push_back({to, ecn, size, room.first(size)});
      last = &out.back();
    }
    used += size;
  }
  plan_follow_up(data_sent_ > data_before, now);
  if (library_paces() && sent_any) ngtcp2_conn_update_pkt_tx_time(conn_, stamp(now));
  if (!more_to_write_) outgoing_.idle();
  finish_closing(into.subspan(used), out, now);
}

/// close() was called: once all is acknowledged, or after a short time, the connection ends.
void Connection::finish_closing(MutableBytes into, std::vector<Departure>& out, TimePoint now) {
  if (!closing_reason_ || state_ != State::open) return;
  if (!closing_deadline_) closing_deadline_ = now + kCloseWait;
  bool waiting = !fresh_.empty() || !bulk_.empty() || std::any_of(streams_.begin(), streams_.end(), [](const auto& s) {
    return !s.second.gone && !s.second.out.all_acknowledged();
  });
  if (waiting && now < *closing_deadline_) return;
  Error reason = std::move(*closing_reason_);
  ngtcp2_ccerr error;
  ngtcp2_ccerr_set_application_error(&error, to_wire_kind(reason.kind), nullptr, 0);
  fail_with(std::move(reason), error);
  write_close(into, out, now);
}

void Connection::write_close(MutableBytes into, std::vector<Departure>& out, TimePoint now) {
  close_wanted_ = false;
  if (close_packet_.empty()) {
    closing_until_ = now + 3 * std::chrono::nanoseconds(static_cast<std::int64_t>(ngtcp2_conn_get_pto(conn_)));
    close_error_.reason = reinterpret_cast<const std::uint8_t*>(close_text_.data());
    close_error_.reasonlen = close_error_.type == NGTCP2_CCERR_TYPE_APPLICATION ? close_text_.size() : 0;
    close_packet_.resize(NGTCP2_MAX_UDP_PAYLOAD_SIZE);
    ngtcp2_pkt_info info{};
    auto n =
        ngtcp2_conn_write_connection_close(conn_, nullptr, &info, reinterpret_cast<std::uint8_t*>(close_packet_.data()),
                                           close_packet_.size(), &close_error_, stamp(now));
    close_packet_.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
    if (close_packet_.empty()) {
      state_ = State::dead;
      return;
    }
  }
  if (into.size() < close_packet_.size()) {
    close_wanted_ = more_to_write_ = true;
    return;
  }
  std::memcpy(into.data(), close_packet_.data(), close_packet_.size());
  bytes_out_ += close_packet_.size();
  out.push_back({path(), 0, close_packet_.size(), into.first(close_packet_.size())});
}

}  // namespace qtrp::quic
