// Counters on the data path: one writer (the loop they belong to), any number of readers, no lock and no shared cache
// line. Readers see each number exactly as it was at some moment; two numbers may be of different moments.
#pragma once

#include <atomic>
#include <cstdint>

namespace qtrp::stats {

struct alignas(64) Counters {
  /// "in" is from users to local services, "out" the other way; bytes of payload.
  void add_in(std::uint64_t n) { add(bytes_in, n); }
  void add_out(std::uint64_t n) { add(bytes_out, n); }
  void opened() {
    add(total, 1);
    add(active, 1);
  }
  void closed() { add(active, ~std::uint64_t{0}); }

  std::atomic<std::uint64_t> bytes_in{0}, bytes_out{0};
  std::atomic<std::uint64_t> active{0}, total{0};  ///< connections

 private:
  // With one writer a load and a store do what a locked add would.
  static void add(std::atomic<std::uint64_t>& counter, std::uint64_t n) {
    counter.store(counter.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
};

}  // namespace qtrp::stats
