// The warnings and errors that are kept for the dashboard.
#include "qtrp/base/log.h"

#include <gtest/gtest.h>

namespace qtrp::log {
namespace {

TEST(Troubles, AreTheLastFiftyWarningsAndErrors) {
  set_level(Level::off);  // kept all the same
  info("not this one");
  for (int i = 0; i < 60; ++i) warn("number {}", i);
  error("a\nb{}", std::string(1000, 'x'));
  set_level(Level::info);
  const auto list = recent_troubles();
  ASSERT_EQ(list.size(), 50U);
  EXPECT_EQ(list.front().text, "number 11");
  EXPECT_EQ(list.front().level, Level::warn);
  EXPECT_EQ(list.back().level, Level::error);
  EXPECT_EQ(list.back().text.size(), 500U);
  EXPECT_TRUE(list.back().text.starts_with("a\\x0abxxx"));
  EXPECT_GT(list.back().wall_ms, 1'700'000'000'000);
}

}  // namespace
}  // namespace qtrp::log
