// qtrp-testlink: joins two network namespaces by a link of given delay, rate, queue and loss, over a TUN device in
// each. Commands come on stdin, one a line, each answered by one line; the first line out names the namespaces, the
// last one has the statistics. Ends, and removes the namespaces, on "quit", at the end of stdin, and on SIGTERM, SIGINT
// and SIGHUP.
#include <fmt/format.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <string>
#include <vector>

#include "link_queue.h"
#include "namespaces.h"
#include "settings.h"

namespace qtrp::testlink {
namespace {

// How late a packet may be handed over so that several leave in one go, and how long a busy link sleeps between looks
// at its devices: half a percent of the delay, within these bounds.
constexpr Duration kFinest = std::chrono::microseconds(20), kCoarsest = std::chrono::microseconds(250);
constexpr int kBatch = 512;  // packets read from one side before the other has its turn

constexpr std::string_view kUsage = R"(usage: qtrp-testlink [SETTING...]
  e.g. qtrp-testlink delay=50ms rate=200M queue=100ms loss=1% 'b>a loss=0'
settings: delay reorder_by (us, ms, s; default ms), rate (k, M, G bit/s; default M; 0 unlimited), queue (us, ms, s or B, kB, MB; default ms),
  loss reorder duplicate corrupt (percent), down, stall, up; in front of it a>b or b>a for one direction only; mtu=N at start only.
commands on stdin: the same, and stats, quit. Needs root.
)";

class TestLink {
 public:
  TestLink(Namespaces namespaces, std::uint64_t seed)
      : namespaces_(std::move(namespaces)), directions_{LinkDirection(pool_, seed), LinkDirection(pool_, seed + 1)} {}

  Result<void> set(std::string_view setting) {
    LinkParameters a = directions_[0].parameters(), b = directions_[1].parameters();
    if (auto done = apply(setting, a, b); !done) return done;
    const TimePoint now = Clock::now();
    directions_[0].set(a, now);
    directions_[1].set(b, now);
    granularity_ = std::clamp(std::min(a.delay, b.delay) / 200, kFinest, kCoarsest);
    return {};
  }

  int run(int signals);

 private:
  bool read_from(std::size_t side);
  void deliver(TimePoint now);
  bool command(std::string_view line);
  bool read_commands();
  std::string statistics() const;

