// A command's way to the running daemon, both ends in one process.
#include "qtrp/base/control_socket.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <future>

#include "qtrp/base/signals.h"

namespace qtrp {
namespace {

using namespace std::chrono_literals;

class ControlSocketTest : public testing::Test {
 protected:
  ControlSocketTest() {
    char name[] = "/tmp/qtrp-control-XXXXXX";
    base = ::mkdtemp(name);
    // Longer than a socket's path may be.
    directory = base / std::string(120, 'd');
  }
  ~ControlSocketTest() override { std::filesystem::remove_all(base); }
  static bool await_caller(const ControlSocket& socket) {
    pollfd p{socket.fd(), POLLIN, 0};
    return ::poll(&p, 1, 20'000) == 1;
  }
  std::filesystem::path base, directory;
};

TEST_F(ControlSocketTest, CarriesALineThereAndATextBack) {
  auto socket = ControlSocket::listen(directory, "server.sock");
  ASSERT_TRUE(socket) << socket.error().message;
  auto answer = std::async([&] { return ask_control_socket(directory, "server.sock", "reload", 20s); });
  ASSERT_TRUE(await_caller(**socket));
  std::string asked;
  (*socket)->serve([&](std::string_view request) {
    asked = request;
    return "done\n" + std::string(1 << 20, 'x');
  });
  const auto got = answer.get();
  ASSERT_TRUE(got) << got.error().message;
  EXPECT_EQ(asked, "reload");
  EXPECT_EQ(got->size(), 5U + (1 << 20));
}

TEST_F(ControlSocketTest, IsForItsOwnUserAlone) {
  auto socket = ControlSocket::listen(directory, "server.sock");
  ASSERT_TRUE(socket);
  struct stat status{};
  ASSERT_EQ(::stat((directory / "server.sock").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777U, 0600U);
  ASSERT_EQ(::stat(directory.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777U, 0700U);
}

TEST_F(ControlSocketTest, WithoutADaemonTheCallerIsTold) {
  EXPECT_EQ(ask_control_socket(directory, "server.sock", "reload", 1s).error().kind, ErrorKind::closed);
  {
    const auto socket = ControlSocket::listen(directory, "server.sock");
  }
  EXPECT_FALSE(std::filesystem::exists(directory / "server.sock"));
  EXPECT_EQ(ask_control_socket(directory, "server.sock", "reload", 1s).error().kind, ErrorKind::closed);
}

TEST_F(ControlSocketTest, ADeadDaemonsSocketIsReplacedALivingOnesIsNot) {
  const pid_t child = ::fork();
  if (child == 0) {
    auto socket = ControlSocket::listen(directory, "server.sock");
    ::_exit(socket ? 0 : 1);  // without its destructor
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  ASSERT_TRUE(std::filesystem::exists(directory / "server.sock"));
  const auto first = ControlSocket::listen(directory, "server.sock");
  ASSERT_TRUE(first) << first.error().message;
  const auto second = ControlSocket::listen(directory, "server.sock");
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().kind, ErrorKind::closed);
}

TEST_F(ControlSocketTest, ACallerWhoSaysNothingHoldsItUpForASecondOnly) {
  auto socket = ControlSocket::listen(base, "s");
  ASSERT_TRUE(socket);
  const int mute = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  (base / "s").string().copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::connect(mute, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  const TimePoint begun = Clock::now();
  (*socket)->serve([](std::string_view) -> std::string {
    ADD_FAILURE() << "nothing was asked";
    return "";
  });
  EXPECT_LT(Clock::now() - begun, 10s);
  ::close(mute);
}

TEST_F(ControlSocketTest, ItsNameBelongsToTheFile) {
  const std::string name = control_socket_name("server", base / "server.yaml");
  EXPECT_TRUE(name.starts_with("server-"));
  EXPECT_TRUE(name.ends_with(".sock"));
  EXPECT_EQ(name, control_socket_name("server", base / "." / "server.yaml"));
  EXPECT_NE(name, control_socket_name("server", base / "other.yaml"));
  EXPECT_NE(name, control_socket_name("client", base / "server.yaml"));
}

TEST_F(ControlSocketTest, SignalsWaitsForItAsWell) {
  Signals signals({SIGUSR2});
  auto socket = ControlSocket::listen(directory, "s");
  ASSERT_TRUE(socket);
  signals.watch((*socket)->fd());
  EXPECT_EQ(signals.wait(1ms), Signals::kTimeout);
  auto answer = std::async([&] { return ask_control_socket(directory, "s", "hello", 20s); });
  EXPECT_EQ(signals.wait(20s), Signals::kReadable);
  signals.watch(-1);
  EXPECT_EQ(signals.wait(1ms), Signals::kTimeout);
  (*socket)->serve([](std::string_view) { return std::string("hi"); });
  EXPECT_EQ(answer.get().value_or("nothing"), "hi");
}

}  // namespace
}  // namespace qtrp
