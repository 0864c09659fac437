// The preface: its layout byte by byte, and what is said when two ends don't fit.
#include "qtrp/protocol/preface.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "packed.h"

namespace qtrp::protocol {
namespace {

using test::hex;
using test::to_hex;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

std::string message_of(const Result<Preface>& result) {
  return result ? "no error" : result.error().message;
}
std::string message_of(const Result<void>& result) {
  return result ? "no error" : result.error().message;
}
// The first bytes of somebody else's protocol, filled up with zeros.
Result<Preface> decode_like(std::string_view text) {
  std::array<std::byte, kPrefaceSize> bytes{};
  std::memcpy(bytes.data(), text.data(), std::min(text.size(), bytes.size()));
  return decode_preface(bytes);
}

TEST(Preface, HasTheLayoutOfTheProtocolsText) {
  const Preface preface{.version = 1, .mux = 3, .flags = 0x0201, .max_frame = 0x00ABCDEF, .initial_window = 0x01020304};
  EXPECT_EQ(to_hex(encode(preface)),
            "51545250"  // "QTRP"
            "01"        // version
            "03"        // mux
            "0201"      // flags
            "00abcdef"  // largest frame
            "01020304"  // initial stream window
            "0000000000000000"
            "0000000000000000");
}

TEST(Preface, ComesBackAsItWasSent) {
  const Preface sent{.version = 7, .mux = 250, .flags = 0xFFFF, .max_frame = 0xFFFFFFFF, .initial_window = 1};
  const auto got = decode_preface(encode(sent));
  ASSERT_TRUE(got);
  EXPECT_EQ(got->version, 7);
  EXPECT_EQ(got->mux, 250);
  EXPECT_EQ(got->flags, 0xFFFF);
  EXPECT_EQ(got->max_frame, 0xFFFFFFFF);
  EXPECT_EQ(got->initial_window, 1U);
}

TEST(Preface, IgnoresTheReservedBytes) {
  auto bytes = encode(Preface{});
  for (std::size_t i = 16; i < kPrefaceSize; ++i) bytes[i] = std::byte{0xFF};
  EXPECT_TRUE(decode_preface(bytes));
}

TEST(Preface, OfAnotherSizeIsNone) {
  const auto bytes = encode(Preface{});
  for (std::size_t n = 0; n < kPrefaceSize; ++n) EXPECT_FALSE(decode_preface(Bytes(bytes).first(n))) << n;
  std::vector<std::byte> longer(bytes.begin(), bytes.end());
  longer.push_back(std::byte{0});
  EXPECT_FALSE(decode_preface(longer));
}

TEST(Preface, SaysWhatStrangersLookLike) {
  const auto tls = decode_like("\x16\x03\x01\x02");
  ASSERT_FALSE(tls);
  EXPECT_EQ(tls.error().kind, ErrorKind::protocol);
  EXPECT_THAT(message_of(tls), AllOf(HasSubstr("not a QTRP peer"), HasSubstr("TLS"), HasSubstr("crypto: tls")));
  EXPECT_THAT(message_of(decode_like("GET / HTTP/1.1\r\n")), HasSubstr("HTTP"));
  EXPECT_THAT(message_of(decode_like("POST /x HTTP/1.1\r\n")), HasSubstr("HTTP"));
  EXPECT_THAT(message_of(decode_like("HEAD / HTTP/1.0\r\n")), HasSubstr("HTTP"));
  EXPECT_THAT(message_of(decode_like("SSH-2.0-OpenSSH_9.2p1\r\n")), HasSubstr("SSH"));
  EXPECT_THAT(message_of(decode_like("\x8f\x01\xc2\x99")), AllOf(HasSubstr("not a QTRP peer"), Not(HasSubstr("TLS")),
                                                                 Not(HasSubstr("HTTP")), Not(HasSubstr("SSH"))));
}

TEST(Preface, MatchesItself) {
  for (std::uint8_t mux = 1; mux <= 3; ++mux) EXPECT_TRUE(match({.mux = mux}, {.mux = mux}));
}

TEST(Preface, FramesWindowsAndFlagsMayDiffer) {
  EXPECT_TRUE(match({.flags = 0, .max_frame = 65535, .initial_window = 0},
                    {.flags = 1, .max_frame = 1, .initial_window = 1 << 20}));
}

TEST(Preface, AnotherMuxIsNamedOnBothSides) {
  const auto here = match({.mux = 2}, {.mux = 3});
  ASSERT_FALSE(here);
  EXPECT_EQ(here.error().kind, ErrorKind::protocol);
  EXPECT_THAT(message_of(here), AllOf(HasSubstr("'smux' here"), HasSubstr("'yamux' there"), HasSubstr("`mux`")));
  EXPECT_THAT(message_of(match({.mux = 3}, {.mux = 2})), AllOf(HasSubstr("'yamux' here"), HasSubstr("'smux' there")));
  EXPECT_THAT(message_of(match({.mux = 2}, {.mux = 1})), HasSubstr("'smux version 1' there"));
  EXPECT_THAT(message_of(match({.mux = 2}, {.mux = 77})), HasSubstr("'unknown mux 77' there"));
}

TEST(Preface, AnotherVersionIsNamedOnBothSides) {
  EXPECT_THAT(message_of(match({.version = 1}, {.version = 9})), AllOf(HasSubstr("1 here"), HasSubstr("9 there")));
}

TEST(Preface, APeerThatTakesNoFramesIsOfNoUse) {
  EXPECT_THAT(message_of(match({}, {.max_frame = 0})), HasSubstr("no frames"));
}

}  // namespace
}  // namespace qtrp::protocol
