#include "qtrp/stats/history.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace qtrp::stats {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;

constexpr TimePoint at(Duration since) {
  return TimePoint{} + since;
}
Totals megabytes(std::uint64_t in, std::uint64_t out) {
  return {.bytes_in = in * 1'000'000, .bytes_out = out * 1'000'000};
}

TEST(History, IsEmptyAtFirst) {
  History history;
  EXPECT_EQ(json::parse(history.to_json())["in_mbps"], json::array());
  history.add(at(0s), megabytes(100, 100));
  history.add(at(4s), megabytes(200, 200));
  const json j = json::parse(history.to_json());
  EXPECT_EQ(j["in_mbps"], json::array());
  EXPECT_EQ(j["step_seconds"], 5);
  EXPECT_EQ(j["span_seconds"], 3600);
}

TEST(History, HasOneAverageAStepOldestFirst) {
  History history;
  for (int second = 0; second <= 10; ++second) {
    const auto n = static_cast<std::uint64_t>(second);
    history.add(at(std::chrono::seconds(second)), second <= 5 ? megabytes(n, 0) : megabytes(5, (n - 5) * 2));
  }
  const json j = json::parse(history.to_json());
  EXPECT_EQ(j["in_mbps"], (json{8, 0}));
  EXPECT_EQ(j["out_mbps"], (json{0, 16}));
}

TEST(History, KeepsAnHourAndFillsWhatItSlept) {
  History history;
  history.add(at(0s), {});
  history.add(at(15s), megabytes(15, 0));
  EXPECT_EQ(json::parse(history.to_json())["in_mbps"], (json{8, 8, 8}));
  for (int second = 20; second <= 7200; second += 5) history.add(at(std::chrono::seconds(second)), megabytes(15, 0));
  EXPECT_EQ(json::parse(history.to_json())["in_mbps"], json(std::vector<int>(720, 0)));
  history.add(at(100h), megabytes(15, 0));
  EXPECT_EQ(json::parse(history.to_json())["in_mbps"].size(), 720U);
}

TEST(History, ACounterThatBeganAnewIsNoTraffic) {
  History history;
  history.add(at(0s), megabytes(100, 0));
  history.add(at(5s), megabytes(1, 0));
  EXPECT_EQ(json::parse(history.to_json())["in_mbps"], (json{0}));
}

}  // namespace
}  // namespace qtrp::stats
