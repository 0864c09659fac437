#include "mux/stream_table.h"

#include <gtest/gtest.h>

#include <random>
#include <unordered_map>

namespace qtrp::mux {
namespace {

TEST(StreamTable, FindsExactlyWhatIsInItThroughAnyHistory) {
  StreamTable table(1);
  std::unordered_map<std::uint32_t, Stream*> model;
  std::mt19937 random(7);
  for (int step = 0; step < 200000; ++step) {
    const std::uint32_t id = random() % 4096;
    Stream* const found = table.find(id);
    const auto in_model = model.find(id);
    ASSERT_EQ(found, in_model == model.end() ? nullptr : in_model->second);
    if (found == nullptr) {
      model[id] = &table.insert(id);
    } else {
      table.remove(*found);
      table.recycle(*found);
      model.erase(in_model);
    }
    ASSERT_EQ(table.size(), model.size());
  }
}

TEST(StreamTable, AnIdleStreamCostsAtMost200Bytes) {
  EXPECT_LE(sizeof(Stream), 184U);
  StreamTable table(1);
  for (std::uint32_t id = 0; id < 10000; ++id) table.insert(id);
  EXPECT_LE(table.memory() / 10000, 200U);
}

TEST(UsedIds, NoIdIsUsedTwiceAndLateOnesAreAcceptedWithinTheSpan) {
  UsedIds ids;
  EXPECT_FALSE(ids.used(3));
  EXPECT_TRUE(ids.use(3));
  EXPECT_FALSE(ids.use(3));
  EXPECT_TRUE(ids.use(9));
  EXPECT_FALSE(ids.used(7));
  EXPECT_TRUE(ids.use(7)) << "a SYN that was overtaken";
  EXPECT_FALSE(ids.use(9));
  EXPECT_TRUE(ids.use(9 + 2 * UsedIds::kSpan));
  EXPECT_FALSE(ids.use(5)) << "too old to know";
  EXPECT_FALSE(ids.used(11 + 2 * UsedIds::kSpan));
  EXPECT_TRUE(ids.use(0xFFFFFFFF));
  EXPECT_FALSE(ids.use(0xFFFFFFFF));
  EXPECT_TRUE(ids.use(0xFFFFFFFD));
}

}  // namespace
}  // namespace qtrp::mux
