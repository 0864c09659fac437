// The control stream of a session: whole control messages in both directions, bounded both ways.
#pragma once

#include <vector>

#include "qtrp/protocol/messages.h"
#include "qtrp/session/session.h"

namespace qtrp::tunnel {

class ControlListener {
 public:
  virtual void on_message(protocol::Message message) = 0;
  /// The stream cannot be used any more: broken messages (protocol), an end or a reset (closed), a peer that does not
  /// read (limit).
  virtual void on_control_failed(Error error) = 0;
  /// Everything sent so far has been taken by the session; called while it asks its sources.
  virtual void on_control_drained() {}

 protected:
  ~ControlListener() = default;
};

class ControlChannel final : public session::StreamOwner {
 public:
  ControlChannel(session::Session& session, ControlListener& listener) : session_(session), listener_(listener) {}
  void set_stream(session::StreamId stream) { stream_ = stream; }

  void send(const protocol::Message& message);
  /// While paused arriving messages wait (no credit is given for them, so the window bounds them).
  void pause() { paused_ = true; }
  void resume();

  session::Produced produce(MutableBytes into) override;
  void on_body(Bytes body) override;
  void on_finished() override;
  void on_reset(session::ResetCode code) override;

 private:
  static constexpr std::size_t kMostQueued = 1 << 20;  ///< bytes that a peer may leave unread
  void parse(Bytes& bytes);
  void failed(Error error);

  session::Session& session_;
  ControlListener& listener_;
  session::StreamId stream_ = 0;
  protocol::MessageReader reader_;
  std::vector<std::byte> out_, waiting_;
  std::size_t out_sent_ = 0;
  bool paused_ = false, failed_ = false;
};

}  // namespace qtrp::tunnel