  Namespaces namespaces_;
  PacketPool pool_;
  std::array<LinkDirection, 2> directions_;  // [0] is a>b
  Packet spare_;
  std::string commands_;
  std::uint64_t write_errors_ = 0;
  Duration latest_{}, granularity_ = kFinest;
  TimePoint started_ = Clock::now();
};

// True if the side had packets.
bool TestLink::read_from(std::size_t side) {
  const TimePoint now = Clock::now();
  int count = 0;
  for (; count < kBatch; ++count) {
    if (!spare_) spare_ = pool_.take();
    const ssize_t n = read(namespaces_.sides[side].tun, spare_->data, Buffer::kCapacity);
    if (n <= 0) break;
    spare_->size = static_cast<std::uint32_t>(n);
    directions_[side].offer(std::move(spare_), now);
  }
  return count > 0;
}

void TestLink::deliver(TimePoint now) {
  for (std::size_t side = 0; side < 2; ++side) {
    const TimePoint due = directions_[side].next();
    if (due <= now) latest_ = std::max(latest_, now - due);
    while (Packet packet = directions_[side].take(now)) {
      if (write(namespaces_.sides[1 - side].tun, packet->data, packet->size) < 0) ++write_errors_;
      pool_.give_back(std::move(packet));
    }
  }
}

std::string TestLink::statistics() const {
  const auto direction = [](const LinkDirection& d) {
    const LinkCounters& c = d.counters();
    return fmt::format(
        R"({{"packets": {}, "bytes": {}, "delivered_packets": {}, "delivered_bytes": {}, "dropped": {}, "lost": {}, "reordered": {}, )"
        R"("duplicated": {}, "corrupted": {}, "queue_bytes_max": {}}})",
        c.packets, c.bytes, c.delivered_packets, c.delivered_bytes, c.dropped, c.lost, c.reordered, c.duplicated,
        c.corrupted, c.queue_bytes_max);
  };
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const double cpu = static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                     static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
  return fmt::format(
      R"({{"a>b": {}, "b>a": {}, "seconds": {:.3f}, "cpu_seconds": {:.3f}, "latest_us": {}, "write_errors": {}}})",
      direction(directions_[0]), direction(directions_[1]),
      std::chrono::duration<double>(Clock::now() - started_).count(), cpu, latest_.count() / 1000, write_errors_);
}

void say(const std::string& line) {
  std::fputs((line + "\n").c_str(), stdout);
  std::fflush(stdout);
}

// False on quit.
bool TestLink::command(std::string_view line) {
  while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.remove_suffix(1);
  if (line.empty()) return true;
  if (line == "quit") return false;
  if (line == "stats") {
    say(statistics());
  } else if (const auto done = set(line); done) {
    say("ok");
  } else {
    say("error: " + done.error().message);
  }
  return true;
}

bool TestLink::read_commands() {
  std::array<char, 4096> chunk{};
  const ssize_t n = read(STDIN_FILENO, chunk.data(), chunk.size());
  if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return false;
  if (n < 0) return true;
  commands_.append(chunk.data(), static_cast<std::size_t>(n));
  for (std::size_t end = 0; (end = commands_.find('\n')) != std::string::npos; commands_.erase(0, end + 1)) {
    if (!command(std::string_view(commands_).substr(0, end))) return false;
  }
  return true;
}

int TestLink::run(int signals) {
  // Two sets: a busy link looks at its devices by itself every granularity_ and need not be woken for each packet.
  const int control = epoll_create1(EPOLL_CLOEXEC), everything = epoll_create1(EPOLL_CLOEXEC);
  for (const int fd : {STDIN_FILENO, signals, namespaces_.sides[0].tun, namespaces_.sides[1].tun}) {
    epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
    const bool device = fd != STDIN_FILENO && fd != signals;
    if (epoll_ctl(everything, EPOLL_CTL_ADD, fd, &event) != 0 ||
        (!device && epoll_ctl(control, EPOLL_CTL_ADD, fd, &event) != 0)) {
      std::fprintf(stderr, "qtrp-testlink: cannot watch descriptor %d (stdin must be a pipe or terminal)\n", fd);
      return 1;
    }
  }
  const auto side = [](const Side& s) {
    return fmt::format(R"({{"namespace": "{}", "address": "{}", "address6": "{}"}})", s.name, s.address, s.address6);
  };
  say(fmt::format(R"({{"a": {}, "b": {}}})", side(namespaces_.sides[0]), side(namespaces_.sides[1])));

  bool busy = false;
  for (;;) {
    const TimePoint now = Clock::now();
    const TimePoint next = std::min(directions_[0].next(), directions_[1].next());
    Duration wait = std::chrono::hours(1);
    if (next != TimePoint::max()) wait = std::max(next - now, granularity_);
    if (busy) wait = granularity_;
    const timespec timeout{.tv_sec = wait.count() / 1'000'000'000, .tv_nsec = wait.count() % 1'000'000'000};
    std::array<epoll_event, 4> events{};
    const int n =
        epoll_pwait2(busy ? control : everything, events.data(), static_cast<int>(events.size()), &timeout, nullptr);
    for (int i = 0; i < n; ++i) {
      const int fd = events[static_cast<std::size_t>(i)].data.fd;
      if (fd == signals || (fd == STDIN_FILENO && !read_commands())) {
        say(statistics());
        return 0;
      }
    }
    deliver(Clock::now());
    const bool from_a = read_from(0), from_b = read_from(1);
    busy = from_a || from_b;
    deliver(Clock::now());
  }
}

int main(int argc, char** argv) {
  std::vector<std::string> settings(argv + 1, argv + argc);
  unsigned mtu = 1500;
  std::uint64_t seed = 1;
  for (auto it = settings.begin(); it != settings.end();) {
    if (*it == "-h" || *it == "--help") {
      std::fputs(std::string(kUsage).c_str(), stdout);
      return 0;
    }
    if (std::sscanf(it->c_str(), "mtu=%u", &mtu) == 1 || std::sscanf(it->c_str(), "seed=%lu", &seed) == 1) {
      it = settings.erase(it);
    } else {
      ++it;
    }
  }
  if (mtu < 576 || mtu > Buffer::kCapacity) {
    std::fprintf(stderr, "qtrp-testlink: mtu must be from 576 to %zu\n", Buffer::kCapacity);
    return 2;
  }
  sigset_t mask;
  sigemptyset(&mask);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&mask, signal);
  sigprocmask(SIG_BLOCK, &mask, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_TIMERSLACK, 1UL);
  // A link doesn't wait for a processor; and an overloaded one slows its own senders, so nothing starves.
  const sched_param realtime{.sched_priority = 1};
  sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &realtime);
  auto namespaces = Namespaces::create(mtu);
  if (!namespaces) {
    std::fprintf(stderr, "qtrp-testlink: %s\n", namespaces.error().message.c_str());
    return 1;
  }
  TestLink link(std::move(*namespaces), seed);
  for (const auto& setting : settings) {
    if (const auto done = link.set(setting); !done) {
      std::fprintf(stderr, "qtrp-testlink: %s\n%s", done.error().message.c_str(), std::string(kUsage).c_str());
      return 2;
    }
  }
  return link.run(signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK));
}

}  // namespace
}  // namespace qtrp::testlink

int main(int argc, char** argv) {
  return qtrp::testlink::main(argc, argv);
}
