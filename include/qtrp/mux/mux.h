// The multiplexer: many streams over one ordered byte stream. smux version 1 and 2 (github.com/xtaci/smux) and yamux
// (github.com/hashicorp/yamux, spec.md) behind one class; stream table, flow control and scheduler are shared, only the
// codec differs.
//
// Sans I/O: receive() takes plaintext and next_event() parses it in place; produce() asks the streams' Sources for
// bytes and writes whole frames; time is an argument. It owns no socket, reads no clock, knows no cipher. Not
// thread-safe. docs/protocol.md has the wire.
//
// What it promises: sources are asked only for what can be sent at once; streams that were idle go before streams that
// were not, the rest take turns by bytes (deficit round robin); an idle stream owns no buffer; whatever a peer sends,
// memory is bounded by Options.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "qtrp/base/bytes.h"
#include "qtrp/base/error.h"
#include "qtrp/base/time.h"
#include "qtrp/session/session.h"

namespace qtrp::mux {

enum class Protocol : std::uint8_t { smux2 = 2, smux1 = 1, yamux = 3 };  // the preface's numbers
std::string_view to_string(Protocol protocol);                           // "smux", "smux1", "yamux"

/// What one end tells the other in the preface. Only between our own ends; a foreign peer never sees it.
struct Features {
  bool extensions = false;          ///< smux: RST and large frames (commands of our own). yamux: large frames need none
  std::uint32_t max_frame = 65535;  ///< most payload bytes in a frame that this end accepts
  std::uint32_t initial_window =
      0;  ///< receive window of a new stream at this end; 0: the library's own (smux2 262144, yamux 262144)
};

struct Options {
  Protocol protocol = Protocol::smux2;
  bool client = false;  ///< who we are: decides the ids' parity (smux: client from 3, server from 2; yamux 1 and 2)
  Features ours;        ///< sent in our preface, if there is one
  std::size_t stream_window =
      2u << 20;  ///< most receive window of one stream (bound of its growth between our own ends, fixed else)
  std::size_t max_stream_window = 16u << 20;  ///< bound of a stream's window that follows the link (our own ends only)
  std::size_t session_buffer = 16u << 20;     ///< bound of all bodies handed out by next_event() and not yet moved()
  std::size_t max_streams = 65536;            ///< most streams that the peer may have open
  Duration keepalive_interval = std::chrono::seconds(10);  ///< smux NOP / yamux ping when nothing else was sent
  Duration keepalive_timeout = std::chrono::seconds(30);   ///< nothing heard for so long: the session is dead. 0: never
  Duration half_close_timeout =
      std::chrono::minutes(2);    ///< foreign peers only: a stream whose both-ways end is owed and silent is dropped
  std::size_t max_frame = 65535;  ///< most payload that produce() puts in one frame, also where the peer takes more
};

/// Counters for statistics and tests.
struct Counters {
  std::uint64_t frames_in = 0, frames_out = 0;
  std::uint64_t bytes_in = 0, bytes_out = 0;  ///< payload only
  std::uint64_t opened = 0, accepted = 0, resets_in = 0, resets_out = 0;
  std::size_t streams = 0;   ///< open now
  std::size_t buffered = 0;  ///< handed out and not yet moved()
};

class Mux {
 public:
  explicit Mux(const Options& options, TimePoint now);
  ~Mux();
  Mux(const Mux&) = delete;
  Mux& operator=(const Mux&) = delete;

  /// The peer's preface arrived: extensions, large frames and windows may be used from now on. Not called for foreign
  /// peers. Frames of our own that need it are not sent before; frames of the peer's that need it are accepted as soon
  /// as `ours` offered it.
  void negotiate(const Features& peer);
  /// Smoothed round-trip time of the link, for windows that follow it. Call about once a second while data flows.
  void set_rtt(Duration rtt);
  /// Bound on max_streams and session_buffer from now on (an unauthenticated peer gets 1 and 64 KiB, then the
  /// configured ones).
  void set_limits(std::size_t max_streams, std::size_t session_buffer);

  // As session::Session has them; all but open() ignore a stream that is gone.
  Result<session::StreamId> open(session::Source& source, void* owner);
  void attach(session::StreamId stream, session::Source& source, void* owner);
  void ready(session::StreamId stream);
  void reset(session::StreamId stream, session::ResetCode code);
  void moved(session::StreamId stream, std::size_t n);

  /// Gives the next plaintext. The bytes must stay until next_event() has returned nothing, and it must have done so
  /// before the next call.
  void receive(Bytes plain, TimePoint now);
  /// Parses on. Kinds opened, body, finished, reset, can_open, closed (a protocol error, a dead peer, or the peer's
  /// go-away answered; `error` says which; after it nothing more comes). Bodies are given as they arrive, without
  /// waiting for a frame's end.
  std::optional<session::Event> next_event();

  /// Writes frames into `out`: first what the protocol owes (window updates, resets, pings), then the streams' turns.
  /// Returns the bytes written; 0: nothing to send or `out` too small for a header and a byte. Calls Source::produce().
  /// With `fresh_only` of the streams only those that were idle before, and 2 KiB of each: a keystroke, but no more of
  /// a download.
  std::size_t produce(MutableBytes out, TimePoint now, bool fresh_only = false);
  /// Only what the protocol owes, no stream's bytes.
  std::size_t produce_owed(MutableBytes out, TimePoint now);
  /// True if produce() may have something to write.
  bool wants_write() const;
  /// False while the owner must not read on: smux version 1 has no windows, so a full session_buffer stops the
  /// connection itself.
  bool wants_read() const;

  // Zero copy (crypto none): the caller moves a frame's payload without it entering user space.
  struct Bulk {
    session::StreamId stream;
    session::Source* source;  ///< its splice_fd() was >= 0
    std::size_t max;          ///< most bytes that may be spliced for this frame (window, turn and frame limits)
  };
  static constexpr std::size_t kMaxHeader = 16;
  /// If the next thing that produce() would send is payload of a stream whose source can be spliced and whose turn
  /// allows at least `least` bytes, says so; nothing changes until bulk_moved().
  std::optional<Bulk> next_bulk(std::size_t least, TimePoint now);
  /// `result` as Source::spliced() answered for `n` bytes moved: accounts the frame, and writes its header (returned
  /// size; 0 where n is 0) into `header` (kMaxHeader bytes); the n bytes must follow it on the wire. end and error have
  /// the same effect as from produce().
  std::size_t bulk_moved(const Bulk& bulk, const session::Produced& result, MutableBytes header, TimePoint now);
  /// After next_event() returned nothing: if the input ended inside a frame's body, whose and how much of it is still
  /// to come and may bypass receive(): no more than session_buffer has room for, nothing where it is full.
  struct BodyAhead {
    session::StreamId stream;
    void* owner;
    std::size_t remaining;
  };
  std::optional<BodyAhead> body_ahead() const;
  /// Bytes of the header in front of a body that bulk_moved() announces.
  std::size_t large_header() const;
  /// `n` bytes of that body bypassed receive(); they count as handed out (moved() gives them back).
  void body_bypassed(std::size_t n, TimePoint now);

  /// Timers: call tick() at next_deadline() or later; it may make events and output.
  TimePoint next_deadline() const;
  void tick(TimePoint now);
  /// Tells the peer that no new streams are wanted (yamux go-away; smux has none).
  void go_away();
  /// Round trip of the last yamux ping answered, 0 without.
  Duration ping_rtt() const;

  const Counters& counters() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace qtrp::mux
