// What a hostile peer may put in a control message: it costs an error, and next to no memory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <new>
#include <random>

#include "packed.h"
#include "qtrp/protocol/messages.h"
#include "samples.h"

namespace {

// The largest request to the allocator, and the sum of all, while `watching`. The linker sends them here (--wrap).
bool watching = false;
std::size_t largest = 0, total = 0;

void note(std::size_t n) {
  if (!watching) return;
  largest = std::max(largest, n);
  total += n;
}

}  // namespace

extern "C" {
void* __real_malloc(std::size_t n);
void* __real_calloc(std::size_t n, std::size_t size);
void* __real_realloc(void* old, std::size_t n);
void* __real__Znwm(std::size_t n);
void* __real__Znam(std::size_t n);
void* __wrap_malloc(std::size_t n);
void* __wrap_calloc(std::size_t n, std::size_t size);
void* __wrap_realloc(void* old, std::size_t n);
void* __wrap__Znwm(std::size_t n);
void* __wrap__Znam(std::size_t n);

void* __wrap_malloc(std::size_t n) {
  note(n);
  return __real_malloc(n);
}
void* __wrap_calloc(std::size_t n, std::size_t size) {
  note(n * size);
  return __real_calloc(n, size);
}
void* __wrap_realloc(void* old, std::size_t n) {
  note(n);
  return __real_realloc(old, n);
}
void* __wrap__Znwm(std::size_t n) {
  note(n);
  return __real__Znwm(n);
}
void* __wrap__Znam(std::size_t n) {
  note(n);
  return __real__Znam(n);
}
}

