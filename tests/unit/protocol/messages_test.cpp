// Control messages: each is written with the keys and kinds of docs/protocol.md, and read back as it was.
#include "qtrp/protocol/messages.h"

#include <gtest/gtest.h>

#include <numeric>

#include "packed.h"
#include "samples.h"

namespace qtrp::protocol {
namespace {

using namespace test;

TEST(Messages, ComeBackAsTheyWereSent) {
  for (const Sample& sample : samples()) {
    const std::vector<std::byte> wire = encode(sample.message);
    ASSERT_GE(wire.size(), 4U);
    EXPECT_EQ(load_be<std::uint32_t>(wire.data()), wire.size() - 4) << sample.type;
    const auto got = decode(Bytes(wire).subspan(4));
    ASSERT_TRUE(got) << sample.type << ": " << got.error().message;
    EXPECT_EQ(*got, sample.message) << sample.type;
  }
}

TEST(Messages, AreReadFromAnyMsgpackWriter) {
  for (const Sample& sample : samples()) {
    const auto got = decode(map(sample.keys));
    ASSERT_TRUE(got) << sample.type << ": " << got.error().message;
    EXPECT_EQ(*got, sample.message) << sample.type;
    // A map has no order.
    const auto backwards = decode(map(Keys(sample.keys.rbegin(), sample.keys.rend())));
    ASSERT_TRUE(backwards) << sample.type << ": " << backwards.error().message;
    EXPECT_EQ(*backwards, sample.message) << sample.type;
  }
}

TEST(Messages, SmallestEncodingsAreWritten) {
  EXPECT_EQ(to_hex(encode(CloseProxy{.id = 5})),
            "0000001382"
            "a174ab636c6f73655f70726f7879"
            "a2696405");
  EXPECT_EQ(to_hex(encode(Ping{.timestamp = -1})),
            "0000000e82"
            "a174a470696e67"
            "a474696d65ff");
}

TEST(Messages, ExtremesComeBack) {
  for (const std::int64_t time : {INT64_MIN, std::int64_t{-1}, std::int64_t{0}, INT64_MAX}) {
    const auto got = decode(Bytes(encode(Ping{time})).subspan(4));
    ASSERT_TRUE(got);
    EXPECT_EQ(std::get<Ping>(*got).timestamp, time);
  }
  const NewConn conn{.proxy = UINT32_MAX, .connection = UINT64_MAX, .user = "", .destination = std::string(1024, 'd')};
  EXPECT_EQ(decode(Bytes(encode(conn)).subspan(4)).value(), Message(conn));
}

TEST(Messages, UnknownKeysAreIgnored) {
  for (const Sample& sample : samples()) {
    Keys more = sample.keys;
    more.insert(more.begin(), {"later", array({u64(1), str("x"), map({{"y", nil()}})})});
    more.emplace_back("also", bin(raw("bytes")));
    const auto got = decode(map(more));
    ASSERT_TRUE(got) << sample.type << ": " << got.error().message;
    EXPECT_EQ(*got, sample.message) << sample.type;
  }
}

TEST(Messages, AnUnknownTypeIsNoError) {
  const auto got = decode(map({{"t", str("new_idea")}, {"what", u64(3)}}));
  ASSERT_TRUE(got);
  EXPECT_EQ(*got, Message(Unknown{"new_idea"}));
  EXPECT_EQ(decode(map({{"t", str("")}})).value(), Message(Unknown{""}));
}

TEST(Messages, TheAuthBodyComesBackAsItWasSent) {
  const AuthBody body = sample_auth_body();
  const auto got = decode_auth_body(encode_body(body));
  ASSERT_TRUE(got) << got.error().message;
  EXPECT_EQ(*got, body);
}

TEST(Messages, TheAuthRespBodyComesBackAsItWasSent) {
  AuthRespBody body = sample_auth_resp_body();
  EXPECT_EQ(decode_auth_resp_body(encode_body(body)).value(), body);
  body = AuthRespBody{.ok = false, .error = "denied", .session = {}, .nonce = {}, .time = 12, .features = {}};
  EXPECT_EQ(decode_auth_resp_body(encode_body(body)).value(), body);
}

TEST(Messages, BodiesOfTheOtherSideAreRefused) {
  EXPECT_FALSE(decode_auth_body(encode_body(sample_auth_resp_body())));
  EXPECT_FALSE(decode_auth_resp_body(encode_body(sample_auth_body())));
}

}  // namespace
}  // namespace qtrp::protocol
