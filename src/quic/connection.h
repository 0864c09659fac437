// One QUIC connection as a state machine: datagrams and the time go in, datagrams and session events come out. It owns
// no socket and reads no clock; the edge (server.cpp, dialer.cpp) brings both, and tests drive two of these in memory.
//
// Split over four files: connection.cpp (making, receiving, ending), callbacks.cpp (what ngtcp2 calls), sending.cpp
// (packets out of streams), streams.cpp (the session::Session side).
#pragma once

#include <ngtcp2/ngtcp2.h>
#include <ngtcp2/ngtcp2_crypto.h>

#include <array>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "congestion.h"
#include "http3.h"
#include "outbound.h"
#include "qtrp/io/endpoint.h"
#include "qtrp/pacing/token_bucket.h"
#include "qtrp/quic/endpoint.h"
#include "qtrp/session/session.h"
#include "tls.h"

namespace qtrp::quic {

class Connection;

struct Path {
  io::Endpoint local, remote;
  bool operator==(const Path&) const = default;
};

using ConnectionId = std::string;  ///< raw bytes, at most 20

/// Datagrams that leave together: `bytes` is cut into datagrams of `segment` bytes, the last may be shorter (UDP GSO's
/// shape).
struct Departure {
  Path path;
  std::uint8_t ecn = 0;
  std::size_t segment = 0;
  Bytes bytes;
};

/// What a connection asks of the end it belongs to. Nothing here may call back into the connection.
class Host {
 public:
  /// There may be something to write(), or a deadline changed: call write() and next_time() soon.
  virtual void wants_flush(Connection& connection) = 0;
  virtual void identifier_added(Connection& connection, const ConnectionId& id) = 0;
  virtual void identifier_removed(Connection& connection, const ConnectionId& id) = 0;

 protected:
  ~Host() = default;
};

/// What an end gives to each of its connections.
struct Setup {
  const Options* options = nullptr;
  const TlsContext* tls = nullptr;
  const Site* site = nullptr;  ///< server
  io::BufferPool* pool = nullptr;
  Host* host = nullptr;
  Bytes reset_secret;                ///< keys the stateless reset tokens
  bool tunnel = true;                ///< client: false to speak HTTP/3 as a visitor does (tests)
  unsigned worker = 0, workers = 1;  ///< connection ids begin with a byte that is `worker` modulo `workers`
  std::size_t max_datagram = 1452;   ///< largest UDP payload worth probing for on this path
};

/// A client's first datagram as the server saw it, after address validation.
struct Accepted {
  ngtcp2_pkt_hd header;
  ngtcp2_cid original_dcid;  ///< before a Retry
  bool validated = false;    ///< the address proved itself by a retry token
};

class Connection final : public session::Session {
 public:
  enum class Kind : std::uint8_t { unknown, tunnel, visitor };
  enum class State : std::uint8_t { open, closing, draining, dead };

  static Result<std::unique_ptr<Connection>> client(const Setup& setup, const Path& path, TimePoint now);
  static Result<std::unique_ptr<Connection>> server(const Setup& setup, const Path& path, const Accepted& accepted,
                                                    TimePoint now);
  ~Connection() override;
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // The edge's side.
  void receive(const Path& path, std::uint8_t ecn, Bytes datagram, TimePoint now);
  /// Fills `into` with datagrams and appends what they are to `out`, as far as pacing and windows allow now. Spans
  /// point into `into`, which should hold 64 KiB or more.
  void write(MutableBytes into, std::vector<Departure>& out, TimePoint now);
  /// True when write() stopped for want of room in `into`, not for pacing or lack of data.
  bool more_to_write() const { return more_to_write_; }
  /// When on_time() and write() are due next.
  TimePoint next_time(TimePoint now) const;
  void on_time(TimePoint now);
  /// Client: the local address is another one now; the connection moves there.
  void migrate(const Path& to, TimePoint now);
  /// Ends at once: CONNECTION_CLOSE with the next write(), no event.
  void abandon();
  /// Ends at once for `reason`, which the peer is told; a `closed` event follows.
  void abandon_for(Error reason);