namespace qtrp::protocol {
namespace {

using namespace test;

struct Cost {
  std::size_t largest, total;
};
template <typename F>
Cost cost_of(F work) {
  largest = total = 0;
  watching = true;
  work();
  watching = false;
  return {largest, total};
}

// Every decoder, since all of them take a peer's bytes.
void expect_refused(const Buffer& payload, const std::string& what) {
  const Cost cost = cost_of([&] {
    const auto message = decode(payload);
    EXPECT_FALSE(message) << what;
    if (!message) {
      EXPECT_EQ(message.error().kind, ErrorKind::protocol) << what;
    }
    EXPECT_FALSE(decode_auth_body(payload)) << what;
    EXPECT_FALSE(decode_auth_resp_body(payload)) << what;
  });
  // What the input's own size justifies, error texts and the unpacker's first block; far from what headers may claim.
  EXPECT_LE(cost.largest, 64U << 10) << what;
  EXPECT_LE(cost.total, 256U << 10) << what;
}

TEST(HostileMessages, TheAllocatorIsWatched) {
  const Cost cost = cost_of([] { EXPECT_TRUE(decode(map({{"t", str("x")}}))); });
  EXPECT_GT(cost.total, 0U);
}

// Headers that claim more than there is, up to 4 GiB behind 5 bytes.
const std::pair<const char*, const char*> kClaims[] = {
    {"array16", "dc ffff"},
    {"array32", "dd ffffffff"},
    {"array32 of 16 Mi", "dd 01000000"},
    {"map16", "de ffff"},
    {"map32", "df ffffffff"},
    {"map32 of 16 Mi", "df 01000000"},
    {"str8", "d9 ff"},
    {"str16", "da ffff"},
    {"str32", "db ffffffff"},
    {"str32 of 2 GiB", "db 7fffffff"},
    {"bin8", "c4 ff"},
    {"bin16", "c5 ffff"},
    {"bin32", "c6 ffffffff"},
    {"bin32 of 64 KiB", "c6 00010000"},
    {"ext8", "c7 ff 01"},
    {"ext16", "c8 ffff 01"},
    {"ext32", "c9 ffffffff 01"},
    {"fixext16", "d8 01"},
    {"fixarray", "9f"},
    {"fixmap", "8f"},
    {"fixstr", "bf"},
};

TEST(HostileMessages, HeadersThatClaimGigabytesAllocateNothing) {
  for (const auto& [what, bytes] : kClaims) {
    expect_refused(hex(bytes), what);
    expect_refused(hex("81 a174") + hex(bytes), std::string("type: ") + what);
    expect_refused(hex("82 a174 a470696e67 a474696d65") + hex(bytes), std::string("ping time: ") + what);
    expect_refused(hex("81") + hex(bytes), std::string("key: ") + what);
    expect_refused(hex("82 a174 a161 a178 91 91") + hex(bytes), std::string("nested: ") + what);
  }
}

TEST(HostileMessages, BoundsHoldAlsoWhereTheBytesAreThere) {
  const auto with = [](Buffer value) { return map({{"t", str("ping")}, {"time", u64(1)}, {"x", std::move(value)}}); };
  EXPECT_TRUE(decode(with(str(std::string(1024, 'x')))));
  expect_refused(with(str(std::string(1025, 'x'))), "a text of more than 1024 bytes");
  EXPECT_TRUE(decode(with(array(std::vector<Buffer>(64, nil())))));
  expect_refused(with(array(std::vector<Buffer>(65, nil()))), "more than 64 elements");
  Keys keys{{"t", str("ping")}, {"time", u64(1)}};
  while (keys.size() < 64) keys.emplace_back("k" + std::to_string(keys.size()), nil());
  EXPECT_TRUE(decode(map(keys)));
  keys.emplace_back("one", nil());
  expect_refused(map(keys), "more than 64 keys");
  expect_refused(with(hex("d4 01 00")), "an extension");  // none is in use
  expect_refused(with(hex("d6 ff 00000000")), "a timestamp");
}

TEST(HostileMessages, DeepNestingIsRefused) {
  for (const std::size_t depth : {5U, 100U, 10'000U, 65'000U}) {
    expect_refused(Buffer(depth, std::byte{0x91}), "arrays");
    expect_refused(Buffer(depth, std::byte{0x81}), "maps as keys");
    Buffer maps;
    while (maps.size() < depth * 3 && maps.size() < kMaxMessage) maps = maps + hex("81 a178");
    expect_refused(maps, "maps");
  }
  expect_refused(map({{"t", str("ping")}, {"time", u64(1)}, {"x", hex("91 91 91 91 90")}}), "complete, but deep");
}

TEST(HostileMessages, AreMapsAndNothingElse) {
  expect_refused({}, "nothing");
  for (const char* bytes : {"c0", "c1", "c2", "c3", "00", "7f", "ff", "cc80", "cf0000000000000001", "d380",
                            "ca3f800000", "cb3ff0000000000000", "a174", "90", "91a174", "c400", "c40174"}) {
    expect_refused(hex(bytes), bytes);
  }
  expect_refused(hex("80"), "a map without a type");
  expect_refused(hex("81 a174 c0"), "a type of nil");
  expect_refused(hex("81 a174 01"), "a type of 1");
  expect_refused(hex("81 01 a470696e67"), "a key that is no text");
}

TEST(HostileMessages, NothingMayFollow) {
  for (const Sample& sample : samples()) {
    for (const char* more : {"00", "c0", "80", "81a174a178"}) {
      EXPECT_FALSE(decode(map(sample.keys) + hex(more))) << sample.type;
    }
  }
}

TEST(HostileMessages, NothingMayBeMissing) {
  for (const Sample& sample : samples()) {
    for (std::size_t gone = 0; gone < sample.keys.size(); ++gone) {
      Keys keys = sample.keys;
      const std::string name = keys[gone].first;
      keys.erase(keys.begin() + static_cast<std::ptrdiff_t>(gone));
      const auto message = decode(map(keys));
      ASSERT_FALSE(message) << sample.type << " without " << name;
      if (name != "t") {
        EXPECT_THAT(message.error().message, testing::AllOf(testing::HasSubstr(sample.type), testing::HasSubstr(name)));
      }
    }
    // Truncated at every byte.
    const Buffer whole = map(sample.keys);
    for (std::size_t n = 0; n < whole.size(); ++n) {
      EXPECT_FALSE(decode(Bytes(whole).first(n))) << sample.type << " cut at " << n;
    }
  }
}

TEST(HostileMessages, EveryKeyHasItsKind) {
  const std::pair<const char*, Buffer> kinds[] = {
      {"nil", nil()},
      {"boolean", boolean(true)},
      {"number", u64(1)},
      {"negative", i64(-1)},
      {"float", hex("cb 3ff0000000000000")},
      {"text", str("x")},
      {"bytes", bin(raw("x"))},
      {"array", array({str("x")})},
      {"map", map({{"x", nil()}})},
  };
  const auto check = [&](const std::string& type, const Keys& keys, auto decoded) {
    ASSERT_TRUE(decoded(map(keys))) << type;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      std::string accepted;
      for (const auto& [kind, value] : kinds) {
        Keys changed = keys;
        changed[i].second = value;
        if (decoded(map(changed))) accepted += std::string(accepted.empty() ? "" : " ") + kind;
      }
      const std::string& key = keys[i].first;
      const bool text = key == "t" || key == "name" || key == "type" || key == "bind" || key == "code" ||
                        key == "text" || key == "user" || key == "dest" || key == "reason" || key == "error";
      // A proof, an id and a nonce have one size, so that one byte will not do; a body may have any.
      const char* const expected =
          text                                                                                       ? "text"
          : key == "body"                                                                            ? "bytes"
          : key == "hmac" || key == "nonce" || key == "instance" || key == "run" || key == "session" ? ""
          : key == "time"                                                                            ? "number negative"
          : key == "ok"                                                                              ? "boolean"
          : key == "features"                                                                        ? "array"
                                                                                                     : "number";
      EXPECT_EQ(accepted, expected) << type << " " << key;
    }
  };
  for (const Sample& sample : samples())
    check(sample.type, sample.keys, [](const Buffer& b) { return decode(b).has_value(); });
  const AuthBody a = sample_auth_body();
  check("auth body",
        {{"version", u64(1)},
         {"instance", bin(buffer(a.instance))},
         {"run", bin(buffer(a.run))},
         {"tunnel", u64(0)},
         {"name", str("")},
         {"time", i64(-1)},
         {"nonce", bin(buffer(a.nonce))},
         {"features", array({})}},
        [](const Buffer& b) { return decode_auth_body(b).has_value(); });
  check("auth_resp body",
        {{"ok", boolean(true)},
         {"error", str("")},
         {"session", bin(buffer(a.run))},
         {"nonce", bin(buffer(a.nonce))},
         {"time", i64(-1)},
         {"features", array({})}},
        [](const Buffer& b) { return decode_auth_resp_body(b).has_value(); });
}

TEST(HostileMessages, NumbersAndSizesAreChecked) {
  const auto changed = [](const char* type, std::size_t key, Buffer value) {
    for (Sample& sample : samples()) {
      if (sample.type != type) continue;
      Keys keys = sample.keys;
      keys[key].second = std::move(value);
      return decode(map(keys)).has_value();
    }
    return false;
  };
  EXPECT_TRUE(changed("new_proxy", 5, u64(65535)));
  EXPECT_FALSE(changed("new_proxy", 5, u64(65536)));
  EXPECT_TRUE(changed("close_proxy", 1, u64(UINT32_MAX)));
  EXPECT_FALSE(changed("close_proxy", 1, u64(UINT32_MAX + 1ULL)));
  EXPECT_FALSE(changed("ping", 1, u64(UINT64_MAX)));  // beyond what a time holds
  for (const std::size_t n : {0U, 31U, 33U, 64U}) EXPECT_FALSE(changed("auth", 2, bin(Buffer(n)))) << n;
  EXPECT_FALSE(decode_auth_body(map({{"version", u64(1)},
                                     {"instance", bin(Buffer(16))},
                                     {"run", bin(Buffer(16))},
                                     {"tunnel", u64(0)},
                                     {"name", str("")},
                                     {"time", u64(0)},
                                     {"nonce", bin(Buffer(32))},
                                     {"features", array({u64(1)})}})));
}

TEST(HostileMessages, OfTwoEqualKeysTheFirstCounts) {
  const auto got = decode(map({{"t", str("ping")}, {"time", u64(1)}, {"time", u64(2)}, {"t", str("pong")}}));
  ASSERT_TRUE(got);
  EXPECT_EQ(*got, Message(Ping{1}));
}

TEST(HostileMessages, RandomChangesNeitherCrashNorCostMuch) {
  std::mt19937 random(7);
  for (const Sample& sample : samples()) {
    const Buffer whole = map(sample.keys);
    for (int round = 0; round < 2000; ++round) {
      Buffer bytes = whole;
      for (std::size_t i = 1 + random() % 3; i > 0; --i)
        bytes[random() % bytes.size()] = static_cast<std::byte>(random());
      const Cost cost = cost_of([&] {
        if (const auto message = decode(bytes)) {
          // Whatever is taken can be said again and means the same.
          EXPECT_EQ(decode(Bytes(encode(*message)).subspan(4)).value(), *message);
        }
      });
      ASSERT_LE(cost.largest, 64U << 10) << sample.type;
    }
  }
}

TEST(HostileMessages, TheReaderKeepsNoMoreThanCame) {
  // 65536 bytes are announced, 10 come: no room is made for the rest.
  const Buffer wire = big_endian(std::uint32_t{65536}) + Buffer(10);
  MessageReader reader;
  const Cost cost = cost_of([&] {
    Bytes input(wire);
    EXPECT_FALSE(reader.next(input).value());
  });
  EXPECT_LE(cost.largest, 1024U);
}

}  // namespace
}  // namespace qtrp::protocol
