// What a peer can do wrong, and what comes of it: the table of docs/protocol-mux.md, line by line.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

#include "frames.h"
#include "pair.h"

namespace qtrp::mux::test {
namespace {

using testing::HasSubstr;

/// Our server end, before which a peer (the client: odd ids) misbehaves.
class HostileSmux : public testing::Test {
 protected:
  explicit HostileSmux(bool extensions = false) : extensions_(extensions) { restart(); }
  void restart() {
    end_ = std::make_unique<End>(make_options(Protocol::smux2, false, extensions_), TimePoint{} + 1s);
    end().answer = end().answer_finish = false;
  }
  End& end() { return *end_; }
  void tell(const Wire& wire) { end().deliver(wire); }
  void expect_closed(const char* why, ErrorKind kind = ErrorKind::protocol) {
    EXPECT_TRUE(end().closed);
    EXPECT_EQ(end().error.kind, kind);
    EXPECT_THAT(end().error.message, HasSubstr(why));
    // Nothing more comes, whatever else is said.
    const auto events = end().events;
    tell(smux(kSyn, 4001));
    EXPECT_EQ(end().events, events);
    EXPECT_TRUE(end().flush().empty());
    EXPECT_FALSE(end().mux.wants_write());
  }
  void expect_alive() {
    ASSERT_FALSE(end().closed) << end().error.message;
    const auto before = end().accepted.size();
    tell(smux(kSyn, 9001));
    EXPECT_EQ(end().accepted.size(), before + 1);
  }

