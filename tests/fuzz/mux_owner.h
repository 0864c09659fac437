// The owner of a multiplexer for the fuzz targets: checks what any owner relies on, aborting where it does not hold.
#pragma once

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "qtrp/mux/mux.h"

namespace qtrp::mux::fuzz {

using session::EventKind;
using session::Produced;
using session::StreamId;

inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

inline std::byte pattern(std::uint64_t seed, std::uint64_t offset) {
  return static_cast<std::byte>((seed * 31 + offset * 7 + offset / 251) & 0xFF);
}

/// Gives `size` patterned bytes and the end.
class Text final : public session::Source {
 public:
  Text(std::uint64_t seed, std::uint64_t size) : seed_(seed), size_(size) {}

  Produced produce(MutableBytes into) override {
    require(!into.empty(), "a source is asked for at least a byte");
    require(!ended_, "a source is not asked after its end");
    const auto n = static_cast<std::size_t>(std::min<std::uint64_t>({into.size(), size_ - given_, most_}));
    for (std::size_t i = 0; i < n; ++i) into[i] = pattern(seed_, given_ + i);
    return spliced(static_cast<std::int64_t>(n));
  }
  int splice_fd() override { return 0; }
  Produced spliced(std::int64_t n) override {
    require(!ended_, "a source is not asked after its end");
    given_ += static_cast<std::uint64_t>(n);
    if (cut_) {
      ended_ = true;
      return {.n = 0, .status = Produced::Status::error, .code = session::ResetCode::cancelled};
    }
    ended_ = given_ == size_;
    const auto status = ended_   ? Produced::Status::end
                        : n == 0 ? Produced::Status::would_block
                                 : Produced::Status::more;
    return {.n = static_cast<std::size_t>(n), .status = status, .code = {}};
  }

  std::uint64_t seed_;
  std::uint64_t size_;
  std::uint64_t given_ = 0;
  std::uint64_t most_ = 1U << 20;  ///< of one call
  bool ended_ = false;
  bool cut_ = false;
};

/// Takes events as an owner does and remembers what every stream got.
class Owner {
 public:
  struct Known {
    std::unique_ptr<Text> text;
    std::uint64_t expected_seed = 0;
    std::uint64_t received = 0;
    std::uint64_t held = 0;
    bool check = false;
    bool finished = false;
    bool reset = false;
    bool cut = false;  ///< its text breaks off, which nobody is told here
  };

  Owner(const Options& options, TimePoint began) : mux(options, began), bound(options.session_buffer), now(began) {}

  void take_events() {
    while (const auto event = mux.next_event()) {
      require(!closed, "nothing comes after closed");
      Known* const known = event->stream != 0 ? &streams[event->stream] : nullptr;
      if (known != nullptr) require(!known->reset, "nothing comes after a reset");
      switch (event->kind) {
        case EventKind::opened: on_opened(event->stream, *known); break;
        case EventKind::body:
          require(!event->body.empty(), "a body has bytes");
          require(!known->finished, "no body comes after the end");
          take_body(event->stream, *known, event->body);
          break;
        case EventKind::finished:
          require(!known->finished, "a stream ends once");
          known->finished = true;
          break;
        case EventKind::reset:
          known->reset = true;
          known->held = 0;
          break;
        case EventKind::closed:
          closed = true;
          error = *event->error;
          break;
        default: break;
      }
      require(mux.counters().buffered <= bound || !mux.wants_read(), "memory stays within the bound");
    }
  }

  void take_body(StreamId stream, Known& known, Bytes body) {
    if (known.check) {
      for (std::size_t i = 0; i < body.size(); ++i) {
        require(body[i] == pattern(known.expected_seed, known.received + i), "what is read is what was written");
      }
    }
    known.received += body.size();
    if (hold) {
      known.held += body.size();
    } else {
      mux.moved(stream, body.size());
    }
  }

  void let_go() {
    for (auto& [stream, known] : streams) {
      if (known.held > 0) mux.moved(stream, std::exchange(known.held, 0));
    }
  }

  /// One produce() into `room` bytes.
  std::vector<std::byte> produce(std::size_t room) {
    std::vector<std::byte> out(room);
    const auto n = mux.produce(out, now);
    require(n <= room, "output stays in its room");
    out.resize(n);
    return out;
  }

  Mux mux;
  std::size_t bound;
  TimePoint now;
  std::map<StreamId, Known> streams;
  bool closed = false;
  bool hold = false;
  Error error;
  std::uint64_t answer = 0;  ///< bytes to answer an opened stream with; odd: refuse it

 private:
  void on_opened(StreamId stream, Known& known) {
    require(known.text == nullptr, "a stream opens once");
    if (answer % 2 == 1) {
      known.reset = true;
      mux.reset(stream, session::ResetCode::refused);
      return;
    }
    known.check = checked;
    known.expected_seed = stream;
    known.text = std::make_unique<Text>(stream + 1000, answer);
    mux.attach(stream, *known.text, this);
    mux.ready(stream);
  }

 public:
  bool checked = false;
};

/// Instructions from the fuzzer's bytes.
class Script {
 public:
  Script(const std::uint8_t* data, std::size_t size) : at_(data), end_(data + size) {}
  bool done() const { return at_ == end_; }
  std::uint8_t byte() { return done() ? 0 : *at_++; }
  std::uint32_t word() { return static_cast<std::uint32_t>(byte()) << 8U | byte(); }
  Bytes bytes(std::size_t n) {
    n = std::min(n, static_cast<std::size_t>(end_ - at_));
    const Bytes taken(reinterpret_cast<const std::byte*>(at_), n);
    at_ += n;
    return taken;
  }

 private:
  const std::uint8_t* at_;
  const std::uint8_t* end_;
};

/// One end against arbitrary bytes. The first byte chooses the options, then pieces follow: length (1 byte), action (1
/// byte), bytes.
inline int parse(std::initializer_list<Protocol> protocols, const std::uint8_t* data, std::size_t size) {
  Script script(data, size);
  const auto choice = script.byte();
  Options options;
  options.protocol = *(protocols.begin() + choice % protocols.size());
  options.client = (choice & 4) != 0;
  options.ours.extensions = (choice & 8) != 0;
  options.max_streams = 8;
  options.session_buffer = 4096;
  options.stream_window = 65536;
  Owner owner(options, TimePoint{} + std::chrono::seconds(1000));
  if ((choice & 16) != 0) owner.mux.negotiate({.extensions = true, .max_frame = 100000, .initial_window = 1000});
  Text own(1, 300);
  (void)owner.mux.open(own, nullptr);
  while (!script.done()) {
    const auto length = script.byte();
    const auto action = script.byte();
    owner.hold = (action & 1) != 0;
    owner.answer = action & 0x70;
    if ((action & 2) != 0) owner.let_go();
    if ((action & 4) != 0) owner.produce(action);
    if ((action & 8) != 0) {
      owner.now += std::chrono::seconds(length);
      owner.mux.tick(owner.now);
      owner.take_events();
    }
    if ((action & 0x80) != 0) {
      if (const auto ahead = owner.mux.body_ahead())
        owner.mux.body_bypassed(std::min<std::size_t>(ahead->remaining, 100), owner.now);
    }
    owner.mux.receive(script.bytes(length), owner.now);
    owner.take_events();
  }
  std::size_t written = 0;
  for (std::size_t n = 1; n > 0 && written < (1U << 22); written += n) n = owner.produce(5000).size();
  require(written < (1U << 22), "what is owed is bounded");
  return 0;
}

}  // namespace qtrp::mux::fuzz
