// Two multiplexers in memory for tests and fuzzers: what each end's owner would do, with patterned bytes that show any
// loss or mix-up.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "qtrp/mux/mux.h"

namespace qtrp::mux::test {

using namespace std::chrono_literals;
using session::EventKind;
using session::Produced;
using session::ResetCode;
using session::StreamId;

/// The byte at `offset` of the stream with this seed.
inline std::byte pattern(std::uint64_t seed, std::uint64_t offset) {
  const std::uint64_t word = (offset / 8 + 1) * 0x9E3779B97F4A7C15ULL + seed * 0xD6E8FEB86659FD93ULL;
  return static_cast<std::byte>((word ^ (word >> 29)) >> (offset % 8 * 8) & 0xFF);
}

/// A source of `size` patterned bytes of which `available` may be taken now.
class PatternSource final : public session::Source {
 public:
  PatternSource(std::uint64_t seed, std::uint64_t size) : seed_(seed), available(size), size_(size) {}

  Produced produce(MutableBytes into) override {
    EXPECT_FALSE(into.empty()) << "produce() with no room";
    EXPECT_FALSE(done) << "asked again after the end";
    ++calls;
    if (cut) {
      done = true;
      return {.n = 0, .status = Produced::Status::error, .code = ResetCode::cancelled};
    }
    const std::size_t n = static_cast<std::size_t>(std::min<std::uint64_t>(into.size(), available - given));
    for (std::size_t i = 0; i < n; ++i) into[i] = pattern(seed_, given + i);
    return advance(n);
  }
  int splice_fd() override { return splice ? 7 : -1; }
  Produced spliced(std::int64_t n) override { return advance(static_cast<std::size_t>(n)); }

  std::uint64_t seed_;
  std::uint64_t available;  ///< bytes that may be given out so far
  std::uint64_t size_;
  std::uint64_t given = 0;
  std::uint64_t calls = 0;
  bool finish = true;  ///< the end follows the last byte
  bool cut = false;
  bool done = false;
  bool splice = false;

 private:
  Produced advance(std::size_t n) {
    given += n;
    if (given == size_ && finish) {
      done = true;
      return {.n = n, .status = Produced::Status::end, .code = {}};
    }
    if (given == available) return {.n = n, .status = Produced::Status::would_block, .code = {}};
    return {.n = n, .status = Produced::Status::more, .code = {}};
  }
};

/// One end and its owner: remembers what every stream got and gives credit back as told.
class End {
 public:
  struct Seen {
    std::unique_ptr<PatternSource> source;
    std::uint64_t expect_seed = 0;  ///< the pattern that the peer sends on this stream
    std::uint64_t received = 0;
    std::uint64_t unmoved = 0;
    bool opened = false;
    bool finished = false;
    bool reset = false;
    bool intact = true;
    ResetCode code = ResetCode::unspecified;
  };

  End(const Options& options, TimePoint began) : mux(options, began), now(began) {}

  StreamId open(std::uint64_t size, std::uint64_t seed = 1, bool finish = true) {
    auto source = std::make_unique<PatternSource>(seed, size);
    source->finish = finish;
    const auto id = mux.open(*source, this);
    EXPECT_TRUE(id.has_value()) << id.error().message;
    Seen& seen = streams[*id];
    seen.source = std::move(source);
    return *id;
  }

  /// The bytes of one produce() into `room` bytes.
  std::vector<std::byte> produce(std::size_t room = 65536) {
    std::vector<std::byte> out(room);
    out.resize(mux.produce(out, now));
    return out;
  }
  /// Everything there is to send.
  std::vector<std::byte> flush(std::size_t room = 65536) {
    std::vector<std::byte> all;
    for (;;) {
      const auto piece = produce(room);
      if (piece.empty()) return all;
      all.insert(all.end(), piece.begin(), piece.end());
    }
  }

  void deliver(Bytes bytes) {
    mux.receive(bytes, now);
    drain();
  }

  void drain() {
    while (const auto event = mux.next_event()) on_event(*event);
  }

