// TcpControl and TunnelPacing on real loopback sockets: what is chosen, that connections survive every change, and what
// the samples tell.
#include "qtrp/pacing/tcp.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <optional>
#include <thread>

#include "../../../src/pacing/bpf_brutal.h"
#include "qtrp/pacing/brutal.h"

namespace qtrp::pacing {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::AnyOf;
using testing::HasSubstr;
using testing::StartsWith;

std::string congestion_of(int fd) {
  std::array<char, 16> name{};
  socklen_t size = name.size();
  EXPECT_EQ(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name.data(), &size), 0);
  return name.data();
}

// In microseconds; nothing where the kernel has no such option (before 6.15).
std::optional<int> minimum_rto_of(int fd) {
  int us = 0;
  socklen_t size = sizeof us;
  if (getsockopt(fd, IPPROTO_TCP, 45 /* TCP_RTO_MIN_US */, &us, &size) != 0) return std::nullopt;
  return us;
}

// A connected pair over loopback, prepared as the daemons do it.
struct Pair {
  explicit Pair(TcpControl& control) {
    const int listener = socket(AF_INET, SOCK_STREAM, 0);
    control.prepare_listener(listener);
    sockaddr_in address{.sin_family = AF_INET, .sin_port = 0, .sin_addr = {htonl(INADDR_LOOPBACK)}, .sin_zero = {}};
    socklen_t size = sizeof address;
    EXPECT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(listener, 1), 0);
    EXPECT_EQ(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size), 0);
    near = socket(AF_INET, SOCK_STREAM, 0);
    control.prepare_connect(near);
    EXPECT_EQ(connect(near, reinterpret_cast<sockaddr*>(&address), size), 0);
    far = accept(listener, nullptr, nullptr);
    EXPECT_GE(far, 0);
    close(listener);
  }
  ~Pair() {
    close(near);
    close(far);
  }
  // Sends and receives `n` bytes; false if the connection broke.
  bool carry(std::size_t n) const {
    bool sent = true;
    std::jthread writer([&] {
      const std::array<char, 16384> chunk{};
      for (std::size_t left = n; left > 0;) {
        const ssize_t done = send(near, chunk.data(), std::min(left, chunk.size()), MSG_NOSIGNAL);
        if (done <= 0) {
          sent = false;
          return;
        }
        left -= static_cast<std::size_t>(done);
      }
    });
    std::array<char, 16384> chunk{};
    for (std::size_t left = n; left > 0;) {
      const ssize_t done = recv(far, chunk.data(), std::min(left, chunk.size()), 0);
      if (done <= 0) return false;
      left -= static_cast<std::size_t>(done);
    }
    writer.join();
    return sent;
  }
  int near = -1, far = -1;
};

std::unique_ptr<TcpControl> make(TcpControl::Options options) {
  auto control = TcpControl::create(std::move(options));
  EXPECT_TRUE(control) << control.error().message;
  return std::move(*control);
}

TEST(TcpControl, RefusesAControllerOrModeThatIsNotThere) {
  const auto congestion = TcpControl::create({.congestion = "no-such"});
  ASSERT_FALSE(congestion);
  EXPECT_THAT(congestion.error().message, HasSubstr("tcp.congestion 'no-such'"));
  const auto mode = TcpControl::create({.mode = "fast"});
  ASSERT_FALSE(mode);
  EXPECT_THAT(mode.error().message, HasSubstr("auto, bpf, module, pacer"));
}

