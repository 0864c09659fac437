// A session is one tunnel as the roles above see it: many streams, each with two independent directions, between one
// client and one server. Implemented by tunnel (record layer + mux over TCP) and by quic. This header is the whole
// room: it says nothing about who implements it. A session and everything it carries belong to one loop; nothing here
// is thread-safe.
//
// Sending is pulled: the session asks a stream's Source for bytes when the network can take them. Receiving is an event
// queue that the owner drains; no call into a session ever calls back into the owner from within, except
// Source::produce() from the session's own flush.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "qtrp/base/bytes.h"
#include "qtrp/base/error.h"
#include "qtrp/base/time.h"

namespace qtrp::session {

using StreamId = std::uint64_t;  ///< never used twice in a session

/// Why a stream was reset, carried on the wire where both ends are ours (docs/protocol.md has the table).
enum class ResetCode : std::uint32_t {
  unspecified = 0,    ///< a foreign peer, or no reason given
  cancelled = 1,      ///< the connection on the other side was reset
  refused = 2,        ///< the local service refused the connection
  unreachable = 3,    ///< the local service could not be reached or timed out
  unknown_proxy = 4,  ///< NewConn for a proxy that is not there
  limit = 5,          ///< a configured bound was reached
  flow_control = 6,   ///< the peer sent beyond its window
  protocol = 7,       ///< the peer broke a rule on this stream
  shutting_down = 8,  ///< going away
  session_lost = 9,   ///< the tunnel under the stream ended (never sent)
};
std::string_view to_string(ResetCode code);

/// What Source::produce() did.
struct Produced {
  enum class Status : std::uint8_t {
    more,         ///< n > 0 bytes, and there may be more at once
    would_block,  ///< n >= 0 bytes, then nothing for now: call Session::ready() when there is
    end,          ///< n >= 0 bytes, then the end: FIN
    error,        ///< the source was cut off: reset the stream with `code`; n is ignored
  };
  std::size_t n = 0;
  Status status = Status::would_block;
  ResetCode code = ResetCode::cancelled;
};

/// Where a stream's outgoing bytes come from. The session keeps a plain reference from open()/attach() until the stream
/// is released, reset, or both its directions are done.
class Source {
 public:
  virtual ~Source() = default;
  /// Puts at most into.size() (> 0) bytes into `into`. Called from the session's flush only. Must not call into the
  /// session.
  virtual Produced produce(MutableBytes into) = 0;
  /// A descriptor whose bytes may be spliced instead of produced, or -1 while produce() has something of its own to say
  /// first.
  virtual int splice_fd() { return -1; }
  /// After the session spliced from splice_fd(): n > 0 bytes moved, n == 0 the end was read, -errno. Answers what
  /// produce() would have.
  virtual Produced spliced(std::int64_t n) {
    return {static_cast<std::size_t>(n > 0 ? n : 0), Produced::Status::more, {}};
  }
};

/// What the roles hang on a stream: the Source of its outgoing bytes and the sink of its events. The `owner` that
/// open() and attach() are given is a StreamOwner* for every stream of ours.
class StreamOwner : public Source {
 public:
  virtual void on_body(Bytes body) = 0;
  virtual void on_finished() = 0;
  virtual void on_reset(ResetCode code) = 0;
  /// A descriptor that bodies may be spliced to instead of on_body(), or -1 while it must not be written to (bytes are
  /// queued before it).
  virtual int sink_fd() { return -1; }
  /// The session spliced `n` bytes of the stream's body to sink_fd().
  virtual void on_spliced(std::size_t n) { static_cast<void>(n); }
};

enum class EventKind : std::uint8_t {
  established,  ///< the peer can be spoken to: channel_binding() and transcript() are there (once, first)
  opened,       ///< the peer opened `stream`: answer with attach() or reset()
  body,      ///< `body` arrived on `stream`; the bytes are gone after the next call into the session. Give credit with
             ///< moved()
  finished,  ///< the peer's direction ended cleanly (after its last body)
  reset,     ///< the peer, or the session for the peer's fault, reset the stream with `code`; the stream is gone
  can_open,  ///< open() failed for want of stream credit and may work now
  closed,    ///< the session is over, for the reason in `error`; every stream is gone without a further event (last)
};

struct Event {
  EventKind kind;
  StreamId stream = 0;
  void* owner = nullptr;  ///< what open()/attach() were given
  Bytes body{};
  ResetCode code = ResetCode::unspecified;
  const Error* error = nullptr;  ///< for `closed`; kind closed means an orderly end
};

/// Hands a body, finished or reset event to the StreamOwner it is for.
void dispatch(const Event& event);

/// Live figures of one session; every field is a snapshot. Unknown ones are 0.
struct SessionStats {
  std::uint64_t wire_bytes_in = 0,
                wire_bytes_out = 0;  ///< as sent and received under the record layer (TCP) or as UDP payload (QUIC)
  std::uint64_t streams = 0;         ///< open now
  Duration rtt{};                    ///< smoothed
  std::uint64_t retransmitted_bytes = 0;
  std::uint64_t lost_packets = 0;
  std::uint64_t rate_bps = 0;    ///< sending rate that the pacer or congestion controller allows; 0 unknown
  std::uint64_t target_bps = 0;  ///< Brutal's target; 0 without
  double ack_rate = 0;           ///< Brutal's measured ack rate, 0 unknown
  std::string congestion;        ///< "bbr", "cubic", "brutal (bpf)", ...
  std::string cipher;            ///< RecordLayer::describe() or QUIC's suite
  std::string transport;         ///< "net", "epoll", "quic"
  std::string mux;               ///< "smux", "yamux", "quic"
};

class Session {
 public:
  virtual ~Session() = default;

