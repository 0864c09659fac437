// The layouts against bytes written down from the libraries' own sources and specification.
#include <gtest/gtest.h>

#include "pair.h"

namespace qtrp::mux::test {
namespace {

std::vector<std::byte> bytes(std::initializer_list<int> values) {
  std::vector<std::byte> out;
  for (const int value : values) out.push_back(static_cast<std::byte>(value));
  return out;
}

TEST(SmuxWire, OpenDataFinishOfAClientBeginWithStreamThree) {
  End client(make_options(Protocol::smux2, true), TimePoint{});
  const auto id = client.open(2, 1);
  EXPECT_EQ(id, 3U);
  const auto out = client.flush();
  auto expected = bytes({2, 0, 0, 0, 3, 0, 0, 0,                             // SYN
                         2, 4, 8, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0,  // UPD: 2 MiB from the start
                         2, 2, 2, 0, 3, 0, 0, 0});                           // PSH of 2
  expected.push_back(pattern(1, 0));
  expected.push_back(pattern(1, 1));
  for (const auto byte : bytes({2, 1, 0, 0, 3, 0, 0, 0})) expected.push_back(byte);  // FIN
  EXPECT_EQ(out, expected);
}

TEST(SmuxWire, ServerStreamsBeginWithTwo) {
  End server(make_options(Protocol::smux2, false), TimePoint{});
  EXPECT_EQ(server.open(0), 2U);
  EXPECT_EQ(server.open(0), 4U);
}

TEST(SmuxWire, VersionOneHasItsNumberAndNoWindows) {
  End client(make_options(Protocol::smux1, true), TimePoint{});
  client.open(0);
  EXPECT_EQ(client.flush(), bytes({1, 0, 0, 0, 3, 0, 0, 0, 1, 1, 0, 0, 3, 0, 0, 0}));
}

TEST(SmuxWire, ResetCarriesItsCodeBetweenOwnEndsOnly) {
  Pair own(Protocol::smux2, true);
  own.client.refuse = true;
  const auto id = own.server.open(10);
  ASSERT_TRUE(own.settle());
  EXPECT_TRUE(own.server.streams[id].reset);
  EXPECT_EQ(own.server.streams[id].code, ResetCode::refused);

  End foreign(make_options(Protocol::smux2, true), TimePoint{});
  foreign.refuse = true;
  foreign.deliver(bytes({2, 0, 0, 0, 2, 0, 0, 0}));
  EXPECT_EQ(foreign.flush(), bytes({2, 1, 0, 0, 2, 0, 0, 0})) << "a foreign smux knows only FIN";
}

TEST(SmuxWire, LargeFramesHaveTheirOwnCommand) {
  Options sender = make_options(Protocol::smux2, true, true);
  sender.max_frame = 1 << 20;
  Options receiver = make_options(Protocol::smux2, false, true);
  receiver.ours.max_frame = 262144;
  Pair own(sender, receiver);
  own.client.open(200000, 1);
  const auto out = own.client.produce(300000);
  // Behind the SYN.
  ASSERT_GT(out.size(), 200000U);
  const auto header = bytes({2, 0x21, 4, 0, 3, 0, 0, 0, 0x40, 0x0D, 3, 0});
  EXPECT_TRUE(std::equal(header.begin(), header.end(), out.begin() + 8));
  own.server.deliver(out);
  EXPECT_EQ(own.server.streams[3].received, 200000U);
  EXPECT_TRUE(own.server.streams[3].intact);
}

TEST(YamuxWire, OpenDataFinishOfAClientBeginWithStreamOne) {
  Options options = make_options(Protocol::yamux, true);
  options.stream_window = 262144;
  End client(options, TimePoint{});
  EXPECT_EQ(client.open(2, 1), 1U);
  auto expected = bytes({0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0,    // window update with SYN
                         0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2});  // data
  expected.push_back(pattern(1, 0));
  expected.push_back(pattern(1, 1));
  // The end never rides on data: hashicorp/yamux would let a waiting reader see it before the bytes.
  const auto finish = bytes({0, 1, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0});  // window update with FIN
  expected.insert(expected.end(), finish.begin(), finish.end());
  EXPECT_EQ(client.flush(), expected);
}

TEST(YamuxWire, AcceptsWithAckAndAnswersPings) {
  Options options = make_options(Protocol::yamux, false);
  options.stream_window = 262144 + 256;
  End server(options, TimePoint{});
  server.answer = false;
  server.deliver(bytes({0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0}));
  EXPECT_EQ(server.flush(), bytes({0, 1, 0, 2, 0, 0, 0, 1, 0, 0, 1, 0}));
  server.deliver(bytes({0, 2, 0, 1, 0, 0, 0, 0, 9, 8, 7, 6}));
  EXPECT_EQ(server.flush(), bytes({0, 2, 0, 2, 0, 0, 0, 0, 9, 8, 7, 6}));
}

}  // namespace
}  // namespace qtrp::mux::test
