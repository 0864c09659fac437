// The target that several tunnels share, against scripted demand.
#include "qtrp/pacing/target_share.h"

#include <gtest/gtest.h>

#include <limits>

namespace qtrp::pacing {
namespace {

using std::chrono::milliseconds;

constexpr std::uint64_t kTarget = 100'000'000;
constexpr std::uint64_t kAll = std::numeric_limits<std::uint64_t>::max();

struct Tunnels {
  explicit Tunnels(std::size_t count) : shares(count, 0), sent(count, 0) {
    for (std::size_t i = 0; i < count; ++i) {
      members.push_back(share.join());
      shares[i] = share.report(members[i], 0, now);
    }
  }
  // Runs `rounds` report intervals; a tunnel sends what it has, at most its share.
  void run(int rounds, const std::vector<std::uint64_t>& demand) {
    for (int round = 0; round < rounds; ++round) {
      now += TargetShare::kReportInterval;
      for (std::size_t i = 0; i < members.size(); ++i) {
        sent[i] += std::min(demand[i], shares[i]) / 8 / 10;
        shares[i] = share.report(members[i], sent[i], now);
      }
    }
  }
  std::uint64_t total() const {
    std::uint64_t sum = 0;
    for (const auto one : shares) sum += one;
    return sum;
  }
  TargetShare share{kTarget};
  TimePoint now{milliseconds(1)};
  std::vector<TargetShare::Member> members;
  std::vector<std::uint64_t> shares, sent;
};

TEST(TargetShare, OneTunnelHasAllOfIt) {
  Tunnels one(1);
  EXPECT_EQ(one.shares[0], kTarget);
  one.run(5, {0});
  EXPECT_EQ(one.shares[0], kTarget);
  one.run(5, {kAll});
  EXPECT_EQ(one.shares[0], kTarget);
}

TEST(TargetShare, TheBusyOneGetsWhatTheIdleLeave) {
  Tunnels four(4);
  four.run(10, {kAll, 0, 0, 0});
  EXPECT_GE(four.shares[0], kTarget * 94 / 100);
  EXPECT_LE(four.total(), kTarget);
}

TEST(TargetShare, BusyOnesShareEvenlyAndModestOnesKeepWhatTheyNeed) {
  Tunnels three(3);
  three.run(20, {kAll, kAll, 10'000'000});
  EXPECT_NEAR(static_cast<double>(three.shares[2]), 15e6, 1e5);
  EXPECT_NEAR(static_cast<double>(three.shares[0]), 42.5e6, 1e5);
  EXPECT_EQ(three.shares[0], three.shares[1]);
  EXPECT_LE(three.total(), kTarget);
  EXPECT_GE(three.total(), kTarget - 3);
}

TEST(TargetShare, AnIdleTunnelThatStartsIsEvenSoon) {
  Tunnels two(2);
  two.run(10, {kAll, 0});
  two.run(5, {kAll, kAll});
  EXPECT_NEAR(static_cast<double>(two.shares[1]), 50e6, 1e6);
  EXPECT_NEAR(static_cast<double>(two.shares[0]), 50e6, 1e6);
}

TEST(TargetShare, FollowsTheTargetAndWhoLeaves) {
  Tunnels two(2);
  two.run(10, {kAll, kAll});
  two.share.leave(two.members[1]);
  EXPECT_EQ(two.share.report(two.members[1], 1'000'000'000, two.now), 0U);
  EXPECT_EQ(two.share.report(two.members[0], two.sent[0], two.now), kTarget);
  two.share.set_target(2 * kTarget);
  EXPECT_EQ(two.share.report(two.members[0], two.sent[0], two.now), 2 * kTarget);
  two.share.set_target(0);
  EXPECT_EQ(two.share.report(two.members[0], two.sent[0], two.now), 0U);
}

}  // namespace
}  // namespace qtrp::pacing
