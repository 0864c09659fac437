// MessageReader: messages come whole out of a byte stream, however it is cut.
#include <gtest/gtest.h>

#include <random>

#include "packed.h"
#include "qtrp/protocol/messages.h"
#include "samples.h"

namespace qtrp::protocol {
namespace {

using namespace test;

Buffer all_on_the_wire() {
  Buffer wire;
  for (const Sample& sample : samples()) wire = wire + encode(sample.message);
  return wire;
}

// Feeds `piece` and appends the messages that come; false on an error.
bool feed(MessageReader& reader, Bytes piece, std::vector<Message>& out) {
  for (;;) {
    auto message = reader.next(piece);
    if (!message) return false;
    if (!*message) {
      EXPECT_TRUE(piece.empty()) << "wants more although bytes are left";
      return true;
    }
    out.push_back(std::move(**message));
  }
}

void expect_all(const std::vector<Message>& got) {
  const auto expected = samples();
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i], expected[i].message) << expected[i].type;
}

TEST(MessageReader, CutsAtEveryByteBoundary) {
  const Buffer wire = all_on_the_wire();
  for (std::size_t cut = 0; cut <= wire.size(); ++cut) {
    MessageReader reader;
    std::vector<Message> got;
    ASSERT_TRUE(feed(reader, Bytes(wire).first(cut), got)) << cut;
    ASSERT_TRUE(feed(reader, Bytes(wire).subspan(cut), got)) << cut;
    expect_all(got);
    EXPECT_FALSE(reader.mid_message());
  }
}

TEST(MessageReader, TakesSingleBytes) {
  MessageReader reader;
  std::vector<Message> got;
  for (const std::byte& byte : all_on_the_wire()) ASSERT_TRUE(feed(reader, Bytes(&byte, 1), got));
  expect_all(got);
}

TEST(MessageReader, TakesAnyPieces) {
  const Buffer wire = all_on_the_wire();
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    MessageReader reader;
    std::vector<Message> got;
    for (Bytes rest(wire); !rest.empty();) {
      const std::size_t n = std::min<std::size_t>(rest.size(), random() % 90);
      ASSERT_TRUE(feed(reader, rest.first(n), got));
      rest = rest.subspan(n);
    }
    expect_all(got);
  }
}

TEST(MessageReader, LeavesWhatStandsBehindAMessage) {
  const Buffer wire = encode(Ping{1}) + raw("GET / HTTP/1.1");
  MessageReader reader;
  Bytes input(wire);
  const auto message = reader.next(input);
  ASSERT_TRUE(message && *message);
  EXPECT_EQ(**message, Message(Ping{1}));
  EXPECT_EQ(as_text(input), "GET / HTTP/1.1");  // the user's first bytes behind NewConn
}

TEST(MessageReader, KnowsThatItIsInsideAMessage) {
  const Buffer wire = encode(Ping{1});
  MessageReader reader;
  EXPECT_FALSE(reader.mid_message());
  Bytes input = Bytes(wire).first(2);
  EXPECT_FALSE(reader.next(input).value());
  EXPECT_TRUE(reader.mid_message());
}

TEST(MessageReader, TakesTheLargestMessageAndNoLarger) {
  // {"t": "auth", "body": bin16, "hmac": bin8}: 51 bytes around the body, 3 of them its header.
  Auth auth;
  auth.body.resize(kMaxMessage - (encode(auth).size() - 4) - 1);  // bin16 has a byte more than bin8
  const Buffer largest = encode(auth);
  ASSERT_EQ(largest.size(), 4 + kMaxMessage);
  MessageReader reader;
  std::vector<Message> got;
  ASSERT_TRUE(feed(reader, largest, got));
  ASSERT_EQ(got.size(), 1U);
  EXPECT_EQ(got[0], Message(auth));

  auth.body.push_back(std::byte{1});
  MessageReader another;
  EXPECT_FALSE(feed(another, encode(auth), got));
}

TEST(MessageReader, RefusesALengthAsSoonAsItIsRead) {
  for (const std::uint32_t length : {0U, static_cast<std::uint32_t>(kMaxMessage) + 1, 0x7FFFFFFFU, 0xFFFFFFFFU}) {
    const Buffer wire = big_endian(length);
    MessageReader reader;
    Bytes input(wire);
    const auto result = reader.next(input);
    ASSERT_FALSE(result) << length;
    EXPECT_EQ(result.error().kind, ErrorKind::protocol);
    EXPECT_NE(result.error().message.find(std::to_string(length)), std::string::npos) << result.error().message;
  }
}

TEST(MessageReader, FailsForAMessageThatDoesNotDecode) {
  MessageReader reader;
  const Buffer wire = framed(raw("nonsense"));
  Bytes input(wire);
  EXPECT_FALSE(reader.next(input));
}

TEST(MessageReader, WaitsForATruncatedMessageForEver) {
  const Buffer wire = encode(samples()[0].message);
  MessageReader reader;
  Bytes input = Bytes(wire).first(wire.size() - 1);
  EXPECT_FALSE(reader.next(input).value());
  EXPECT_FALSE(reader.next(input).value());
}

}  // namespace
}  // namespace qtrp::protocol
