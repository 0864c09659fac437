// Joins one stream of a session and one socket, both ways. Half-close goes through as half-close and a reset as a
// reset; a side that takes nothing stops the other one, and nobody else. It knows nothing of servers, clients or who
// carries the stream.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

#include "qtrp/io/pool.h"
#include "qtrp/io/socket.h"
#include "qtrp/session/session.h"
#include "qtrp/stats/access_log.h"
#include "qtrp/stats/counters.h"

namespace qtrp::relay {

/// How a relayed connection ended.
enum class End : std::uint8_t {
  finished,      ///< both directions ended cleanly
  socket_broke,  ///< our socket was reset or failed; the stream was reset
  stream_reset,  ///< the stream was reset; our socket was reset
  session_lost,  ///< the tunnel went; our socket was reset
};
std::string_view to_string(End end);

/// On which side of the tunnel a relay stands: decides which direction counts as "in", and who a reset came from.
enum class Side : std::uint8_t { server, client };
/// What the access log calls this end.
stats::EndReason end_reason(End end, session::ResetCode code, Side side);

/// Counters that a relay adds to, all written by its loop alone. "in" is from users to local services.
struct Meters {
  stats::Counters* loop = nullptr;
  stats::Counters* proxy = nullptr;
  /// When a relay last had moved another kMuch bytes. For who chooses among tunnels.
  std::atomic<TimePoint>* moved_much = nullptr;
  static constexpr std::uint64_t kMuch = 256 << 10;
};

class Relay : public session::StreamOwner, private io::SocketListener {
 public:
  using Side = relay::Side;

  Relay(session::Session& session, io::Loop& loop, Side side, Meters meters)
      : session_(session), loop_(loop), meters_(meters), side_(side) {}
  ~Relay() override;
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;

  /// Bytes that go first on the stream (the server's NewConn), before the socket's. Before the stream is opened.
  void set_prefix(std::vector<std::byte> prefix) { prefix_ = std::move(prefix); }
  /// Bytes that go first to the socket (the PROXY protocol's header), before the stream's; 65535 at most. They are no
  /// payload: not counted, and no credit is given for them. Before connect() and before the stream's first body.
  void set_greeting(Bytes greeting);
  void set_stream(session::StreamId stream) { stream_ = stream; }
  session::StreamId stream() const { return stream_; }
  /// Takes the socket; until then bodies are kept (the window bounds them).
  void connect(io::Fd socket);
  bool connected() const { return socket_.has_value(); }

  /// Ends it from outside: the socket is reset, and the stream with `code` unless the session is gone.
  void abort(session::ResetCode code);
  void session_lost();

  std::uint64_t bytes_to_stream() const { return to_stream_; }
  std::uint64_t bytes_to_socket() const { return to_socket_; }

  session::Produced produce(MutableBytes into) override;
  int splice_fd() override;
  session::Produced spliced(std::int64_t n) override;
  int sink_fd() override;
  void on_spliced(std::size_t n) override;
  void on_body(Bytes body) override;
  void on_finished() override;
  void on_reset(session::ResetCode code) override;

 protected:
  session::Session& session() { return session_; }
  io::Loop& loop() { return loop_; }
  bool over() const { return over_; }
  void set_proxy_counters(stats::Counters& counters) { meters_.proxy = &counters; }
  /// Called once, when the relay holds neither stream nor socket any more; it may be destroyed at the turn's end, not
  /// within. `code` is the peer's, for stream_reset.
  virtual void on_end(End end, session::ResetCode code) = 0;

 private:
  void on_readable() override;
  void on_writable() override;
  void on_broken() override;
  bool write_out(Bytes& bytes);
  void add(std::uint64_t& total, std::size_t n);
  void count_to_stream(std::size_t n);
  void count_to_socket(std::size_t n);
  void ended_one_way();
  void finish(End end, session::ResetCode code = session::ResetCode::unspecified);
  void socket_failed();

  session::Session& session_;
  io::Loop& loop_;
  session::StreamId stream_ = 0;
  std::optional<io::Socket> socket_;
  io::ByteQueue queue_;  // bodies that the socket has not taken
  std::vector<std::byte> prefix_;
  std::uint64_t to_stream_ = 0, to_socket_ = 0;
  Meters meters_;
  Side side_;
  bool socket_ended_ = false;  // its end was given to the stream
  bool stream_ended_ = false;  // the stream's end was heard
  bool shut_ = false;          // ... and passed on to the socket
  bool over_ = false;
  std::uint16_t greeting_ = 0;  // bytes of the greeting that still stand first in queue_
  bool bulk_ = false;           // the last read filled a large buffer: splicing pays
};

}  // namespace qtrp::relay