  bool has_events() const { return kind_ == Kind::tunnel && !abandoned_ && !events_.empty(); }
  Kind kind() const { return kind_; }
  State state() const { return state_; }
  bool handshake_done() const { return handshake_done_; }
  bool is_authenticated() const { return authenticated_; }
  bool is_server() const { return server_; }
  const std::optional<Error>& failure() const { return failure_; }
  std::vector<ConnectionId> identifiers() const;
  Path path() const;
  std::size_t datagram_size() const;  ///< the path MTU found so far, as UDP payload

  // session::Session
  Result<session::StreamId> open(session::Source& source, void* owner) override;
  void attach(session::StreamId stream, session::Source& source, void* owner) override;
  void ready(session::StreamId stream) override;
  void reset(session::StreamId stream, session::ResetCode code) override;
  void moved(session::StreamId stream, std::size_t n) override;
  std::optional<session::Event> next_event() override;
  void close(Error reason) override;
  Bytes channel_binding() const override;
  Bytes preface(bool) const override { return {}; }
  std::string peer() const override { return path().remote.to_string(); }
  bool heard() override { return std::exchange(heard_, false); }
  session::SessionStats stats() override;
  void set_target(std::uint64_t bits_per_second, bool alone) override;
  void authenticated() override;

 private:
  struct Stream {
    std::int64_t id = 0;
    session::Source* source = nullptr;
    void* owner = nullptr;
    Outbound out;
    std::uint64_t window = 0, moved = 0;  // bytes the peer may be ahead; moved since `since`
    TimePoint since{};
    std::uint64_t unmoved = 0;  // delivered, credit not given back
    TimePoint progress{};       // when the reader last took something, or the first byte that waits for it came
    bool ready : 1 = false;     // the source may have something
    bool queued : 1 = false;    // in one of the turn queues
    bool ended : 1 = false;     // the source gave its end
    bool end_sent : 1 = false;
    bool blocked : 1 = false;       // by the peer's stream window
    bool gone : 1 = false;          // for the owner: reset by either side
    bool announced : 1 = false;     // its `opened` was delivered (or it is ours)
    bool reset_queued : 1 = false;  // its reset event waits to be delivered
    bool closed : 1 = false;        // ngtcp2 has forgotten it
  };
  struct Pending {  // an event not yet delivered
    session::EventKind kind;
    std::int64_t stream = 0;
    session::ResetCode code{};
    Block* block = nullptr;
    const std::byte* data = nullptr;
    std::size_t length = 0;
    bool release = false;  // not an event: the stream's entry can go
  };
  friend struct Callbacks;

  explicit Connection(const Setup& setup, bool server);
  Result<void> make(const Path& path, const Accepted* accepted, TimePoint now);
  void fill_settings(ngtcp2_settings& settings, TimePoint now) const;
  void fill_parameters(ngtcp2_transport_params& parameters) const;

  // callbacks.cpp
  void on_handshake_completed();
  void on_stream_opened(std::int64_t id);
  int on_stream_data(std::int64_t id, Bytes data, bool fin);
  void on_stream_reset(std::int64_t id, std::uint64_t code);
  void on_stream_closed(std::int64_t id, std::uint64_t code, bool code_set);
  int on_bidi_data(std::int64_t id, Bytes data, bool fin);
  void classify(std::byte first);
  void feed_site();
  bool is_foreign(std::int64_t id) const { return kind_ == Kind::visitor || !ngtcp2_is_bidi_stream(id); }
  void queue_body(std::int64_t id, Bytes data);

  // sending.cpp
  std::int64_t write_packet(MutableBytes into, ngtcp2_path_storage& path, std::uint8_t& ecn, std::size_t budget,
                            TimePoint now);
  Stream* next_stream(std::size_t budget);
  enum class Pull : std::uint8_t { got, nothing, stop };
  Pull pull(Stream& stream, std::size_t budget);
  void enqueue(Stream& stream, bool fresh);
  void dequeue_front();
  void write_close(MutableBytes into, std::vector<Departure>& out, TimePoint now);
  void update_pacing(TimePoint now);
  void plan_follow_up(bool sent_data, TimePoint now);
  void finish_closing(MutableBytes into, std::vector<Departure>& out, TimePoint now);
  std::deque<std::int64_t>& front_queue() { return fresh_.empty() ? bulk_ : fresh_; }
  bool library_paces() const;

