// What the interfaces' room does by itself: the reasons' words, and events on their way to their owners.
#include "qtrp/session/session.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace qtrp::session {
namespace {

TEST(ResetCodes, EachHasWordsOfItsOwnAndAnUnknownOneIsSaidToBe) {
  std::set<std::string_view> words;
  unsigned known = 0;
  for (unsigned code = 0; code < 256; ++code) {
    const auto text = to_string(static_cast<ResetCode>(code));
    ASSERT_FALSE(text.empty());
    if (text == "unknown reason") continue;
    words.insert(text);
    ++known;
  }
  EXPECT_EQ(words.size(), known);
  EXPECT_EQ(known, 10U);
  EXPECT_EQ(to_string(ResetCode::refused), "local service refused the connection");
  EXPECT_EQ(to_string(ResetCode::session_lost), "tunnel lost");
}

struct Heard final : StreamOwner {
  Produced produce(MutableBytes) override { return {0, Produced::Status::would_block, {}}; }
  void on_body(Bytes body) override { said += as_text(body); }
  void on_finished() override { said += "|finished"; }
  void on_reset(ResetCode code) override { said += "|reset: " + std::string(to_string(code)); }
  std::string said;
};

TEST(Dispatch, TellsTheOwnerWhatConcernsIt) {
  Heard owner;
  StreamOwner* const as_owner = &owner;
  dispatch({.kind = EventKind::body, .owner = as_owner, .body = as_bytes("hello")});
  dispatch({.kind = EventKind::finished, .owner = as_owner});
  dispatch({.kind = EventKind::reset, .owner = as_owner, .code = ResetCode::limit});
  EXPECT_EQ(owner.said, "hello|finished|reset: limit reached");
  for (const EventKind kind : {EventKind::established, EventKind::opened, EventKind::can_open, EventKind::closed})
    dispatch({.kind = kind, .owner = as_owner});
  EXPECT_EQ(owner.said, "hello|finished|reset: limit reached");
  dispatch({.kind = EventKind::body, .body = as_bytes("for nobody")});  // its owner is not known yet
}

// An owner that has not said otherwise is served by copy.
TEST(StreamOwner, SplicesNothingUnlessItSaysSo) {
  Heard owner;
  EXPECT_EQ(owner.splice_fd(), -1);
  EXPECT_EQ(owner.sink_fd(), -1);
  EXPECT_EQ(owner.spliced(7).n, 7U);
  EXPECT_EQ(owner.spliced(-11).n, 0U);
  owner.on_spliced(7);
  EXPECT_TRUE(owner.said.empty());
}

}  // namespace
}  // namespace qtrp::session