  void on_event(const session::Event& event) {
    ++events;
    switch (event.kind) {
      case EventKind::opened: {
        Seen& seen = streams[event.stream];
        EXPECT_FALSE(seen.opened) << "opened twice";
        seen.opened = true;
        accepted.push_back(event.stream);
        if (refuse) {
          mux.reset(event.stream, ResetCode::refused);
          break;
        }
        seen.expect_seed = expect_seed;
        seen.source = std::make_unique<PatternSource>(answer_seed, answer_size);
        seen.source->finish = answer_finish;
        mux.attach(event.stream, *seen.source, this);
        if (answer) mux.ready(event.stream);
        break;
      }
      case EventKind::body: {
        Seen& seen = streams[event.stream];
        EXPECT_FALSE(event.body.empty());
        EXPECT_FALSE(seen.finished || seen.reset) << "body after the end";
        if (check) {
          for (std::size_t i = 0; i < event.body.size(); ++i) {
            seen.intact = seen.intact && event.body[i] == pattern(seen.expect_seed, seen.received + i);
          }
        }
        seen.received += event.body.size();
        if (hold) {
          seen.unmoved += event.body.size();
        } else {
          mux.moved(event.stream, event.body.size());
        }
        break;
      }
      case EventKind::finished:
        EXPECT_FALSE(streams[event.stream].finished);
        streams[event.stream].finished = true;
        break;
      case EventKind::reset:
        EXPECT_FALSE(streams[event.stream].reset);
        streams[event.stream].reset = true;
        streams[event.stream].code = event.code;
        streams[event.stream].unmoved = 0;
        break;
      case EventKind::can_open: ++can_open; break;
      case EventKind::closed:
        EXPECT_FALSE(closed) << "closed twice";
        closed = true;
        error = *event.error;
        break;
      default: ADD_FAILURE() << "unexpected event";
    }
  }

  void release_held(StreamId id) {
    Seen& seen = streams[id];
    mux.moved(id, std::exchange(seen.unmoved, 0));
  }

  Mux mux;
  TimePoint now;
  std::map<StreamId, Seen> streams;
  std::vector<StreamId> accepted;
  std::uint64_t events = 0;
  int can_open = 0;
  bool closed = false;
  Error error;

  // What the owner does with streams that the peer opens.
  bool refuse = false;
  bool answer = true;  ///< at once
  bool answer_finish = true;
  std::uint64_t answer_size = 0;
  std::uint64_t answer_seed = 2;
  std::uint64_t expect_seed = 1;
  bool check = true;
  bool hold = false;  ///< keeps bodies instead of moving them
};

inline Options make_options(Protocol protocol, bool client, bool extensions = false) {
  Options options;
  options.protocol = protocol;
  options.client = client;
  options.ours.extensions = extensions;
  return options;
}

class Pair {
 public:
  explicit Pair(Protocol protocol, bool extensions = false)
      : Pair(make_options(protocol, true, extensions), make_options(protocol, false, extensions)) {}
  Pair(const Options& client_options, const Options& server_options)
      : client(client_options, TimePoint{} + 1000s), server(server_options, TimePoint{} + 1000s) {
    client.mux.negotiate(server_options.ours);
    server.mux.negotiate(client_options.ours);
  }

  /// Carries bytes both ways, `piece` at a time, until neither has any. False: it never came to rest.
  bool settle(std::size_t piece = SIZE_MAX, std::size_t room = 65536) {
    for (int turn = 0; turn < 100000; ++turn) {
      const bool moved = carry(client, server, piece, room);
      if (!carry(server, client, piece, room) && !moved) return true;
    }
    return false;
  }

  static bool carry(End& from, End& to, std::size_t piece = SIZE_MAX, std::size_t room = 65536) {
    if (!to.mux.wants_read()) return false;
    const auto bytes = from.produce(room);
    for (std::size_t at = 0; at < bytes.size();) {
      const std::size_t n = std::min(piece, bytes.size() - at);
      to.deliver({bytes.data() + at, n});
      at += n;
    }
    return !bytes.empty();
  }

  void advance(Duration by) {
    client.now += by;
    server.now += by;
    client.mux.tick(client.now);
    server.mux.tick(server.now);
  }

  End client;
  End server;
};

}  // namespace qtrp::mux::test