  // streams.cpp
  Stream* find(std::int64_t id);
  Stream& add_stream(std::int64_t id);
  void forget(Stream& stream);
  void give_back(Stream& stream, std::uint64_t n);  ///< the connection's credit for `n` bytes that it held
  void grow_window(Stream& stream, std::uint64_t credit);
  void relieve();
  void drop(Stream& stream, session::ResetCode code);
  void queue_reset(Stream& stream, std::uint64_t code);  ///< both directions end, and the owner is told
  void shut_down(std::int64_t id, std::uint64_t code);
  void open_fixed_streams();
  void fail_with(Error error, std::optional<ngtcp2_ccerr> close_frame);
  void over(Error error);
  void release_last_body();

  Setup setup_;
  bool server_;
  Kind kind_ = Kind::unknown;
  State state_ = State::open;
  ngtcp2_crypto_conn_ref conn_ref_{};
  std::unique_ptr<TlsSession> tls_;
  ngtcp2_conn* conn_ = nullptr;
  std::unique_ptr<Controller> controller_;  // ours, when it is in ngtcp2's place
  std::unique_ptr<Http3> http3_;            // server
  ConnectionId client_dcid_;                // server: the id of the client's own choice

  Arena outgoing_, incoming_;
  std::unordered_map<std::int64_t, Stream> streams_;
  std::uint64_t grown_ = 0;                                          // bytes by which their windows have grown
  std::uint64_t unmoved_ = 0;                                        // of all streams
  TimePoint relieve_at_{};                                           // not looked for stalled readers before
  std::deque<std::int64_t> fresh_, bulk_;                            // whose turn it is to send: newly ready ones first
  std::size_t front_sent_ = 0;                                       // of the front's turn
  std::vector<std::pair<std::int64_t, std::uint64_t>> late_resets_;  // found while a packet is being filled
  bool filling_ = false;

  std::deque<Pending> events_;
  std::deque<Pending> early_;       // client: of the server's streams that overtook its proof on stream 0
  std::size_t incoming_bytes_ = 0;  // of body events that wait
  std::uint64_t owed_ = 0;          // credit kept back until authenticated()
  Block* delivered_ = nullptr;      // of the last body event given out
  std::optional<Error> failure_;
  std::array<std::byte, 32> binding_{};
  bool has_binding_ = false, handshake_done_ = false, authenticated_ = false, heard_ = false;
  bool want_open_ = false, abandoned_ = false, more_to_write_ = false, acknowledgement_due_ = false;

  pacing::TokenBucket bucket_;
  bool paced_ = false;             // write() stopped for want of tokens ...
  TimePoint paced_until_{};        // ... which are there then
  std::uint64_t pacing_rate_ = 0;  // bytes per second, 0 none

  std::optional<Error> closing_reason_;  // close() waits for what is queued
  std::optional<TimePoint> closing_deadline_;
  ngtcp2_ccerr close_error_{};
  std::string close_text_;
  bool close_wanted_ = false;
  std::vector<std::byte> close_packet_;
  std::uint64_t close_answers_ = 0;
  TimePoint closing_until_{};

  TimePoint last_write_{}, now_{};             // now_: of the last call from the edge
  TimePoint follow_up_at_ = TimePoint::max();  // a last packet that may be lost gets a successor then ...
  TimePoint lossy_until_{};                    // ... while the path loses packets
  std::uint64_t lost_seen_ = 0, data_sent_ = 0;
  std::uint64_t bytes_in_ = 0, bytes_out_ = 0, lost_packets_ = 0;
};

/// ResetCode in a QUIC application error code, and back (unspecified for a foreign one).
std::uint64_t to_wire(session::ResetCode code);
session::ResetCode from_wire(std::uint64_t code);

inline ngtcp2_tstamp stamp(TimePoint t) {
  return static_cast<ngtcp2_tstamp>(std::chrono::duration_cast<std::chrono::nanoseconds>(t.time_since_epoch()).count());
}

}  // namespace qtrp::quic
