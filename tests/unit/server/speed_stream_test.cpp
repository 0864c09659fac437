// The server's end of a speed test, over a session in memory.
#include "server/speed_stream.h"

#include <gtest/gtest.h>

#include "support/fake_session.h"

namespace qtrp::server {
namespace {

using test::FakeSession;

class SpeedStreamTest : public testing::Test {
 protected:
  std::unique_ptr<SpeedStream> make(SpeedStream::Direction direction) {
    const Bytes prefix = as_bytes("hello");
    auto stream = std::make_unique<SpeedStream>(
        session, *loop, direction, std::vector<std::byte>(prefix.begin(), prefix.end()), [this] { ++over; });
    EXPECT_TRUE(stream->start());
    return stream;
  }
  FakeSession::Stream& wire() { return session.streams.at(2); }

  std::unique_ptr<io::Loop> loop = io::make_epoll_loop();
  FakeSession session;
  int over = 0;
};

TEST_F(SpeedStreamTest, ADownloadGivesAsMuchAsIsAskedFor) {
  const auto stream = make(SpeedStream::Direction::download);
  session.pull(2, 1'000'000, 65536);
  EXPECT_EQ(wire().sent.size(), 1'000'000U);
  EXPECT_TRUE(wire().sent.starts_with("hello"));
  EXPECT_EQ(wire().sent.find_first_not_of('\0', 5), std::string::npos);
  EXPECT_TRUE(wire().ready);
  stream->on_finished();  // the client has enough: so ends this side
  session.pull(2);
  EXPECT_TRUE(wire().ended);
}

TEST_F(SpeedStreamTest, APrefixInPiecesIsNotCutShort) {
  const auto stream = make(SpeedStream::Direction::download);
  session.pull(2, 3, 3);
  session.pull(2, 7, 7);
  EXPECT_EQ(wire().sent, std::string("hello") + std::string(5, '\0'));
}

TEST_F(SpeedStreamTest, AnUploadIsCountedGivenBackAndReported) {
  const auto stream = make(SpeedStream::Direction::upload);
  session.pull(2);
  EXPECT_EQ(wire().sent, "hello");
  EXPECT_FALSE(wire().ready);
  const std::vector<std::byte> body(70'000);
  stream->on_body(body);  // the first one after so long reports at once
  stream->on_body(body);
  session.pull(2);
  EXPECT_EQ(wire().moved, 140'000U);
  ASSERT_EQ(wire().sent.size(), 5U + 8U);
  EXPECT_EQ(load_be<std::uint64_t>(as_bytes(wire().sent).data() + 5), 70'000U);
  stream->on_finished();
  session.pull(2);
  ASSERT_EQ(wire().sent.size(), 5U + 16U);
  EXPECT_EQ(load_be<std::uint64_t>(as_bytes(wire().sent).data() + 13), 140'000U);
  EXPECT_TRUE(wire().ended);
}

TEST_F(SpeedStreamTest, ItsEndIsToldOnce) {
  const auto stream = make(SpeedStream::Direction::upload);
  stream->on_reset(session::ResetCode::cancelled);
  stream->on_reset(session::ResetCode::cancelled);
  EXPECT_EQ(over, 1);
}

}  // namespace
}  // namespace qtrp::server
