#include "namespaces.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <vector>

namespace qtrp::testlink {
namespace {

Result<void> ip(std::vector<std::string> arguments) {
  std::vector<char*> argv{const_cast<char*>("ip")};
  std::string text = "ip";
  for (auto& argument : arguments) {
    argv.push_back(argument.data());
    text += " " + argument;
  }
  argv.push_back(nullptr);
  pid_t child = 0;
  if (const int error = posix_spawnp(&child, "ip", nullptr, nullptr, argv.data(), environ); error != 0) {
    return fail_errno("run ip (package iproute2)", error);
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) return fail(ErrorKind::system, text + ": failed");
  return {};
}

const std::filesystem::path kNamedNamespaces = "/run/netns";

// "qtrp-<pid>-a" of a process that is no more.
void remove_leftovers() {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(kNamedNamespaces, ignored)) {
    const std::string name = entry.path().filename();
    long pid = 0;
    char side = 0;
    if (std::sscanf(name.c_str(), "qtrp-%ld-%c", &pid, &side) != 2 || pid <= 0) continue;
    if (kill(static_cast<pid_t>(pid), 0) == 0 || errno != ESRCH) continue;
    (void)ip({"netns", "delete", name});
  }
}

Result<int> open_tun_inside(const std::string& name) {
  const int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  const int there = open((kNamedNamespaces / name).c_str(), O_RDONLY | O_CLOEXEC);
  Result<int> result = -1;
  if (home < 0 || there < 0 || setns(there, CLONE_NEWNET) != 0) {
    result = fail_errno("enter network namespace " + name, errno);
  } else {
    const int tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    ifreq request{};
    std::strncpy(request.ifr_name, "link0", IFNAMSIZ - 1);
    request.ifr_flags = IFF_TUN | IFF_NO_PI;
    if (tun < 0) {
      result = fail_errno("open /dev/net/tun", errno);
    } else if (ioctl(tun, TUNSETIFF, &request) != 0) {
      result = fail_errno("make a TUN device", errno);
      close(tun);
    } else {
      result = tun;
    }
    if (setns(home, CLONE_NEWNET) != 0) std::abort();
  }
  if (home >= 0) close(home);
  if (there >= 0) close(there);
  return result;
}

Result<void> set_up(Side& side, unsigned mtu) {
  if (auto done = ip({"netns", "add", side.name}); !done) return done;
  auto tun = open_tun_inside(side.name);
  if (!tun) return std::unexpected(tun.error());
  side.tun = *tun;
  // A long transmit queue, because packets are to be dropped by the model and nowhere else.
  for (std::vector<std::string> command :
       {std::vector<std::string>{"link", "set", "lo", "up"},
        {"address", "add", side.address + "/24", "dev", "link0"},
        {"-6", "address", "add", side.address6 + "/64", "dev", "link0", "nodad"},
        {"link", "set", "link0", "mtu", std::to_string(mtu), "txqueuelen", "20000", "up"}}) {
    command.insert(command.begin(), {"-n", side.name});
    if (auto done = ip(command); !done) return done;
  }
  return {};
}

}  // namespace

Result<Namespaces> Namespaces::create(unsigned mtu) {
  if (geteuid() != 0) return fail(ErrorKind::denied, "network namespaces and TUN devices need root");
  remove_leftovers();
  Namespaces made;
  for (std::size_t i = 0; i < 2; ++i) {
    Side& side = made.sides[i];
    side.name = fmt::format("qtrp-{}-{}", getpid(), i == 0 ? 'a' : 'b');
    side.address = fmt::format("10.77.0.{}", i + 1);
    side.address6 = fmt::format("fd77::{}", i + 1);
    if (auto done = set_up(side, mtu); !done) return std::unexpected(done.error());
  }
  return made;
}

Namespaces::Namespaces(Namespaces&& other) noexcept : sides(std::move(other.sides)) {
  other.owner_ = false;
}

Namespaces::~Namespaces() {
  if (!owner_) return;
  for (Side& side : sides) {
    if (side.tun >= 0) close(side.tun);
    std::error_code ignored;
    if (!side.name.empty() && std::filesystem::exists(kNamedNamespaces / side.name, ignored)) {
      (void)ip({"netns", "delete", side.name});
    }
  }
}

}  // namespace qtrp::testlink
