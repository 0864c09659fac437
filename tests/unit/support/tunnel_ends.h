// The two sides of a tunnel as the server's and the client's tests need them: what a client or server would say, and
// what none should.
#pragma once

#include "qtrp/crypto/record_layer.h"
#include "qtrp/protocol/proof.h"
#include "qtrp/tunnel/control_channel.h"
#include "qtrp/tunnel/tunnel_session.h"
#include "support/loop_thread.h"

namespace qtrp::test {

using protocol::Message;
using session::ResetCode;

/// A data stream: says `out`, keeps what comes.
class DataStream final : public session::StreamOwner {
 public:
  explicit DataStream(session::Session& s) : session(s) {}
  session::Produced produce(MutableBytes into) override {
    const std::size_t n = std::min(into.size(), out.size() - given);
    std::memcpy(into.data(), out.data() + given, n);
    given += n;
    if (given < out.size()) return {n, session::Produced::Status::more, {}};
    return {n, finish ? session::Produced::Status::end : session::Produced::Status::would_block, {}};
  }
  void on_body(Bytes body) override {
    got += as_text(body);
    session.moved(id, body.size());
  }
  void on_finished() override { finished = true; }
  void on_reset(ResetCode code) override { reset = code; }
  void say(std::string_view text, bool and_finish = false) {
    out += text;
    finish = and_finish;
    session.ready(id);
  }
  /// The control message that it begins with; what follows stays in `got`.
  std::optional<Message> take_message() {
    Bytes bytes = as_bytes(got);
    protocol::MessageReader reader;
    auto message = reader.next(bytes);
    if (!message || !*message) return std::nullopt;
    got.erase(0, got.size() - bytes.size());
    return std::move(**message);
  }

  session::Session& session;
  session::StreamId id = 0;
  std::string out, got;
  std::size_t given = 0;
  bool finish = false, finished = false;
  std::optional<ResetCode> reset;
};

/// One end of a tunnel (crypto none) that says what the test wants it to say.
class TunnelEnd final : public session::SessionListener, public tunnel::ControlListener {
 public:
  TunnelEnd(io::Loop& loop, io::Fd socket, bool client) : client_(client) {
    tunnel::Options options;
    options.client = client;
    session = std::make_unique<tunnel::TunnelSession>(loop, std::move(socket), crypto::make_none(), options,
                                                      static_cast<session::SessionListener&>(*this));
  }

  void on_events() override {
    while (session) {
      const auto event = session->next_event();
      if (!event) return;
      switch (event->kind) {
        case session::EventKind::established:
          established = true;
          if (client_) {
            control = make_control();
            begin_control(session->open(*control, owner()).value());
          }
          break;
        case session::EventKind::opened:
          if (!client_ && !control) {
            control = make_control();
            session->attach(event->stream, *control, owner());
            begin_control(event->stream);
            break;
          }
          streams.push_back(std::make_unique<DataStream>(*session));
          streams.back()->id = event->stream;
          session->attach(event->stream, *streams.back(), static_cast<session::StreamOwner*>(streams.back().get()));
          break;
        case session::EventKind::closed: closed = *event->error; return;
        case session::EventKind::can_open: break;
        default: session::dispatch(*event);
      }
    }
  }
  void on_message(Message message) override {
    if (const auto* ping = std::get_if<protocol::Ping>(&message); ping && answers) say(protocol::Pong{ping->timestamp});
    messages.push_back(std::move(message));
  }
  void on_control_failed(Error error) override { control_failed = std::move(error); }

  /// In one flight, if called in one turn.
  void say(const Message& message) { control->send(message); }
  DataStream& open(std::string_view text) {
    auto stream = std::make_unique<DataStream>(*session);
    stream->out = text;
    stream->id = session->open(*stream, static_cast<session::StreamOwner*>(stream.get())).value();
    streams.push_back(std::move(stream));
    return *streams.back();
  }
  /// The newest message of type T.
  template <typename T>
  const T* last() const {
    for (auto it = messages.rbegin(); it != messages.rend(); ++it) {
      if (const T* message = std::get_if<T>(&*it)) return message;
    }
    return nullptr;
  }

  std::unique_ptr<tunnel::TunnelSession> session;
  std::unique_ptr<tunnel::ControlChannel> control;
  std::vector<std::unique_ptr<DataStream>> streams;
  std::vector<Message> messages;
  std::optional<Error> closed, control_failed;
  bool established = false;
  bool answers = true;  ///< pings

 private:
  std::unique_ptr<tunnel::ControlChannel> make_control() {
    return std::make_unique<tunnel::ControlChannel>(*session, static_cast<tunnel::ControlListener&>(*this));
  }
  session::StreamOwner* owner() { return control.get(); }
  void begin_control(session::StreamId id) { control->set_stream(id); }
  bool client_;
};

inline std::string text_of(const std::vector<std::byte>& bytes) {
  return std::string(as_text(bytes));
}
inline std::int64_t wall_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace qtrp::test
