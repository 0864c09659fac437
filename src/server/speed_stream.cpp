#include "server/speed_stream.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "qtrp/base/bytes.h"

namespace qtrp::server {

using session::Produced;

SpeedStream::SpeedStream(session::Session& session, io::Loop& loop, Direction direction, std::vector<std::byte> prefix,
                         std::function<void()> over)
    : session_(session),
      loop_(loop),
      direction_(direction),
      out_(std::move(prefix)),
      over_(std::move(over)),
      limit_(loop) {}

Result<void> SpeedStream::start() {
  auto stream = session_.open(*this, static_cast<session::StreamOwner*>(this));
  if (!stream) return std::unexpected(stream.error());
  stream_ = *stream;
  session_.ready(stream_);
  limit_.start(kLimit, [this] {
    session_.reset(stream_, session::ResetCode::limit);
    end();
  });
  return {};
}

Produced SpeedStream::produce(MutableBytes into) {
  std::size_t n = std::min(into.size(), out_.size() - sent_);
  if (n > 0) std::memcpy(into.data(), out_.data() + sent_, n);
  sent_ += n;
  if (sent_ < out_.size()) return {n, Produced::Status::more, {}};
  out_.clear();
  sent_ = 0;
  if (finished_) return {n, Produced::Status::end, {}};
  if (direction_ == Direction::upload) return {n, Produced::Status::would_block, {}};
  std::memset(into.data() + n, 0, into.size() - n);
  return {into.size(), Produced::Status::more, {}};
}

void SpeedStream::on_body(Bytes body) {
  counted_ += body.size();
  session_.moved(stream_, body.size());
  if (direction_ == Direction::upload && loop_.now() - reported_ >= kReport) report();
}

void SpeedStream::on_finished() {
  finished_ = true;
  if (direction_ == Direction::upload) report();
  session_.ready(stream_);
}

void SpeedStream::on_reset(session::ResetCode) {
  end();
}

void SpeedStream::report() {
  reported_ = loop_.now();
  const std::size_t at = out_.size();
  out_.resize(at + sizeof counted_);
  store_be(out_.data() + at, counted_);
  session_.ready(stream_);
}

void SpeedStream::end() {
  limit_.cancel();
  if (!std::exchange(ended_, true)) over_();
}

}  // namespace qtrp::server
