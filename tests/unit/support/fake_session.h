// A session::Session in memory: records what is asked of it, and pulls sources when the test says so.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <string>
#include <vector>

#include "qtrp/session/session.h"

namespace qtrp::test {

class FakeSession final : public session::Session {
 public:
  struct Stream {
    session::Source* source = nullptr;
    void* owner = nullptr;
    bool ready = false;
    std::string sent;  ///< what the source gave
    bool ended = false;
    std::optional<session::ResetCode> reset;  ///< by the owner, or because the source was cut off
    std::size_t moved = 0;
  };
  std::map<session::StreamId, Stream> streams;
  session::StreamId next = 2;
  std::optional<Error> closed;
  std::deque<session::Event> events;

  /// As a real session's flush does: asks until the source would block or `most` bytes came.
  void pull(session::StreamId id, std::size_t most = SIZE_MAX, std::size_t chunk = 4096) {
    Stream& stream = streams.at(id);
    std::vector<std::byte> room(chunk);
    while (stream.ready && !stream.ended && !stream.reset && most > 0) {
      const auto made = stream.source->produce(MutableBytes(room).first(std::min(chunk, most)));
      most -= made.n;
      if (made.status == session::Produced::Status::error) {
        stream.reset = made.code;
        return;
      }
      stream.sent += as_text(Bytes(room).first(made.n));
      if (made.status == session::Produced::Status::more) {
        EXPECT_GT(made.n, 0U) << "more, without anything";
        if (made.n == 0) return;
      }
      if (made.status == session::Produced::Status::would_block) stream.ready = false;
      if (made.status == session::Produced::Status::end) stream.ended = true;
    }
  }

  Result<session::StreamId> open(session::Source& source, void* owner) override {
    Stream& stream = streams[next];
    stream.source = &source;
    stream.owner = owner;
    stream.ready = true;
    next += 2;
    return next - 2;
  }
  void attach(session::StreamId id, session::Source& source, void* owner) override {
    streams[id].source = &source;
    streams[id].owner = owner;
  }
  void ready(session::StreamId id) override { streams[id].ready = true; }
  void reset(session::StreamId id, session::ResetCode code) override { streams[id].reset = code; }
  void moved(session::StreamId id, std::size_t n) override { streams[id].moved += n; }
  std::optional<session::Event> next_event() override {
    if (events.empty()) return std::nullopt;
    auto event = std::move(events.front());
    events.pop_front();
    return event;
  }
  void close(Error reason) override { closed = std::move(reason); }
  Bytes channel_binding() const override { return {}; }
  Bytes preface(bool) const override { return {}; }
  std::string peer() const override { return "127.0.0.1:1"; }
  bool heard() override { return true; }
  session::SessionStats stats() override { return {}; }
  void set_target(std::uint64_t, bool) override {}
  void authenticated() override {}
};

}  // namespace qtrp::test
