// A fuzzed link between two record layers: the input says who seals how much, how the wire's bytes are split, and what
// a man in the middle changes or inserts. Whatever he does, what comes out at one end is a beginning of what went in at
// the other.
#pragma once

#include <sodium.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "qtrp/crypto/record_layer.h"

namespace qtrp::fuzz {

/// libsodium's random bytes from a counter, so that an input does the same each time.
inline std::uint64_t random_counter = 0;
inline void use_counted_randomness() {
  static randombytes_implementation counted{};
  counted.implementation_name = [] { return "counted"; };
  counted.random = [] { return static_cast<std::uint32_t>(++random_counter * 0x9e3779b97f4a7c15U >> 32); };
  counted.buf = [](void* const out, const std::size_t size) {
    for (std::size_t i = 0; i < size; ++i) {
      static_cast<unsigned char*>(out)[i] = static_cast<unsigned char>(++random_counter * 0x9e3779b97f4a7c15U >> 56);
    }
  };
  randombytes_set_implementation(&counted);
}

inline void check(bool holds) {
  if (!holds) std::abort();
}

/// The fuzzer's input, read from its front; zeros once it is used up.
class Input {
 public:
  explicit Input(Bytes bytes) : bytes_(bytes) {}
  bool empty() const { return bytes_.empty(); }
  unsigned byte() {
    if (bytes_.empty()) return 0;
    const auto value = std::to_integer<unsigned>(bytes_.front());
    bytes_ = bytes_.subspan(1);
    return value;
  }
  std::size_t number() {
    const std::size_t high = byte();
    return high << 8 | byte();
  }
  Bytes take(std::size_t size) {
    const Bytes taken = bytes_.first(std::min(size, bytes_.size()));
    bytes_ = bytes_.subspan(taken.size());
    return taken;
  }

 private:
  Bytes bytes_;
};

struct End {
  std::unique_ptr<crypto::RecordLayer> layer;
  std::vector<std::byte> on_the_way{};  ///< sent by this end, not delivered yet
  std::vector<std::byte> kept{};        ///< delivered to this end, not consumed yet
  std::uint64_t sent = 0;               ///< plaintext bytes, numbered from 0
  std::uint64_t received = 0;
  bool failed = false;
  bool meddled = false;  ///< somebody changed what is on the way from this end
};

/// The plaintext of one direction is known by its place.
inline std::byte plain_at(bool client, std::uint64_t place) {
  return static_cast<std::byte>(place * 31 + (client ? 7 : 101));
}

class Link {
 public:
  Link(std::unique_ptr<crypto::RecordLayer> client, std::unique_ptr<crypto::RecordLayer> server)
      : ends_{End{std::move(client)}, End{std::move(server)}} {
    for (End& end : ends_) check(end.layer->start().has_value());
    collect(0);
    collect(1);
  }

  void run(Input input) {
    for (int steps = 0; !input.empty() && steps < 400; ++steps) {
      const unsigned what = input.byte();
      const std::size_t i = what & 1U;
      switch (what >> 1U & 7U) {
        case 0: seal(i, 1 + input.byte()); break;
        case 1: seal(i, 1 + input.number()); break;
        case 2: deliver(i, 1 + input.byte()); break;
        case 3: deliver(i, ends_[i].on_the_way.size()); break;
        case 4: flip(i, input.number(), input.byte()); break;
        case 5: insert(i, input.number(), input.take(input.byte())); break;
        case 6: erase(i, input.number(), 1 + input.byte()); break;
        case 7: settle(); break;
      }
    }
    settle();
    if (!ends_[0].meddled && !ends_[1].meddled) {
      check(ends_[0].layer->established() && ends_[1].layer->established());
      check(ends_[0].received == ends_[1].sent && ends_[1].received == ends_[0].sent);
    }
    if (ends_[0].layer->established() && ends_[1].layer->established()) {
      check(std::ranges::equal(ends_[0].layer->channel_binding(), ends_[1].layer->channel_binding()));
    }
  }

 private:
  void collect(std::size_t i) {
    End& end = ends_[i];
    const Bytes output = end.layer->output();
    end.on_the_way.insert(end.on_the_way.end(), output.begin(), output.end());
    end.layer->clear_output();
  }

  void seal(std::size_t i, std::size_t size) {
    End& end = ends_[i];
    if (!end.layer->established() || end.failed) return;
    collect(i);
    const crypto::Rooms rooms = end.layer->rooms();
    size = std::min(size, rooms.max_plain);
    std::vector<std::byte> buffer(rooms.head + size + rooms.tail);
    for (std::size_t k = 0; k < size; ++k) buffer[rooms.head + k] = plain_at(i == 0, end.sent + k);
    const auto sealed = end.layer->seal(buffer);
    check(sealed.has_value());
    end.sent += size;
    end.on_the_way.insert(end.on_the_way.end(), sealed->begin(), sealed->end());
  }

  void deliver(std::size_t i, std::size_t size) {
    End& from = ends_[i];
    End& to = ends_[1 - i];
    size = std::min(size, from.on_the_way.size());
    const auto begin = from.on_the_way.begin();
    to.kept.insert(to.kept.end(), begin, begin + static_cast<std::ptrdiff_t>(size));
    from.on_the_way.erase(begin, begin + static_cast<std::ptrdiff_t>(size));
    while (!to.failed) {
      std::vector<std::byte> exact(to.kept);
      const auto opened = to.layer->open(exact);
      if (!opened) {
        check(from.meddled || to.meddled);
        to.failed = true;
        break;
      }
      check(opened->consumed <= exact.size());
      for (const std::byte byte : opened->plain) check(byte == plain_at(i == 0, to.received++));
      check(to.received <= from.sent);
      to.kept.erase(to.kept.begin(), to.kept.begin() + static_cast<std::ptrdiff_t>(opened->consumed));
      if (opened->consumed == 0 && opened->plain.empty()) break;
    }
    check(to.failed || to.kept.size() <= 65537);
    collect(1 - i);
  }

  void settle() {
    for (int round = 0; round < 4; ++round) {
      deliver(0, ends_[0].on_the_way.size());
      deliver(1, ends_[1].on_the_way.size());
    }
  }

  void flip(std::size_t i, std::size_t place, unsigned bits) {
    End& end = ends_[i];
    if (place >= end.on_the_way.size() || bits == 0) return;
    end.on_the_way[place] ^= static_cast<std::byte>(bits);
    end.meddled = true;
  }
  void insert(std::size_t i, std::size_t place, Bytes bytes) {
    End& end = ends_[i];
    if (place > end.on_the_way.size() || bytes.empty()) return;
    end.on_the_way.insert(end.on_the_way.begin() + static_cast<std::ptrdiff_t>(place), bytes.begin(), bytes.end());
    end.meddled = true;
  }
  void erase(std::size_t i, std::size_t place, std::size_t size) {
    End& end = ends_[i];
    if (place >= end.on_the_way.size()) return;
    size = std::min(size, end.on_the_way.size() - place);
    const auto begin = end.on_the_way.begin() + static_cast<std::ptrdiff_t>(place);
    end.on_the_way.erase(begin, begin + static_cast<std::ptrdiff_t>(size));
    end.meddled = true;
  }

  std::array<End, 2> ends_;  ///< the client, the server
};

}  // namespace qtrp::fuzz
