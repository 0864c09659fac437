// The server's end of a speed test: a stream that sends as much as the tunnel takes, or counts what comes and says how
// much that was. Lives on the session's loop.
#pragma once

#include <functional>
#include <vector>

#include "qtrp/io/loop.h"
#include "qtrp/session/session.h"

namespace qtrp::server {

class SpeedStream final : public session::StreamOwner {
 public:
  enum class Direction : std::uint8_t {
    download,  ///< zeros to the client, until it ends the stream or the limit is there
    upload,    ///< counts: every 100 ms, and at the end, the bytes so far as a 64-bit number, big-endian
  };
  static constexpr Duration kLimit = std::chrono::seconds(60);
  static constexpr Duration kReport = std::chrono::milliseconds(100);

  /// `prefix` (NewConn) goes first. `over` is called once, when the stream is gone or its time is up; it must not
  /// delete the object at once.
  SpeedStream(session::Session& session, io::Loop& loop, Direction direction, std::vector<std::byte> prefix,
              std::function<void()> over);
  /// Opens the stream.
  Result<void> start();
  bool started() const { return stream_ != 0; }

  session::Produced produce(MutableBytes into) override;
  void on_body(Bytes body) override;
  void on_finished() override;
  void on_reset(session::ResetCode code) override;

 private:
  void report();
  void end();

  session::Session& session_;
  io::Loop& loop_;
  const Direction direction_;
  std::vector<std::byte> out_;
  std::size_t sent_ = 0;  // of out_
  std::function<void()> over_;
  io::Timer limit_;
  session::StreamId stream_ = 0;
  std::uint64_t counted_ = 0;
  TimePoint reported_{};
  bool finished_ = false;  // nothing more comes
  bool ended_ = false;
};

}  // namespace qtrp::server
