// Two ends driven against each other in any order that the fuzzer thinks of: what was written is what is read, and
// everything that was not reset comes to its end.
#include <deque>

#include "mux_owner.h"

namespace qtrp::mux::fuzz {
namespace {

class Pair {
 public:
  Pair(const Options& client, const Options& server)
      : ends_{Owner(client, TimePoint{} + std::chrono::seconds(1000)),
              Owner(server, TimePoint{} + std::chrono::seconds(1000))},
        features_{client.ours, server.ours} {
    ends_[0].checked = ends_[1].checked = true;
  }

  void negotiate(int end) {
    if (!std::exchange(negotiated_[end], true)) ends_[end].mux.negotiate(features_[1 - end]);
  }

  void open(int end, std::uint64_t size, std::uint64_t answer) {
    if (opened_++ >= 16) return;
    ends_[1 - end].answer = answer;
    auto text = std::make_unique<Text>(0, size);
    const auto id = ends_[end].mux.open(*text, &ends_[end]);
    if (!id) return;
    text->seed_ = *id;
    auto& known = ends_[end].streams[*id];
    known.text = std::move(text);
    known.check = true;
    known.expected_seed = *id + 1000;
  }

  void produce(int end, std::size_t room) {
    const auto out = ends_[end].produce(room);
    wire_[end].insert(wire_[end].end(), out.begin(), out.end());
  }

  void splice(int end, std::size_t least, std::size_t most) {
    Owner& from = ends_[end];
    const auto bulk = from.mux.next_bulk(least, from.now);
    if (!bulk) return;
    auto& text = dynamic_cast<Text&>(*bulk->source);
    const auto n = std::min<std::uint64_t>({bulk->max, most, text.size_ - text.given_});
    const auto begin = text.given_;
    std::array<std::byte, Mux::kMaxHeader> header{};
    const auto result = text.spliced(static_cast<std::int64_t>(n));
    const auto size = from.mux.bulk_moved(*bulk, result, header, from.now);
    wire_[end].insert(wire_[end].end(), header.begin(), header.begin() + static_cast<std::ptrdiff_t>(size));
    if (size == 0) return;
    for (std::uint64_t i = 0; i < n; ++i) wire_[end].push_back(pattern(text.seed_, begin + i));
  }

  /// Up to `n` bytes of what `end` sent arrive; `bypass`: the rest of a body goes around receive().
  void deliver(int end, std::size_t n, bool bypass) {
    Owner& to = ends_[1 - end];
    auto& wire = wire_[end];
    n = std::min(n, wire.size());
    if (n == 0 || !to.mux.wants_read()) return;
    if (const auto ahead = to.mux.body_ahead(); bypass && ahead) {
      const std::vector<std::byte> body(wire.begin(),
                                        wire.begin() + static_cast<std::ptrdiff_t>(std::min(n, ahead->remaining)));
      wire.erase(wire.begin(), wire.begin() + static_cast<std::ptrdiff_t>(body.size()));
      to.mux.body_bypassed(body.size(), to.now);
      to.take_body(ahead->stream, to.streams[ahead->stream], body);
      to.take_events();
      return;
    }
    const std::vector<std::byte> bytes(wire.begin(), wire.begin() + static_cast<std::ptrdiff_t>(n));
    wire.erase(wire.begin(), wire.begin() + static_cast<std::ptrdiff_t>(n));
    to.mux.receive(bytes, to.now);
    to.take_events();
  }

  void reset(int end, std::uint8_t which) {
    auto& streams = ends_[end].streams;
    if (streams.empty()) return;
    auto at = std::next(streams.begin(), which % static_cast<std::ptrdiff_t>(streams.size()));
    ends_[end].mux.reset(at->first, session::ResetCode::cancelled);
    at->second.reset = true;
    at->second.held = 0;
  }

  void cut(int end, std::uint8_t which) {
    auto& streams = ends_[end].streams;
    if (streams.empty()) return;
    auto& known = std::next(streams.begin(), which % static_cast<std::ptrdiff_t>(streams.size()))->second;
    if (known.text != nullptr && !known.text->ended_) known.text->cut_ = known.cut = true;
  }