  /// Opens a stream; its first bytes travel with the next flush. Fails with kind limit when the peer's stream limit is
  /// reached (a can_open event follows) and with closed when the session is over. The source is ready from the start.
  virtual Result<StreamId> open(Source& source, void* owner) = 0;
  /// Takes on a stream that the peer opened. The source is not ready until ready() is called.
  virtual void attach(StreamId stream, Source& source, void* owner) = 0;
  /// The stream's source has bytes, its end, or an error to give. Cheap, idempotent.
  virtual void ready(StreamId stream) = 0;
  /// Drops the stream both ways and tells the peer; what was queued is discarded, the source is not called again, no
  /// event follows.
  virtual void reset(StreamId stream, ResetCode code) = 0;
  /// The owner is done with `n` bytes of earlier body events (its socket took them): the peer may send as many more.
  virtual void moved(StreamId stream, std::size_t n) = 0;
  // All four ignore a stream that is already gone.

  /// The next event, or nothing for now. Drain it when SessionListener::on_events() says so.
  virtual std::optional<Event> next_event() = 0;

  /// Ends the session: what is queued leaves (bounded by a short time), then the connection closes. A `closed` event
  /// follows.
  virtual void close(Error reason) = 0;

  /// Channel binding (may be empty, for crypto none) and the bytes of the preface that the named side sent (empty for
  /// quic).
  virtual Bytes channel_binding() const = 0;
  virtual Bytes preface(bool client_side) const = 0;
  /// "203.0.113.7:50312", the peer's address now.
  virtual std::string peer() const = 0;
  /// True once anything arrived since the last call; for liveness checks.
  virtual bool heard() = 0;
  virtual SessionStats stats() = 0;
  /// Brutal's sending target for this session in bits per second, 0 for none. Takes effect at once. `alone`: the client
  /// has no other session that could take what must not wait beside a download.
  virtual void set_target(std::uint64_t bits_per_second, bool alone) = 0;
  /// The peer has proved who it is: the limits for unauthenticated peers (one stream, 64 KiB) end.
  virtual void authenticated() = 0;
};

/// Told when a session has events to drain. Called from the loop, never from within a call into the session.
class SessionListener {
 public:
  virtual void on_events() = 0;

 protected:
  ~SessionListener() = default;
};

}  // namespace qtrp::session
