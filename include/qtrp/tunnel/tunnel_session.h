// A Session over a TCP connection: socket + record layer + mux. It reads in bulk, opens records and parses frames in
// place, and writes what the mux's turns give once a turn of the loop. What it leaves to others: dialing,
// authentication, what streams are for.
#pragma once

#include <array>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "qtrp/crypto/record_layer.h"
#include "qtrp/io/pipe.h"
#include "qtrp/io/socket.h"
#include "qtrp/mux/mux.h"
#include "qtrp/pacing/tcp.h"
#include "qtrp/protocol/preface.h"
#include "qtrp/session/session.h"

namespace qtrp::tunnel {

struct Options {
  bool client = false;
  mux::Protocol mux = mux::Protocol::smux2;
  std::size_t max_streams = 65536;  ///< that the peer may have open, once authenticated
  std::size_t session_buffer =
      64u << 20;  ///< bytes received and not yet taken by local sockets, all streams, once authenticated
  std::size_t max_stream_window = 32u << 20;
  std::uint32_t max_frame =
      256 << 10;  ///< largest frame that we accept; copied payload is sent in frames of 65535 bytes at most
  pacing::TcpControl* tcp = nullptr;  ///< congestion control and buffers; outlives the session. Null: the kernel's
};

class TunnelSession final : public session::Session, private io::SocketListener {
 public:
  /// `listener` outlives the session. Events come from the next turn on.
  TunnelSession(io::Loop& loop, io::Fd socket, std::unique_ptr<crypto::RecordLayer> layer, const Options& options,
                session::SessionListener& listener);
  ~TunnelSession() override;

  Result<session::StreamId> open(session::Source& source, void* owner) override;
  void attach(session::StreamId stream, session::Source& source, void* owner) override;
  void ready(session::StreamId stream) override;
  void reset(session::StreamId stream, session::ResetCode code) override;
  void moved(session::StreamId stream, std::size_t n) override;
  std::optional<session::Event> next_event() override;
  void close(Error reason) override;
  Bytes channel_binding() const override { return layer_->channel_binding(); }
  Bytes preface(bool client_side) const override;
  std::string peer() const override { return peer_; }
  bool heard() override { return std::exchange(heard_, false); }
  session::SessionStats stats() override;
  void set_target(std::uint64_t bits_per_second, bool alone) override;
  void authenticated() override;

 private:
  void on_readable() override;
  void on_writable() override;
  void on_broken() override;

  bool
  open_more();  // one step from wire bytes to the mux; false when more wire bytes are needed or the session is over
  bool take_preface(Bytes& plain);  // false while the peer's preface is not whole
  void say_established();
  void flush();
  enum class Spliced : std::uint8_t { some, drained, not_now };
  bool splices() const { return layer_->transparent() && preface_have_ == our_preface_.size(); }
  bool fill_bulk();
  io::IoResult write_pipe();
  Spliced splice_body();
  bool write_wire();                // true once nothing is left to write
  bool fill_wire(bool fresh_only);  // false when there is nothing to send
  void want_flush() { loop_.at_turn_end(flush_); }
  void fail_session(Error error);
  void wind_down();
  void after_input();
  void arm_mux_timer();
  bool hold_bulk();
  bool wait_for_pacer();  // true when the pacer lets nothing leave now; it flushes later
  const pacing::TcpSample& look_at_socket();

  io::Loop& loop_;
  session::SessionListener& listener_;
  io::Socket socket_;
  std::unique_ptr<crypto::RecordLayer> layer_;
  Options options_;
  mux::Mux mux_;
  std::string peer_;
  io::TurnEnd flush_, tell_;
  io::Timer mux_timer_, close_timer_, pace_timer_;
  std::optional<pacing::TunnelPacing> pacing_;

  io::Chunk in_;                                      // wire bytes not yet opened
  std::vector<std::byte> unfinished_;                 // the same between reads, of a peer not yet authenticated
  io::Chunk out_;                                     // plaintext being framed, sealed in place
  Bytes wire_;                                        // what must leave next: inside out_, the layer, or hello_
  std::optional<io::Pipe> send_pipe_, receive_pipe_;  // payload on its way past user space
  unsigned bulk_ahead_ = 0;       // a body was spliced lately: so many reads go no further than the next header
  std::vector<std::byte> hello_;  // handshake bytes and our preface
  std::size_t batch_;  // most plaintext for one fill: grows while the socket takes all, shrinks when it blocks

  std::array<std::byte, protocol::kPrefaceSize> our_preface_{}, their_preface_{};
  std::size_t preface_have_ = 0;
  bool preface_sent_ = false, established_told_ = false;
  std::deque<session::Event> events_;  // of the session itself
  std::optional<Error> closed_;        // why it is over; the events stop after it was told
  bool closed_told_ = false;
  bool closing_ = false;  // close() was called: what is queued still leaves
  bool authenticated_ = false;
  bool input_paused_ = false;
  bool heard_ = false;
  std::uint64_t wire_in_ = 0, wire_out_ = 0;
};

}  // namespace qtrp::tunnel