TEST(TcpControl, WithoutATargetTheBaseControllerRuns) {
  const auto control = make({.congestion = "reno"});
  EXPECT_EQ(control->describe(), "reno");
  Pair pair(*control);
  TunnelPacing pacing(*control);
  pacing.apply(pair.near, TimePoint{});
  EXPECT_EQ(congestion_of(pair.near), "reno");
  EXPECT_FALSE(pacing.paced_by_caller());
  EXPECT_GT(pacing.allowance(TimePoint{}), 1ULL << 60U);
  EXPECT_TRUE(pair.carry(100'000));
}

TEST(TunnelPacing, PacerGrantsTheTargetAndGoesWithIt) {
  const auto control = make({.mode = "pacer", .congestion = "reno", .brutal = true});
  EXPECT_EQ(control->describe(), "brutal (pacer over reno)");
  Pair pair(*control);
  TunnelPacing pacing(*control);
  const TimePoint now(seconds(10));
  pacing.apply(pair.near, now);
  pacing.set_target(80'000'000, now);
  ASSERT_TRUE(pacing.paced_by_caller());
  EXPECT_EQ(pacing.describe(), "brutal (pacer over reno)");
  pacing.sent(pacing.allowance(now), now);
  EXPECT_EQ(pacing.allowance(now), 0U);
  EXPECT_EQ(pacing.next_time(now), now + milliseconds(1));
  EXPECT_EQ(pacing.allowance(now + milliseconds(2)), 20'000U);
  std::uint64_t most = 0;
  socklen_t size = sizeof most;
  ASSERT_EQ(getsockopt(pair.near, SOL_SOCKET, SO_MAX_PACING_RATE, &most, &size), 0);
  EXPECT_NEAR(static_cast<double>(most), 10'150'000, 10);  // never 2 % above the target
  pacing.set_target(0, now);
  EXPECT_FALSE(pacing.paced_by_caller());
  ASSERT_EQ(getsockopt(pair.near, SOL_SOCKET, SO_MAX_PACING_RATE, &most, &size), 0);
  EXPECT_EQ(most, ~0ULL);
  EXPECT_EQ(pacing.describe(), "reno");
}

TEST(TunnelPacing, WithoutTheKernelsBrutalTheRetransmissionTimerIsTheKernels) {
  const auto control = make({.mode = "pacer", .congestion = "reno", .brutal = true});
  const Pair pair(*control);
  const auto kernels = minimum_rto_of(pair.near);
  if (!kernels) GTEST_SKIP() << "this kernel has no TCP_RTO_MIN_US";
  TunnelPacing pacing(*control);
  pacing.set_alone(false);
  pacing.apply(pair.near, TimePoint{});
  EXPECT_EQ(minimum_rto_of(pair.near), kernels);
  pacing.set_target(100'000'000, TimePoint{});
  EXPECT_EQ(minimum_rto_of(pair.near), kernels);
}

TEST(TunnelPacing, AFullTunnelIsNotThinUntilItIsNearlyEmpty) {
  EXPECT_TRUE(TunnelPacing::thin(0, false));
  EXPECT_TRUE(TunnelPacing::thin(8, false));
  EXPECT_FALSE(TunnelPacing::thin(9, false));
  EXPECT_TRUE(TunnelPacing::thin(32, true));
  EXPECT_FALSE(TunnelPacing::thin(33, true));
}

TEST(TunnelPacing, SamplesTellWhatTheKernelKnows) {
  const auto control = make({});
  Pair pair(*control);
  TunnelPacing pacing(*control);
  pacing.apply(pair.near, TimePoint(seconds(1)));
  ASSERT_TRUE(pair.carry(2'000'000));
  const TcpSample& sample = pacing.sample(TimePoint(seconds(2)));
  EXPECT_GT(sample.rtt, Duration(0));
  EXPECT_GT(sample.delivery_rate_bps, 0U);
  EXPECT_GT(sample.ack_rate, 0.9);
  EXPECT_EQ(sample.target_bps, 0U);
}

TEST(TcpControl, ASendBufferIsSetOnlyWhereThatIsMoreThanTheKernelsTuning) {
  constexpr std::uint64_t kKiB = 1024, kMiB = 1024 * kKiB;
  EXPECT_EQ(TcpControl::send_ceiling(true, 208 * kKiB, 4 * kMiB), TcpControl::buffer_ceiling());
  EXPECT_EQ(TcpControl::send_ceiling(false, 208 * kKiB, 4 * kMiB), 0U);
  EXPECT_EQ(TcpControl::send_ceiling(false, 2 * kMiB, 4 * kMiB), 0U);  // the kernel doubles it: 4 MiB either way
  EXPECT_EQ(TcpControl::send_ceiling(false, 4 * kMiB, 4 * kMiB), 4 * kMiB);
  EXPECT_EQ(TcpControl::send_ceiling(false, 4096 * kMiB, 4 * kMiB), TcpControl::buffer_ceiling());
}

TEST(TcpControl, ReceiveCeilingIsForcedOrLeftAlone) {
  const auto control = make({});
  const int fd = socket(AF_INET, SOCK_STREAM, 0), plain = socket(AF_INET, SOCK_STREAM, 0);
  control->prepare_connect(fd);
  int ours = 0, kernels = 0;
  socklen_t size = sizeof ours;
  getsockopt(fd, SOL_SOCKET, SO_RCVBUF, &ours, &size);
  getsockopt(plain, SOL_SOCKET, SO_RCVBUF, &kernels, &size);
  EXPECT_THAT(static_cast<std::uint64_t>(ours),
              AnyOf(2 * TcpControl::buffer_ceiling(), static_cast<std::uint64_t>(kernels)));
  close(fd);
  close(plain);
}

// The BPF controller where this process may load it; else the refusal must say what is missing, and auto must fall
// back.
class Bpf : public testing::Test {
 protected:
  void SetUp() override {
    auto loaded = BpfBrutal::load();
    if (loaded) {
      available = true;
    } else {
      why = loaded.error().message;
      // Nothing else may keep it from loading.
      EXPECT_THAT(why, AnyOf(HasSubstr("needs CAP_"), HasSubstr("this kernel tells no types"),
                             HasSubstr("this build is without"), HasSubstr("Operation not permitted")));
    }
  }
  bool available = false;
  std::string why;
};

TEST_F(Bpf, IsChosenOrSaysWhyNot) {
  const auto control = make({.brutal = true});
  if (available) {
    EXPECT_EQ(control->describe(), "brutal (bpf)");
    EXPECT_EQ(control->base(), make({})->base());
  } else {
    EXPECT_THAT(
        why, AnyOf(HasSubstr("needs CAP_"), HasSubstr("kernel"), HasSubstr("this build"), HasSubstr("BPF controller")));
    EXPECT_THAT(control->describe(), AnyOf(HasSubstr(", because " + why), StartsWith("brutal (module)")));
    EXPECT_FALSE(TcpControl::create({.mode = "bpf", .brutal = true}));
  }
}

TEST_F(Bpf, RunsASocketAtItsTargetAndGivesItBack) {
  if (!available) GTEST_SKIP() << why;
  const auto control = make({.mode = "bpf", .congestion = "reno", .brutal = true});
  Pair pair(*control);
  TunnelPacing pacing(*control);
  const TimePoint now = Clock::now();
  pacing.set_target(400'000'000, now);
  pacing.apply(pair.near, now);
  EXPECT_THAT(congestion_of(pair.near), StartsWith("qtrp_"));
  EXPECT_EQ(pacing.describe(), "brutal (bpf)");
  EXPECT_FALSE(pacing.paced_by_caller());
  ASSERT_TRUE(pair.carry(10'000'000));
  EXPECT_EQ(pacing.sample(Clock::now()).rate_bps, 400'000'000U);
  EXPECT_EQ(pacing.sample(Clock::now()).ack_rate, 1.0);
  // 10 MB at 50 MB/s take 0.2 s, less the first bytes that the socket held already.
  EXPECT_GT(Clock::now() - now, milliseconds(190));

  pacing.set_target(800'000'000, now);
  ASSERT_TRUE(pair.carry(1'000'000));
  EXPECT_EQ(pacing.sample(Clock::now()).rate_bps, 800'000'000U);

  pacing.set_target(0, now);
  EXPECT_EQ(congestion_of(pair.near), "reno");
  EXPECT_TRUE(pair.carry(1'000'000));
}

TEST_F(Bpf, ALoneLostPacketIsSentAgainSoonAfterARoundTripBesideAnotherTunnel) {
  if (!available) GTEST_SKIP() << why;
  const auto control = make({.mode = "bpf", .congestion = "reno", .brutal = true});
  const Pair pair(*control);
  const auto kernels = minimum_rto_of(pair.near);
  if (!kernels) GTEST_SKIP() << "this kernel has no TCP_RTO_MIN_US";
  TunnelPacing pacing(*control);
  pacing.set_target(400'000'000, TimePoint{});
  pacing.apply(pair.near, TimePoint{});
  EXPECT_EQ(minimum_rto_of(pair.near), kernels);
  pacing.set_alone(false);
  EXPECT_EQ(minimum_rto_of(pair.near), TunnelPacing::kThinMinimumRto.count());
  pacing.set_alone(true);
  EXPECT_EQ(minimum_rto_of(pair.near), kernels);
  pacing.set_alone(false);
  pacing.set_target(0, TimePoint{});
  EXPECT_EQ(minimum_rto_of(pair.near), kernels);
}

TEST_F(Bpf, BringsTheMinimumRtoToKernelsWithoutTheOption) {
  if (!available) GTEST_SKIP() << why;
  const auto owner = BpfBrutal::load();
  ASSERT_TRUE(owner) << owner.error().message;
  const auto control = make({});
  const Pair pair(*control);
  if (!minimum_rto_of(pair.near)) GTEST_SKIP() << "this kernel does not tell it";
  const std::string& name = (*owner)->name();
  ASSERT_TRUE((*owner)->set_target(pair.near, 10'000'000, milliseconds(20)));
  ASSERT_EQ(setsockopt(pair.near, IPPROTO_TCP, TCP_CONGESTION, name.data(), static_cast<socklen_t>(name.size())), 0);
  EXPECT_EQ(minimum_rto_of(pair.near), 20'000);
  ASSERT_TRUE((*owner)->set_target(pair.near, 10'000'000, milliseconds(200)));
  EXPECT_TRUE(pair.carry(100'000));
  EXPECT_EQ(minimum_rto_of(pair.near), 200'000);
  ASSERT_TRUE((*owner)->set_target(pair.near, 20'000'000));
  EXPECT_TRUE(pair.carry(100'000));
  EXPECT_EQ(minimum_rto_of(pair.near), 200'000);
}

TEST_F(Bpf, IsGoneWithItsOwnerButConnectionsGoOn) {
  if (!available) GTEST_SKIP() << why;
  for (const bool link : {true, false}) {
    auto owner = BpfBrutal::load({.link = link});
    ASSERT_TRUE(owner) << owner.error().message;
    const auto control = make({});
    const Pair pair(*control);
    const Pair later(*control);
    ASSERT_TRUE((*owner)->set_target(pair.near, 100'000'000));
    const std::string name = (*owner)->name();
    ASSERT_EQ(setsockopt(pair.near, IPPROTO_TCP, TCP_CONGESTION, name.data(), static_cast<socklen_t>(name.size())), 0);
    EXPECT_TRUE(pair.carry(1'000'000));
    EXPECT_TRUE((*owner)->figures(pair.near));
    owner->reset();
    EXPECT_NE(setsockopt(later.near, IPPROTO_TCP, TCP_CONGESTION, name.data(), static_cast<socklen_t>(name.size())), 0);
    EXPECT_TRUE(pair.carry(1'000'000)) << "link " << link;
  }
}

TEST_F(Bpf, LeftoversOfDeadProcessesAreRemoved) {
  if (!available) GTEST_SKIP() << why;
  std::array<int, 2> pipe_ends{};
  ASSERT_EQ(pipe(pipe_ends.data()), 0);
  const pid_t child = fork();
  if (child == 0) {
    auto owner = BpfBrutal::load({.link = false});
    const std::string name = owner ? (*owner)->name() : "";
    const bool told = write(pipe_ends[1], name.data(), name.size()) == static_cast<ssize_t>(name.size());
    _exit(told ? 0 : 1);  // without its destructors, as if killed
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  close(pipe_ends[1]);
  std::array<char, 32> buffer{};
  const ssize_t n = read(pipe_ends[0], buffer.data(), buffer.size());
  close(pipe_ends[0]);
  ASSERT_EQ(n, 15);
  const std::string name(buffer.data(), 15);
  const auto selectable = [&name] {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    const bool done =
        setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name.data(), static_cast<socklen_t>(name.size())) == 0;
    close(fd);
    return done;
  };
  EXPECT_TRUE(selectable()) << "a registration without a link outlives its process";
  ASSERT_TRUE(BpfBrutal::load());
  EXPECT_FALSE(selectable());
}

}  // namespace
}  // namespace qtrp::pacing