  void pass(std::uint8_t seconds) {
    for (Owner& end : ends_) {
      end.now += std::chrono::seconds(seconds % 3);
      end.mux.tick(end.now);
      end.take_events();
    }
  }

  void settle() {
    negotiate(0);
    negotiate(1);
    for (Owner& end : ends_) {
      end.hold = false;
      end.let_go();
    }
    for (int turn = 0; turn < 100000; ++turn) {
      const bool busy =
          !wire_[0].empty() || !wire_[1].empty() || ends_[0].mux.wants_write() || ends_[1].mux.wants_write();
      if (!busy) break;
      require(turn < 99999, "two ends come to rest");
      for (const int end : {0, 1}) {
        if (wire_[end].empty()) produce(end, 65536);
        deliver(end, SIZE_MAX, false);
      }
    }
    for (const int end : {0, 1}) {
      require(!ends_[end].closed, ends_[end].error.message.c_str());
      require(ends_[end].mux.counters().buffered == 0, "nothing is left buffered");
      for (const auto& [id, known] : ends_[end].streams) check(end, id, known);
    }
  }

 private:
  void check(int end, StreamId id, const Owner::Known& known) {
    const auto there = ends_[1 - end].streams.find(id);
    // A foreign smux has no reset: its FIN says nothing about completeness.
    if (known.reset || known.cut) return;
    if (there != ends_[1 - end].streams.end() && (there->second.reset || there->second.cut)) return;
    require(there != ends_[1 - end].streams.end(), "a stream that was not reset reached the peer");
    require(known.finished, "a stream that was not reset ends");
    require(known.received == there->second.text->size_, "a stream that was not reset is complete");
  }

  Owner ends_[2];
  Features features_[2];
  bool negotiated_[2] = {false, false};
  std::deque<std::byte> wire_[2];
  int opened_ = 0;

 public:
  Owner& end(int which) { return ends_[which]; }
};

void run(Script script) {
  const auto choice = script.byte();
  Options client;
  client.client = true;
  client.protocol = choice % 3 == 0 ? Protocol::smux2 : choice % 3 == 1 ? Protocol::yamux : Protocol::smux1;
  client.ours.extensions = (choice & 4) != 0;
  client.ours.max_frame = 1000 + script.word() * 8;
  client.ours.initial_window = script.word();
  client.max_frame = 1 + script.word() * 4;
  client.stream_window = 1 + script.word();
  client.keepalive_timeout = Duration::zero();
  client.half_close_timeout = std::chrono::hours(1000);
  Options server = client;
  server.client = false;
  server.ours.initial_window = script.word() * 8;
  Pair pair(client, server);
  while (!script.done()) {
    const auto action = script.byte();
    const int end = action & 1;
    switch (action >> 1 & 15) {
      case 0: pair.open(end, script.word() / 2, script.word() / 8 & ~1U); break;
      case 1: pair.open(end, script.byte(), script.byte() & ~1U); break;
      case 2:
      case 3: pair.produce(end, 16 + script.byte()); break;
      case 4:
      case 5: pair.produce(end, 16 + script.word()); break;
      case 6: pair.deliver(end, script.byte(), false); break;
      case 7: pair.deliver(end, script.word(), false); break;
      case 8: pair.deliver(end, script.word(), true); break;
      case 9: pair.end(end).hold = true; break;
      case 10:
        pair.end(end).hold = false;
        pair.end(end).let_go();
        break;
      case 11: pair.reset(end, script.byte()); break;
      case 12: pair.cut(end, script.byte()); break;
      case 13: pair.pass(script.byte()); break;
      case 14: pair.splice(end, 1 + script.byte(), 1 + script.word()); break;
      case 15: pair.negotiate(end); break;
      default: break;
    }
  }
  pair.settle();
}

}  // namespace
}  // namespace qtrp::mux::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  qtrp::mux::fuzz::run({data, size});
  return 0;
}
