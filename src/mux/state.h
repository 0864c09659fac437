// What a Mux is made of. The work is spread over receive.cpp (frames in, events out), send.cpp (frames out) and mux.cpp
// (streams' lives, timers, limits).
#pragma once

#include <fmt/format.h>

#include <array>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mux/flow_control.h"
#include "mux/frame.h"
#include "mux/scheduler.h"
#include "mux/stream_table.h"
#include "qtrp/mux/mux.h"

namespace qtrp::mux {

/// A singly linked first-in first-out list through one of Stream's links.
template <Stream* Stream::* Link>
class StreamList {
 public:
  Stream* head() const { return head_; }
  void push_back(Stream& stream) {
    stream.*Link = nullptr;
    (tail_ != nullptr ? tail_->*Link : head_) = &stream;
    tail_ = &stream;
  }
  Stream* pop_front() {
    Stream* stream = head_;
    head_ = stream->*Link;
    if (head_ == nullptr) tail_ = nullptr;
    return stream;
  }
  void clear() { head_ = tail_ = nullptr; }

 private:
  Stream* head_ = nullptr;
  Stream* tail_ = nullptr;
};

struct Mux::State {
  State(const Options& chosen, TimePoint began);

  // Streams' lives (mux.cpp).
  Stream& create(std::uint32_t id, bool ours);
  void resume(Stream& stream);  ///< lets it take turns if it may
  /// Out of the table, owing the peer only `owed` from now on; its memory goes when no list has it.
  void release(Stream& stream, std::uint8_t owed = 0);
  void recycle(Stream& stream);          ///< gives back the memory of a stream that is gone and in no list
  void release_if_done(Stream& stream);  ///< both directions ended and everything moved
  void abort(Stream& stream, session::ResetCode code);     ///< tells the peer and releases
  void kill(Stream& stream, session::ResetCode code);      ///< as abort(), and the owner gets a reset event
  void refuse(std::uint32_t id, session::ResetCode code);  ///< answers an open that is not wanted
  void relieve();  ///< the bound is reached: resets the fullest streams until there is some room
  void owe(Stream& stream, Owed what);
  void update_window(Stream& stream);
  void touch(Stream& stream) { stream.active = seconds(now); }
  bool wants_read() const { return options.protocol != Protocol::smux1 || flow.room() > 0; }
  void check_left();
  void drop_half_closed();
  void yield_idle();
  std::uint32_t seconds(TimePoint at) const;
  void fail(ErrorKind kind, std::string message, std::uint32_t go_away_reason = yamux::kProtocolError);

  // Receiving (receive.cpp).
  std::optional<session::Event> next_event();
  std::optional<session::Event> parse();
  bool take_header();  ///< a whole header is in `frame`; false: more input is needed
  std::optional<session::Event> on_frame();
  Stream* on_open();  ///< nullptr: refused, or fail()
  std::optional<session::Event> body();
  std::optional<session::Event> on_finish(Stream& stream);
  std::optional<session::Event> on_reset(Stream& stream);
  bool on_data(Stream& stream);  ///< false: fail()
  void on_limit(Stream& stream);
  void on_credit(Stream& stream);
  void on_session_frame();
  Stream* known(std::uint32_t id);  ///< the stream, or nullptr after fail() for an id that was never used

  // Sending (send.cpp).
  std::size_t produce(MutableBytes out, bool fresh_only);
  std::size_t write_control(MutableBytes out);
  bool write_session_frames(MutableBytes out, std::size_t& used);
  bool write_owed(Stream& stream, MutableBytes out, std::size_t& used);
  bool owes() const { return control.head() != nullptr || owe_nop || owe_ping || owe_leave || !pongs.empty(); }
  std::size_t most_payload(const Stream& stream, std::size_t frame_limit) const;
  void sent(Stream& stream, std::size_t n);
  void settle(Stream& stream, session::Produced::Status status, session::ResetCode code);
  std::uint32_t peer_frame() const;    ///< most payload that the peer takes in a frame
  std::uint32_t peer_initial() const;  ///< the peer's receive window of a new stream
  Frame data_frame(const Stream& stream, std::size_t n) const;

  Options options;
  Codec codec;
  bool extended = false;  ///< both ends are ours: negotiate() said so
  Features peer;          ///< after negotiate()
  StreamTable table;
  Scheduler scheduler;
  FlowControl flow;
  UsedIds used_ids;  ///< the peer's
  Counters counters;
  TimePoint began;
  TimePoint now;

  std::uint32_t next_id;
  std::size_t peer_streams = 0;     ///< open ones that the peer opened
  std::size_t unaccepted = 0;       ///< yamux: our opens without their ACK
  std::size_t gone_in_control = 0;  ///< released streams whose RST is still to be sent
  bool open_refused = false;        ///< open() failed for want of credit
  bool can_open = false;
  bool leaving = false;    ///< we sent, or will send, go away
  bool peer_left = false;  ///< the peer's go away arrived

  // Input.
  Bytes input;
  std::array<std::byte, kMaxHeader> partial{};
  std::size_t partial_size = 0;
  Frame frame;
  Stream* body_stream = nullptr;  ///< nullptr while body_left > 0: the body is skipped
  std::size_t body_left = 0;
  bool body_finish = false;  ///< FIN follows the body
  StreamList<&Stream::next_event> killed;

  // Output.
  StreamList<&Stream::next_control> control;
  bool owe_nop = false;
  bool owe_ping = false;
  bool owe_leave = false;
  std::uint32_t leave_reason = yamux::kNormal;
  std::vector<std::uint32_t> pongs;

  // Timers.
  TimePoint heard;
  TimePoint spoke;
  TimePoint next_sweep;
  TimePoint ping_sent;
  bool ping_pending = false;
  std::uint32_t ping_value = 0;
  Duration ping_rtt{};
  std::vector<std::uint32_t> half_closed;  ///< foreign: the peer's FIN came, ours is owed
  std::vector<std::uint32_t> idle_credit;  ///< ours: went idle with more credit than an initial window

  bool closed = false;
  bool closed_told = false;
  Error error;
};

}  // namespace qtrp::mux
