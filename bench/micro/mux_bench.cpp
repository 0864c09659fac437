// The multiplexer alone, both ends in memory: what a byte, a stream's life and an idle stream cost. bench/micro/go does
// the same work with the Go libraries over an in-memory pipe. As there, each byte is copied in from the writer's buffer
// and out to the reader's.
#include <benchmark/benchmark.h>
#include <malloc.h>

#include <cstring>
#include <memory>
#include <vector>

#include "qtrp/mux/mux.h"

namespace {

using namespace qtrp;
using mux::Mux;
using mux::Protocol;
using session::EventKind;
using session::Produced;

/// Writes `size` bytes at a time, for ever, or ends at once.
class Writer final : public session::Source {
 public:
  explicit Writer(std::size_t size) : buffer_(size, std::byte{7}) {}
  Produced produce(MutableBytes into) override {
    if (buffer_.empty()) return {.n = 0, .status = Produced::Status::end, .code = {}};
    const auto n = std::min(into.size(), buffer_.size());
    std::memcpy(into.data(), buffer_.data(), n);
    return {.n = n, .status = Produced::Status::more, .code = {}};
  }

 private:
  std::vector<std::byte> buffer_;
};

class Idle final : public session::Source {
 public:
  Produced produce(MutableBytes) override { return {}; }
};

mux::Options options(Protocol protocol, bool client) {
  mux::Options chosen;
  chosen.protocol = protocol;
  chosen.client = client;
  chosen.ours.extensions = true;
  chosen.keepalive_timeout = Duration::zero();
  return chosen;
}

struct Pair {
  explicit Pair(Protocol protocol)
      : client(options(protocol, true), now), server(options(protocol, false), now), memory(4 << 20) {
    chunk = MutableBytes(memory).subspan(1024, 65535 + Mux::kMaxHeader);
    sink = MutableBytes(memory).subspan((1 << 20) + 2560, 1 << 20);
    client.negotiate(options(protocol, false).ours);
    server.negotiate(options(protocol, true).ours);
  }

  /// One chunk each way. The payload bytes that the server read.
  std::size_t turn() {
    std::size_t read = 0;
    server.receive({chunk.data(), client.produce(chunk, now)}, now);
    while (const auto event = server.next_event()) {
      if (event->kind == EventKind::body) {
        std::memcpy(sink.data(), event->body.data(), event->body.size());
        read += event->body.size();
        server.moved(event->stream, event->body.size());
      } else if (event->kind == EventKind::opened) {
        server.attach(event->stream, *answer, nullptr);
        server.ready(event->stream);
      }
    }
    client.receive({chunk.data(), server.produce(chunk, now)}, now);
    while (client.next_event()) {
    }
    return read;
  }

  TimePoint now{};
  Mux client, server;
  // Apart from each other within a page: copies between buffers at the same offset are several times slower on some
  // CPUs (Zen 4, rep movsb).
  std::vector<std::byte> memory;
  MutableBytes chunk, sink;
  Idle idle;
  session::Source* answer = &idle;
};

void throughput(benchmark::State& state) {
  Pair pair(static_cast<Protocol>(state.range(0)));
  Writer writer(static_cast<std::size_t>(state.range(1)));
  for (std::int64_t i = 0; i < state.range(2); ++i) (void)pair.client.open(writer, nullptr);
  std::size_t bytes = 0;
  for (auto _ : state) bytes += pair.turn();
  state.SetBytesProcessed(static_cast<std::int64_t>(bytes));
}

void open_and_close(benchmark::State& state) {
  Pair pair(static_cast<Protocol>(state.range(0)));
  Writer ends_at_once(0);
  pair.answer = &ends_at_once;
  constexpr int kBatch = 64;
  for (auto _ : state) {
    for (int i = 0; i < kBatch; ++i) (void)pair.client.open(ends_at_once, nullptr);
    while (pair.client.counters().streams > 0) pair.turn();
  }
  state.SetItemsProcessed(state.iterations() * kBatch);
}

void idle_streams(benchmark::State& state) {
  constexpr std::size_t kStreams = 10000;
  double each = 0;
  for (auto _ : state) {
    Pair pair(static_cast<Protocol>(state.range(0)));
    const auto before = ::mallinfo2().uordblks;
    for (std::size_t i = 0; i < kStreams; ++i) (void)pair.client.open(pair.idle, nullptr);
    while (pair.client.wants_write() || pair.server.wants_write()) pair.turn();
    each = static_cast<double>(::mallinfo2().uordblks - before) / (2 * kStreams);  // a stream has two ends
  }
  state.counters["bytes_per_idle_stream"] = each;
}

constexpr std::int64_t kSmux = static_cast<std::int64_t>(Protocol::smux2),
                       kYamux = static_cast<std::int64_t>(Protocol::yamux);

BENCHMARK(throughput)
    ->ArgNames({"protocol", "write", "streams"})
    ->ArgsProduct({{kSmux, kYamux}, {65536, 1024}, {1, 100, 10000}});
BENCHMARK(open_and_close)->ArgName("protocol")->Arg(kSmux)->Arg(kYamux);
BENCHMARK(idle_streams)->ArgName("protocol")->Arg(kSmux)->Arg(kYamux)->Iterations(3);

}  // namespace

BENCHMARK_MAIN();
