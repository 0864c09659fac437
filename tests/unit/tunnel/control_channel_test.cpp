// The control stream: whole messages both ways, bounded both ways, over a session in memory.
#include "qtrp/tunnel/control_channel.h"

#include <gtest/gtest.h>

#include "support/fake_session.h"

namespace qtrp::tunnel {
namespace {

using namespace protocol;
using qtrp::test::FakeSession;

struct Heard final : ControlListener {
  void on_message(Message message) override {
    messages.push_back(std::move(message));
    if (react) react();
  }
  void on_control_failed(Error error) override { errors.push_back(std::move(error)); }
  std::vector<Message> messages;
  std::vector<Error> errors;
  std::function<void()> react;
};

class ControlChannelTest : public testing::Test {
 protected:
  ControlChannelTest() {
    id = *session.open(channel, &channel);
    channel.set_stream(id);
  }
  void arrives(const std::vector<std::byte>& bytes) { channel.on_body(bytes); }
  FakeSession::Stream& stream() { return session.streams.at(id); }

  FakeSession session;
  Heard heard;
  ControlChannel channel{session, heard};
  session::StreamId id = 0;
};

std::vector<std::byte> both(const Message& a, const Message& b) {
  auto bytes = encode(a);
  const auto more = encode(b);
  bytes.insert(bytes.end(), more.begin(), more.end());
  return bytes;
}

TEST_F(ControlChannelTest, SendsWholeMessagesInOrder) {
  channel.send(Ping{1});
  channel.send(Goodbye{"reason"});
  session.pull(id, SIZE_MAX, 7);
  EXPECT_EQ(stream().sent, as_text(both(Ping{1}, Goodbye{"reason"})));
  session.pull(id);
  channel.send(Pong{2});
  EXPECT_TRUE(stream().ready);
  session.pull(id);
  EXPECT_TRUE(stream().sent.ends_with(as_text(encode(Pong{2}))));
}

TEST_F(ControlChannelTest, AskedWithoutAnythingToSayItSaysNothing) {
  std::byte room[16];
  const auto made = channel.produce(room);
  EXPECT_EQ(made.n, 0U);
  EXPECT_EQ(made.status, session::Produced::Status::would_block);
}

TEST_F(ControlChannelTest, HearsMessagesAndGivesCreditForThem) {
  const auto bytes = both(Ping{1}, CloseProxy{4});
  for (const std::byte b : bytes) channel.on_body(Bytes(&b, 1));
  EXPECT_EQ(heard.messages, (std::vector<Message>{Ping{1}, CloseProxy{4}}));
  EXPECT_EQ(stream().moved, bytes.size());
}

TEST_F(ControlChannelTest, WhilePausedMessagesWaitWithoutCredit) {
  heard.react = [this] { channel.pause(); };
  const auto two = both(Ping{1}, Ping{2});
  arrives(two);
  EXPECT_EQ(heard.messages.size(), 1U);
  EXPECT_EQ(stream().moved, two.size() / 2);
  arrives(encode(Ping{3}));
  EXPECT_EQ(heard.messages.size(), 1U);
  channel.resume();  // and the reaction pauses it again
  EXPECT_EQ(heard.messages.size(), 2U);
  heard.react = nullptr;
  channel.resume();
  EXPECT_EQ(heard.messages, (std::vector<Message>{Ping{1}, Ping{2}, Ping{3}}));
  EXPECT_EQ(stream().moved, two.size() / 2 * 3);
  arrives(encode(Ping{4}));
  EXPECT_EQ(heard.messages.size(), 4U);
}

TEST_F(ControlChannelTest, FailsOnceForNonsense) {
  arrives({std::byte{0}, std::byte{0}, std::byte{0}, std::byte{1}, std::byte{0xc1}});
  arrives(encode(Ping{1}));
  channel.on_finished();
  channel.on_reset(session::ResetCode::cancelled);
  ASSERT_EQ(heard.errors.size(), 1U);
  EXPECT_EQ(heard.errors[0].kind, ErrorKind::protocol);
  EXPECT_TRUE(heard.messages.empty());
}

TEST_F(ControlChannelTest, FailsWhenThePeerEndsOrResetsIt) {
  channel.on_finished();
  ASSERT_EQ(heard.errors.size(), 1U);
  EXPECT_EQ(heard.errors[0].kind, ErrorKind::closed);
  Heard other;
  ControlChannel another(session, other);
  another.on_reset(session::ResetCode::limit);
  ASSERT_EQ(other.errors.size(), 1U);
  EXPECT_NE(other.errors[0].message.find("limit"), std::string::npos);
}

TEST_F(ControlChannelTest, FailsForAPeerThatReadsNothing) {
  for (int i = 0; i < 5000 && heard.errors.empty(); ++i) channel.send(Goodbye{std::string(1000, 'x')});
  ASSERT_EQ(heard.errors.size(), 1U);
  EXPECT_EQ(heard.errors[0].kind, ErrorKind::limit);
  channel.send(Ping{1});  // ignored from then on
  EXPECT_EQ(heard.errors.size(), 1U);
}

TEST_F(ControlChannelTest, APeerThatAlwaysLeavesALittleIsServedOn) {
  std::string expected;
  std::size_t read = 0;
  for (int i = 0; i < 20'000; ++i) {
    const Ping ping{i};
    expected += as_text(encode(ping));
    channel.send(ping);
    channel.send(Goodbye{std::string(500, 'x')});
    expected += as_text(encode(Goodbye{std::string(500, 'x')}));
    session.pull(id, expected.size() - read - 1);  // one byte stays
    read = stream().sent.size();
    ASSERT_TRUE(heard.errors.empty());
  }
  session.pull(id);
  EXPECT_TRUE(stream().sent == expected);
}

}  // namespace
}  // namespace qtrp::tunnel
