#include "qtrp/tunnel/control_channel.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace qtrp::tunnel {

void ControlChannel::send(const protocol::Message& message) {
  if (failed_) return;
  const std::vector<std::byte> bytes = protocol::encode(message);
  if (out_.size() - out_sent_ + bytes.size() > kMostQueued) {
    return failed(Error{ErrorKind::limit, "the peer does not read its control messages"});
  }
  if (out_sent_ > kMostQueued) {  // a peer that always leaves a little unread must not make what it has read stay
    out_.erase(out_.begin(), out_.begin() + static_cast<std::ptrdiff_t>(out_sent_));
    out_sent_ = 0;
  }
  out_.insert(out_.end(), bytes.begin(), bytes.end());
  session_.ready(stream_);
}

session::Produced ControlChannel::produce(MutableBytes into) {
  const std::size_t n = std::min(into.size(), out_.size() - out_sent_);
  if (n > 0) std::memcpy(into.data(), out_.data() + out_sent_, n);
  out_sent_ += n;
  if (out_sent_ < out_.size()) return {n, session::Produced::Status::more, {}};
  std::vector<std::byte>().swap(out_);
  out_sent_ = 0;
  if (n > 0) listener_.on_control_drained();
  return {n, session::Produced::Status::would_block, {}};
}

void ControlChannel::on_body(Bytes body) {
  if (failed_) return;
  if (waiting_.empty()) parse(body);
  waiting_.insert(waiting_.end(), body.begin(), body.end());
}

void ControlChannel::resume() {
  paused_ = false;
  if (waiting_.empty()) return;
  std::vector<std::byte> held;
  held.swap(waiting_);
  Bytes bytes(held);
  parse(bytes);
  waiting_.assign(bytes.begin(), bytes.end());
}

void ControlChannel::parse(Bytes& bytes) {
  while (!paused_ && !failed_ && !bytes.empty()) {
    const std::size_t before = bytes.size();
    auto message = reader_.next(bytes);
    session_.moved(stream_, before - bytes.size());
    if (!message) {
      failed(message.error());
    } else if (*message) {
      listener_.on_message(std::move(**message));
    }
  }
}

void ControlChannel::on_finished() {
  failed(Error{ErrorKind::closed, "the peer ended its control stream"});
}

void ControlChannel::on_reset(session::ResetCode code) {
  failed(Error{ErrorKind::closed, "the peer reset its control stream: " + std::string(session::to_string(code))});
}

void ControlChannel::failed(Error error) {
  if (std::exchange(failed_, true)) return;
  listener_.on_control_failed(std::move(error));
}

}  // namespace qtrp::tunnel