  bool extensions_;
  std::unique_ptr<End> end_;
};

class HostileOwnSmux : public HostileSmux {
 protected:
  HostileOwnSmux() : HostileSmux(true) { end().mux.negotiate(make_options(Protocol::smux2, true, true).ours); }
};

TEST_F(HostileSmux, WrongVersionCloses) {
  tell(smux(kSyn, 3, 0, 1));
  expect_closed("version");
}
TEST_F(HostileSmux, UnknownCommandCloses) {
  tell(smux(9, 3));
  expect_closed("unknown smux command");
}
TEST_F(HostileSmux, OurOwnCommandsCloseWhereWeDidNotOfferThem) {
  tell(smux(kSyn, 3) + smux(kRst, 3, 4) + le32(1));
  expect_closed("unknown smux command");
}
TEST_F(HostileSmux, ControlFramesWithABodyClose) {
  for (const auto command : {kSyn, kFin, kNop}) {
    restart();
    tell(smux(command, 3, 1));
    expect_closed("with a body");
  }
}
TEST_F(HostileSmux, UpdateOfAWrongLengthCloses) {
  tell(smux(kSyn, 3) + smux(kUpd, 3, 7) + zeros(8));
  expect_closed("UPD of a wrong length");
}
TEST_F(HostileSmux, OpeningStreamZeroCloses) {
  tell(smux(kSyn, 0));
  expect_closed("id of ours");
}
TEST_F(HostileSmux, OpeningAnIdOfOurParityCloses) {
  tell(smux(kSyn, 4));
  expect_closed("id of ours");
}
TEST_F(HostileSmux, OpeningTwiceCloses) {
  tell(smux(kSyn, 3) + smux(kSyn, 3));
  expect_closed("stream 3 twice");
}
TEST_F(HostileSmux, OpeningAStreamThatEndedCloses) {
  tell(smux(kSyn, 3));
  end().mux.reset(3, ResetCode::refused);
  end().flush();
  tell(smux(kSyn, 3));
  expect_closed("stream 3 twice");
}
TEST_F(HostileSmux, FramesForStreamsNeverOpenedClose) {
  for (const auto& wire : {smux_data(5, 1), smux(kFin, 5), smux_update(5, 0, 10), smux_data(2, 1), smux(kFin, 0)}) {
    restart();
    tell(smux(kSyn, 3) + wire);
    expect_closed("never opened");
  }
}
TEST_F(HostileSmux, FramesForStreamsThatEndedArePassedOver) {
  tell(smux(kSyn, 3));
  end().mux.reset(3, ResetCode::refused);
  tell(smux_data(3, 50000) + smux_update(3, 7, 7) + smux(kFin, 3) + smux(kFin, 3));
  EXPECT_EQ(end().streams[3].received, 0U);
  EXPECT_EQ(end().mux.counters().buffered, 0U);
  expect_alive();
}
TEST_F(HostileSmux, DataAfterTheEndIsPassedOverAndASecondEndSaysNothing) {
  tell(smux(kSyn, 3) + smux_data(3, 10) + smux(kFin, 3) + smux_data(3, 10) + smux(kFin, 3));
  EXPECT_EQ(end().streams[3].received, 10U);
  EXPECT_TRUE(end().streams[3].finished);
  expect_alive();
}
TEST_F(HostileSmux, DataBeyondTheWindowClosesAndUpToItDoesNot) {
  end().hold = true;
  Wire wire = smux(kSyn, 3);
  for (int i = 0; i < 4; ++i) wire = wire + smux_data(3, 65535);
  tell(wire + smux_data(3, 4));  // 262144: what every smux assumes
  ASSERT_FALSE(end().closed);
  tell(smux_data(3, 1));
  expect_closed("1 bytes beyond its window");
}
TEST_F(HostileSmux, APeerIsJudgedByTheHighestLimitItWasGranted) {
  end().hold = true;
  tell(smux(kSyn, 3));
  EXPECT_EQ(end().flush().size(), 16U) << "the window of 2 MiB is announced";
  Wire wire;
  for (int i = 0; i < 32; ++i) wire = wire + smux_data(3, 65535);
  tell(wire + smux_data(3, 32));
  ASSERT_FALSE(end().closed) << end().error.message;
  EXPECT_EQ(end().mux.counters().buffered, 2U << 20);
  tell(smux_data(3, 1));
  expect_closed("beyond its window");
}
TEST_F(HostileSmux, ConsumingMoreThanWasSentCloses) {
  tell(smux(kSyn, 3) + smux_update(3, 1, 100));
  expect_closed("consumed more than was sent");
}
TEST_F(HostileSmux, AWindowBeyondTwoGigabytesCloses) {
  tell(smux(kSyn, 3) + smux_update(3, 0, 0x80000000U));
  expect_closed("overflows");
}
TEST_F(HostileSmux, UpdatesThatWereOvertakenAreIgnored) {
  end().answer = true;
  end().answer_size = 1000;
  tell(smux(kSyn, 3));
  end().flush();
  tell(smux_update(3, 900, 100));
  tell(smux_update(3, 500, 1 << 20));
  end().streams[3].source->available = end().streams[3].source->size_ = 100000;
  end().mux.ready(3);
  EXPECT_TRUE(end().flush().empty()) << "1000 are sent and 1000 is the limit";
  expect_alive();
}
TEST_F(HostileSmux, AMillionOpensAreRefusedWithinBounds) {
  end().mux.set_limits(100, 1 << 20);
  for (std::uint32_t i = 0; i < 1000000 && !end().closed; ++i) {
    tell(smux(kSyn, 3 + 2 * i));
    if (i % 200 == 0) end().flush();
  }
  EXPECT_FALSE(end().closed) << "answered as they come, they only cost their refusals";
  EXPECT_EQ(end().mux.counters().streams, 100U);
  EXPECT_EQ(end().mux.counters().resets_out, 1000000U - 100U);
}
TEST_F(HostileSmux, AMillionOpensByAPeerThatDoesNotReadClose) {
  end().mux.set_limits(100, 1 << 20);
  std::uint32_t opened = 0;
  while (opened < 1000000 && !end().closed) tell(smux(kSyn, 3 + 2 * opened++));
  EXPECT_LT(opened, 1000U);
  expect_closed("refused", ErrorKind::limit);
}
TEST_F(HostileSmux, OpeningAndEndingWithoutReadingCloses) {
  end().mux.set_limits(100, 1 << 20);
  end().refuse = true;
  std::uint32_t opened = 0;
  while (opened < 1000000 && !end().closed) tell(smux(kSyn, 3 + 2 * opened++));
  EXPECT_LT(opened, 1000U);
  expect_closed("faster than it reads", ErrorKind::limit);
}
TEST_F(HostileSmux, AMillionEmptyFramesAndKeepAlivesMakeNeitherEventsNorOutput) {
  tell(smux(kSyn, 3));
  end().flush();
  const auto events = end().events;
  for (int i = 0; i < 1000000; ++i) tell(i % 2 == 0 ? smux(kPsh, 3) : smux(kNop, 0));
  EXPECT_EQ(end().events, events);
  EXPECT_TRUE(end().flush().empty());
  expect_alive();
}
TEST_F(HostileSmux, AMillionBytesOneByOneOweOneUpdate) {
  tell(smux(kSyn, 3));
  end().flush();
  for (int i = 0; i < 1000000; ++i) tell(smux_data(3, 1));
  EXPECT_LE(end().flush().size(), 16U);
  expect_alive();
}
TEST_F(HostileSmux, AMillionUpdatesChangeNothing) {
  tell(smux(kSyn, 3));
  end().flush();
  for (int i = 0; i < 1000000; ++i) tell(smux_update(3, 0, static_cast<std::uint32_t>(i)));
  EXPECT_TRUE(end().flush().empty());
  expect_alive();
}
TEST_F(HostileSmux, OverTheBoundTheFullestStreamIsResetAndTheOthersGoOn) {
  end().hold = true;
  end().mux.set_limits(100, 1 << 20);
  tell(smux(kSyn, 3) + smux(kSyn, 5) + smux(kSyn, 7));
  end().flush();
  for (int i = 0; i < 3; ++i) tell(smux_data(3, 60000));
  for (int i = 0; i < 10; ++i) tell(smux_data(5, 60000));
  for (int i = 0; i < 6; ++i) {
    tell(smux_data(7, 60000));
    EXPECT_LE(end().mux.counters().buffered, 1U << 20);
  }
  EXPECT_TRUE(end().streams[5].reset);
  EXPECT_EQ(end().streams[5].code, ResetCode::limit);
  EXPECT_FALSE(end().streams[3].reset || end().streams[7].reset);
  EXPECT_EQ(end().streams[7].received, 360000U) << "nothing of the others was lost";
  expect_alive();
}
TEST_F(HostileSmux, AnUnauthenticatedPeerHasOneStreamAnd64KiB) {
  end().hold = true;
  end().mux.set_limits(1, 64 << 10);
  tell(smux(kSyn, 3) + smux(kSyn, 5));
  EXPECT_EQ(end().accepted.size(), 1U);
  for (int i = 0; i < 4 && !end().streams[3].reset; ++i) {
    tell(smux_data(3, 60000));
    EXPECT_LE(end().mux.counters().buffered, 64U << 10);
  }
  EXPECT_TRUE(end().streams[3].reset);
}
TEST(HostileSmux1, WindowUpdatesDoNotExistInVersionOne) {
  End end(make_options(Protocol::smux1, false), TimePoint{} + 1s);
  end.deliver(smux(kSyn, 3, 0, 1) + smux(kUpd, 3, 8, 1) + zeros(8));
  EXPECT_TRUE(end.closed);
  EXPECT_THAT(end.error.message, HasSubstr("UPD in version 1"));
}

TEST_F(HostileOwnSmux, FramesAboveTheAgreedSizeClose) {
  tell(smux(kSyn, 3) + smux(kLarge, 3, 4) + le32(65536));
  expect_closed("65536 bytes, at most 65535");
}
TEST_F(HostileOwnSmux, ExtendedCommandsOfAWrongLengthClose) {
  tell(smux(kSyn, 3) + smux(kRst, 3, 5) + zeros(5));
  expect_closed("extended smux command of a wrong length");
}
TEST_F(HostileOwnSmux, ResetAndYieldForStreamsThatEndedArePassedOver) {
  tell(smux(kSyn, 3) + smux(kRst, 3, 4) + le32(2));
  EXPECT_TRUE(end().streams[3].reset);
  EXPECT_EQ(end().streams[3].code, ResetCode::refused);
  tell(smux(kRst, 3, 4) + le32(2) + smux(kYield, 3, 4) + le32(0) + smux_data(3, 100));
  expect_alive();
}
TEST_F(HostileOwnSmux, YieldingMoreThanWasGrantedGrantsNothing) {
  end().hold = true;
  tell(smux(kSyn, 3) + smux(kYield, 3, 4) + le32(0xFFFFFFFFU));
  Wire wire;
  for (int i = 0; i < 4; ++i) wire = wire + smux_data(3, 65535);
  tell(wire + smux_data(3, 5));
  expect_closed("beyond its window");
}

class HostileYamux : public testing::Test {
 protected:
  HostileYamux() : end_(make_options(Protocol::yamux, false), TimePoint{} + 1s) {
    end_.answer = false;
    end_.answer_finish = false;
  }
  void tell(const Wire& wire) { end_.deliver(wire); }
  void expect_closed(const char* why) {
    EXPECT_TRUE(end_.closed);
    EXPECT_EQ(end_.error.kind, ErrorKind::protocol);
    EXPECT_THAT(end_.error.message, HasSubstr(why));
    EXPECT_EQ(end_.flush(), yamux(kGoAway, 0, 0, 1)) << "the peer is told once";
    EXPECT_TRUE(end_.flush().empty());
  }
  void expect_alive() {
    ASSERT_FALSE(end_.closed) << end_.error.message;
    const auto before = end_.accepted.size();
    tell(yamux(kWindow, kFlagSyn, 9001));
    EXPECT_EQ(end_.accepted.size(), before + 1);
  }
  End end_;
};

TEST_F(HostileYamux, WrongVersionAndUnknownTypeClose) {
  tell(yamux(kData, kFlagSyn, 1, 0, 1));
  expect_closed("version");
}
TEST_F(HostileYamux, UnknownTypeCloses) {
  tell(yamux(4, kFlagSyn, 1));
  expect_closed("unknown yamux type");
}
TEST_F(HostileYamux, APingThatNeitherAsksNorAnswersCloses) {
  tell(yamux(kPing, 0, 0, 1));
  expect_closed("neither asks nor answers");
}
TEST_F(HostileYamux, StreamFramesOnTheSessionsIdClose) {
  tell(yamux(kData, 0, 0, 0));
  expect_closed("never opened");
}
TEST_F(HostileYamux, OpeningTwiceOrWithOurParityCloses) {
  tell(yamux(kWindow, kFlagSyn, 1) + yamux(kWindow, kFlagSyn, 1));
  expect_closed("twice");
}
TEST_F(HostileYamux, OpeningWithOurParityCloses) {
  tell(yamux(kData, kFlagSyn, 2));
  expect_closed("id of ours");
}
TEST_F(HostileYamux, AWindowBeyondFourGigabytesCloses) {
  tell(yamux(kWindow, kFlagSyn, 1) + yamux(kWindow, 0, 1, 0xFFFFFFFFU));
  expect_closed("overflows");
}
TEST_F(HostileYamux, DataBeyondTheWindowCloses) {
  end_.hold = true;
  tell(yamux(kData, kFlagSyn, 1, 262145));
  expect_closed("beyond its window");
}
TEST_F(HostileYamux, AFrameOfAWholeWindowIsFine) {
  end_.hold = true;
  tell(yamux(kData, kFlagSyn | kFlagFin, 1, 262144) + zeros(262144));
  EXPECT_EQ(end_.streams[1].received, 262144U);
  EXPECT_TRUE(end_.streams[1].finished);
  expect_alive();
}
TEST_F(HostileYamux, GoAwayForAnErrorCloses) {
  tell(yamux(kGoAway, 0, 0, 2));
  expect_closed("internal error");
}
TEST_F(HostileYamux, GoAwayForAnUnknownReasonCloses) {
  tell(yamux(kGoAway, 0, 0, 77));
  expect_closed("reason 77");
}
TEST_F(HostileYamux, APingFloodIsAnsweredByTheLatestFew) {
  for (std::uint32_t i = 0; i < 1000000; ++i) tell(yamux(kPing, kFlagSyn, 0, i));
  const auto out = end_.flush();
  EXPECT_EQ(out.size(), 16U * 12U);
  EXPECT_EQ(Wire(out.begin(), out.begin() + 12), yamux(kPing, kFlagAck, 0, 999999));
  expect_alive();
}
TEST_F(HostileYamux, AnswersToPingsNeverSentAreIgnored) {
  tell(yamux(kPing, kFlagAck, 0, 5));
  EXPECT_EQ(end_.mux.ping_rtt(), Duration::zero());
  expect_alive();
}
TEST_F(HostileYamux, RefusedOpensAreResetAndTheirDataPassedOver) {
  end_.mux.set_limits(1, 1 << 20);
  tell(yamux(kWindow, kFlagSyn, 1) + yamux(kData, kFlagSyn, 3, 5000) + zeros(5000));
  EXPECT_EQ(end_.accepted.size(), 1U);
  const auto out = end_.flush();
  const auto refusal = yamux(kWindow, kFlagRst, 3);
  EXPECT_NE(std::search(out.begin(), out.end(), refusal.begin(), refusal.end()), out.end());
  EXPECT_FALSE(end_.closed);
}
TEST_F(HostileYamux, OpenedAndResetInOneFrameIsNothing) {
  tell(yamux(kData, kFlagSyn | kFlagRst, 1, 10) + zeros(10));
  EXPECT_EQ(end_.events, 0U);
  expect_alive();
}
TEST_F(HostileYamux, AnAckThatNobodyAwaitsAndAResetOfAnEndedStreamAreIgnored) {
  tell(yamux(kWindow, kFlagSyn, 1) + yamux(kWindow, kFlagAck, 1) + yamux(kWindow, kFlagRst, 1) +
       yamux(kWindow, kFlagRst, 1));
  EXPECT_TRUE(end_.streams[1].reset);
  expect_alive();
}
TEST_F(HostileYamux, TheBodyOfAFrameThatResetsIsPassedOver) {
  tell(yamux(kWindow, kFlagSyn, 1) + yamux(kData, kFlagRst, 1, 100) + zeros(100));
  EXPECT_TRUE(end_.streams[1].reset);
  EXPECT_EQ(end_.streams[1].received, 0U);
  expect_alive();
}

}  // namespace
}  // namespace qtrp::mux::test
