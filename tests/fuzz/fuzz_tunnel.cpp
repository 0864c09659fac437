// A whole TunnelSession (crypto none) against a peer's arbitrary bytes, from the first one on: preface, mux frames, and
// what owners do with the streams: a control channel on the first, NewConn at the beginning of the others. The input's
// first byte chooses role, mux and when the peer counts as authenticated; the rest is what the peer sends before its
// FIN. The session must come to its end by itself.
#include <sys/socket.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <vector>

#include "qtrp/io/loop.h"
#include "qtrp/tunnel/control_channel.h"
#include "qtrp/tunnel/tunnel_session.h"

namespace {

using namespace qtrp;
using session::EventKind;
using session::ResetCode;

constexpr std::size_t kMostInput = 64 << 10;  // bytes; a socket pair holds them all

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

/// A data stream's owner, as a client's is: the first message must be NewConn, what follows is echoed.
class Echo final : public session::StreamOwner {
 public:
  explicit Echo(session::Session& s) : session(s) {}
  session::Produced produce(MutableBytes into) override {
    const std::size_t n = std::min(into.size(), kept.size());
    std::copy_n(kept.begin(), n, into.begin());
    kept.erase(kept.begin(), kept.begin() + static_cast<std::ptrdiff_t>(n));
    if (!kept.empty()) return {n, session::Produced::Status::more, {}};
    return {n, finished ? session::Produced::Status::end : session::Produced::Status::would_block, {}};
  }
  void on_body(Bytes body) override {
    require(!body.empty() && !finished && !over, "bodies come before the end");
    if (!begun) {
      const std::size_t before = body.size();
      auto message = reader.next(body);
      session.moved(id, before - body.size());
      if (!message || (*message && !std::holds_alternative<protocol::NewConn>(**message))) {
        over = true;
        return session.reset(id, ResetCode::protocol);
      }
      if (!*message) return;
      begun = true;
    }
    kept.insert(kept.end(), body.begin(), body.end());
    session.moved(id, body.size());
    session.ready(id);
  }
  void on_finished() override {
    require(!finished && !over, "a stream ends once");
    finished = true;
    session.ready(id);
  }
  void on_reset(ResetCode) override {
    require(!over, "a stream is reset once");
    over = true;
  }
  session::Session& session;
  session::StreamId id = 0;
  protocol::MessageReader reader;
  std::vector<std::byte> kept;
  bool begun = false, finished = false, over = false;
};

class End final : public session::SessionListener, public tunnel::ControlListener {
 public:
  End(io::Loop& loop, io::Fd socket, const tunnel::Options& options, unsigned authenticate_after)
      : loop_(loop), client_(options.client), authenticate_after_(authenticate_after) {
    session_ = std::make_unique<tunnel::TunnelSession>(loop, std::move(socket), crypto::make_none(), options,
                                                       static_cast<session::SessionListener&>(*this));
  }
  void on_events() override {
    while (!ended_) {
      const auto event = session_->next_event();
      if (!event) return;
      switch (event->kind) {
        case EventKind::established:
          require(!established_, "established once");
          established_ = true;
          if (client_) {
            begin_control();
            const auto opened = session_->open(*control_, owner());
            if (!opened) return end();
            control_->set_stream(*opened);
            control_->send(protocol::Auth{});
          }
          break;
        case EventKind::opened:
          if (!client_ && !control_) {
            begin_control();
            control_->set_stream(event->stream);
            session_->attach(event->stream, *control_, owner());
          } else {
            auto& echo = streams_[event->stream];
            require(!echo, "a stream opens once");
            echo = std::make_unique<Echo>(*session_);
            echo->id = event->stream;
            session_->attach(event->stream, *echo, static_cast<session::StreamOwner*>(echo.get()));
          }
          break;
        case EventKind::closed: return end();
        case EventKind::can_open: break;
        default: session::dispatch(*event);
      }
    }
  }
  void on_message(protocol::Message message) override {
    if (ended_) return;
    if (++messages_ == authenticate_after_) session_->authenticated();
    if (std::holds_alternative<protocol::Goodbye>(message)) return session_->close(Error{ErrorKind::closed, "bye"});
    if (const auto* ping = std::get_if<protocol::Ping>(&message)) control_->send(protocol::Pong{ping->timestamp});
  }
  void on_control_failed(Error) override { end(); }

 private:
  void begin_control() {
    control_ = std::make_unique<tunnel::ControlChannel>(*session_, static_cast<tunnel::ControlListener&>(*this));
  }
  session::StreamOwner* owner() { return control_.get(); }
  void end() {
    ended_ = true;
    loop_.stop();
  }
  io::Loop& loop_;
  bool client_;
  unsigned authenticate_after_, messages_ = 0;
  bool established_ = false, ended_ = false;
  std::unique_ptr<tunnel::ControlChannel> control_;
  std::map<session::StreamId, std::unique_ptr<Echo>> streams_;
  std::unique_ptr<tunnel::TunnelSession> session_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1 || size > kMostInput) return 0;
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) != 0) return 0;
  io::Fd ours(pair[0]);
  const io::Fd peer(pair[1]);
  const int room = 4 << 20;
  ::setsockopt(peer.get(), SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
  ++data, --size;
  for (std::size_t sent = 0; sent < size;) {
    const ssize_t n = ::send(peer.get(), data + sent, size - sent, MSG_NOSIGNAL);
    if (n <= 0) return 0;  // no room for so much on this machine
    sent += static_cast<std::size_t>(n);
  }
  ::shutdown(peer.get(), SHUT_WR);

  const unsigned choice = data[-1];
  tunnel::Options options;
  options.client = (choice & 1) != 0;
  options.mux = (choice & 2) != 0 ? mux::Protocol::yamux : mux::Protocol::smux2;
  options.max_streams = 64;
  options.session_buffer = 1 << 20;
  const auto loop = (choice & 4) != 0 ? io::make_asio_loop() : io::make_epoll_loop();
  {
    End end(*loop, std::move(ours), options, choice >> 4U);
    // What we send goes nowhere: somebody has to read it, or the session would wait for ever with its last words.
    bool stuck = false;
    std::function<void()> drain = [&] {
      char sink[4096];
      while (::recv(peer.get(), sink, sizeof sink, MSG_DONTWAIT) > 0) {
      }
      loop->after(std::chrono::milliseconds(1), [&] { drain(); });
    };
    loop->after(std::chrono::milliseconds(1), [&] { drain(); });
    loop->after(std::chrono::seconds(8), [&] {
      stuck = true;
      loop->stop();
    });
    loop->run();
    require(!stuck, "the session ends after its peer's FIN");
  }
  return 0;
}
