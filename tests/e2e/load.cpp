// qtrp-load: thousands of TCP users at once, each with a text of its own that must come back, and the service that
// sends it back. For the load tests and the soak; both run until done or told to stop by SIGTERM.
//   qtrp-load serve                     an echo on a free port of 127.0.0.1; prints the port
//   qtrp-load hold PORT N BYTES ROUNDS  opens N connections, then all exchange BYTES bytes ROUNDS times, then
//   half-close qtrp-load churn PORT N BYTES AT     N connections one after another, AT at a time; every tenth ends with
//   a reset
// Users come from 127.0.0.2 to 127.0.0.5, since one address has some 28,000 ports. The result is a line of JSON.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "qtrp/io/socket.h"

namespace {

using Clock = std::chrono::steady_clock;
using qtrp::io::Fd;

constexpr auto kPatience = std::chrono::seconds(60);  // without any progress at all
constexpr std::size_t kConnecting = 256;              // at a time

sockaddr_in loopback(std::uint8_t last, std::uint16_t port) {
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_port = htons(port);
  at.sin_addr.s_addr = htonl(0x7f000000U | last);
  return at;
}

[[noreturn]] void die(const char* what) {
  std::fprintf(stderr, "qtrp-load: %s: %s\n", what, std::strerror(errno));
  std::exit(1);
}

char letter(std::uint64_t seed, std::uint64_t offset) {
  return static_cast<char>((seed * 0x9e3779b97f4a7c15U + offset * 31 + offset / 251) >> 3);
}

class Epoll {
 public:
  Epoll() : fd_(::epoll_create1(EPOLL_CLOEXEC)) {}
  void add(int fd, std::uint32_t events, void* what) { control(EPOLL_CTL_ADD, fd, events, what); }
  void change(int fd, std::uint32_t events, void* what) { control(EPOLL_CTL_MOD, fd, events, what); }
  int wait(std::array<epoll_event, 512>& events, int ms) {
    return ::epoll_wait(fd_.get(), events.data(), static_cast<int>(events.size()), ms);
  }

 private:
  void control(int operation, int fd, std::uint32_t events, void* what) {
    epoll_event event{};
    event.events = events;
    event.data.ptr = what;
    if (::epoll_ctl(fd_.get(), operation, fd, &event) != 0) die("epoll_ctl");
  }
  Fd fd_;
};

// --- the service ---

struct Echo {
  Fd fd;
  std::string back;  // not yet taken
};

// False when it is over.
bool serve(Echo& echo, Epoll& epoll) {
  static std::array<char, 1 << 16> buffer;
  for (;;) {
    if (!echo.back.empty()) {
      const ssize_t n = ::send(echo.fd.get(), echo.back.data(), echo.back.size(), MSG_NOSIGNAL);
      if (n < 0 && errno != EAGAIN) return false;
      if (n > 0) echo.back.erase(0, static_cast<std::size_t>(n));
      if (!echo.back.empty()) {
        epoll.change(echo.fd.get(), EPOLLOUT, &echo);
        return true;
      }
      epoll.change(echo.fd.get(), EPOLLIN, &echo);
    }
    const ssize_t n = ::recv(echo.fd.get(), buffer.data(), buffer.size(), 0);
    if (n < 0) return errno == EAGAIN;
    if (n == 0) return false;  // closing says FIN
    const ssize_t sent = ::send(echo.fd.get(), buffer.data(), static_cast<std::size_t>(n), MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) return false;
    const auto done = static_cast<std::size_t>(std::max<ssize_t>(sent, 0));
    echo.back.assign(buffer.data() + done, static_cast<std::size_t>(n) - done);
  }
}

int run_service() {
  const Fd listener(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  sockaddr_in at = loopback(1, 0);
  socklen_t size = sizeof at;
  if (::bind(listener.get(), reinterpret_cast<sockaddr*>(&at), sizeof at) != 0 || ::listen(listener.get(), 4096) != 0 ||
      ::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&at), &size) != 0)
    die("listen");
  std::printf("%u\n", static_cast<unsigned>(ntohs(at.sin_port)));
  std::fflush(stdout);
  Epoll epoll;
  epoll.add(listener.get(), EPOLLIN, nullptr);
  std::array<epoll_event, 512> events;
  for (;;) {
    const int n = epoll.wait(events, -1);
    for (int i = 0; i < n; ++i) {
      auto* echo = static_cast<Echo*>(events[static_cast<std::size_t>(i)].data.ptr);
      if (echo) {
        if (!serve(*echo, epoll)) delete echo;
        continue;
      }
      for (int fd; (fd = ::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        auto made = std::make_unique<Echo>();
        made->fd = Fd(fd);
        epoll.add(fd, EPOLLIN, made.get());
        made.release();  // its own events end it
      }
    }
  }
}

// --- the users ---

struct User {
  enum class State : std::uint8_t { none, connecting, idle, exchanging, ending, over };
  Fd fd;
  State state = State::none;
  std::uint64_t seed = 0, sent = 0, received = 0, goal = 0;
  Clock::time_point begun;
};

class Users {
 public:
  Users(std::uint16_t port, std::size_t count) : port_(port), all_(count) {}

  // Opens all, then all talk at once, `rounds` times, then all half-close and wait for the end.
  void hold(std::uint64_t bytes, unsigned rounds) {
    begin_ = Clock::now();
    std::size_t next = 0;
    while (idle_ + failed_ < all_.size()) {
      while (next < all_.size() && connecting_ < kConnecting) open(next++);
      turn();
    }
    opened_seconds_ = seconds();
    for (unsigned round = 0; round < rounds; ++round) {
      for (User& user : all_) say(user, bytes);
      while (exchanging_ > 0) turn();
    }
    for (User& user : all_) end(user);
    while (ending_ > 0) turn();
    report();
  }

  void churn(std::uint64_t bytes, std::size_t at_once) {
    begin_ = Clock::now();
    std::size_t next = 0;
    while (over_ + failed_ < all_.size()) {
      while (next < all_.size() && next - over_ - failed_ < at_once && connecting_ < kConnecting) open(next++);
      turn();
      for (User* user : arrived_) say(*user, bytes);
      arrived_.clear();
      for (User* user : answered_) {
        if (user->seed % 10 == 0) {
          const linger now{1, 0};
          ::setsockopt(user->fd.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
          done(*user);
        } else {
          end(*user);
        }
      }
      answered_.clear();
    }
    report();
  }

  bool good() const { return failed_ == 0 && wrong_ == 0; }

 private:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - begin_).count(); }

  void open(std::size_t number) {
    User& user = all_[number];
    user.seed = number + 1;
    user.begun = Clock::now();
    user.fd = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!user.fd) die("socket");
    const int on = 1;
    ::setsockopt(user.fd.get(), IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    ::setsockopt(user.fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    const sockaddr_in from = loopback(static_cast<std::uint8_t>(2 + number % 4), 0), to = loopback(1, port_);
    if (::bind(user.fd.get(), reinterpret_cast<const sockaddr*>(&from), sizeof from) != 0) die("bind");
    if (::connect(user.fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0 && errno != EINPROGRESS)
      die("connect");
    user.state = User::State::connecting;
    ++connecting_;
    epoll_.add(user.fd.get(), EPOLLOUT, &user);
  }

  void turn() {
    std::array<epoll_event, 512> events;
    const int n = epoll_.wait(events, 1000);
    if (n > 0) progress_ = Clock::now();
    if (Clock::now() - progress_ > kPatience) {
      std::fprintf(stderr, "qtrp-load: nothing happens: %zu connecting, %zu idle, %zu exchanging, %zu ending\n",
                   connecting_, idle_, exchanging_, ending_);
      std::exit(1);
    }
    for (int i = 0; i < n; ++i) work(*static_cast<User*>(events[static_cast<std::size_t>(i)].data.ptr));
  }

  void work(User& user) {
    switch (user.state) {
      case User::State::connecting: {
        int error = 0;
        socklen_t size = sizeof error;
        ::getsockopt(user.fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
        --connecting_;
        if (error != 0) return fail(user, std::strerror(error));
        user.state = User::State::idle;
        ++idle_;
        epoll_.change(user.fd.get(), EPOLLIN, &user);
        arrived_.push_back(&user);
        return;
      }
      case User::State::exchanging:
        if (!write_some(user)) return;
        return read_some(user);
      case User::State::idle:
      case User::State::ending: return read_some(user);
      default: return;
    }
  }

  void say(User& user, std::uint64_t bytes) {
    if (user.state != User::State::idle) return;
    user.state = User::State::exchanging;
    --idle_;
    ++exchanging_;
    user.goal += bytes;
    user.begun = Clock::now();
    write_some(user);
  }

  bool write_some(User& user) {
    static std::array<char, 1 << 16> buffer;
    while (user.sent < user.goal) {
      const std::size_t n = std::min<std::uint64_t>(buffer.size(), user.goal - user.sent);
      for (std::size_t i = 0; i < n; ++i) buffer[i] = letter(user.seed, user.sent + i);
      const ssize_t r = ::send(user.fd.get(), buffer.data(), n, MSG_NOSIGNAL);
      if (r < 0 && errno == EAGAIN) {
        epoll_.change(user.fd.get(), EPOLLIN | EPOLLOUT, &user);
        return true;
      }
      if (r < 0) {
        fail(user, std::strerror(errno));
        return false;
      }
      user.sent += static_cast<std::uint64_t>(r);
      if (user.sent == user.goal) epoll_.change(user.fd.get(), EPOLLIN, &user);
    }
    return true;
  }

  void read_some(User& user) {
    static std::array<char, 1 << 16> buffer;
    for (;;) {
      const ssize_t r = ::recv(user.fd.get(), buffer.data(), buffer.size(), 0);
      if (r < 0 && errno == EAGAIN) return;
      if (r < 0) return fail(user, std::strerror(errno));
      if (r == 0) {
        if (user.state == User::State::ending) return done(user);
        return fail(user, "ended early");
      }
      for (ssize_t i = 0; i < r; ++i) {
        if (buffer[static_cast<std::size_t>(i)] != letter(user.seed, user.received + static_cast<std::uint64_t>(i))) {
          ++wrong_;
          return fail(user, "another byte came back than was sent");
        }
      }
      user.received += static_cast<std::uint64_t>(r);
      bytes_ += static_cast<std::uint64_t>(r);
      if (user.received > user.goal) return fail(user, "more came back than was sent");
      if (user.state == User::State::exchanging && user.received == user.goal) {
        latencies_.push_back(std::chrono::duration<double, std::milli>(Clock::now() - user.begun).count());
        user.state = User::State::idle;
        --exchanging_;
        ++idle_;
        answered_.push_back(&user);
        return;
      }
    }
  }

  void end(User& user) {
    if (user.state != User::State::idle) return;
    user.state = User::State::ending;
    --idle_;
    ++ending_;
    ::shutdown(user.fd.get(), SHUT_WR);
  }

  void leave(User& user) {
    switch (user.state) {
      case User::State::idle: --idle_; break;
      case User::State::exchanging: --exchanging_; break;
      case User::State::ending: --ending_; break;
      default: break;
    }
    user.state = User::State::over;
    user.fd.reset();
  }
  void done(User& user) {
    leave(user);
    ++over_;
  }
  void fail(User& user, const char* why) {
    if (failed_++ < 5)
      std::fprintf(stderr, "qtrp-load: user %llu: %s\n", static_cast<unsigned long long>(user.seed), why);
    leave(user);
  }

  void report() {
    std::ranges::sort(latencies_);
    const auto at = [&](double part) {
      if (latencies_.empty()) return 0.0;
      return latencies_[static_cast<std::size_t>(part * static_cast<double>(latencies_.size() - 1))];
    };
    std::printf(
        "{\"users\": %zu, \"completed\": %zu, \"failed\": %zu, \"wrong\": %zu, \"bytes\": %llu, \"opened_seconds\": "
        "%.2f, "
        "\"seconds\": %.2f, \"p50_ms\": %.2f, \"p99_ms\": %.2f}\n",
        all_.size(), over_, failed_, wrong_, static_cast<unsigned long long>(bytes_), opened_seconds_, seconds(),
        at(0.5), at(0.99));
  }

  const std::uint16_t port_;
  Epoll epoll_;
  std::vector<User> all_;
  std::vector<User*> arrived_, answered_;
  std::vector<double> latencies_;  // ms
  std::size_t connecting_ = 0, idle_ = 0, exchanging_ = 0, ending_ = 0, over_ = 0, failed_ = 0, wrong_ = 0;
  std::uint64_t bytes_ = 0;
  double opened_seconds_ = 0;
  Clock::time_point begin_, progress_ = Clock::now();
};

}  // namespace

int main(int argc, char** argv) {
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
  const std::vector<std::string_view> arguments(argv + 1, argv + argc);
  if (arguments.size() == 1 && arguments[0] == "serve") return run_service();
  if (arguments.size() != 5 || (arguments[0] != "hold" && arguments[0] != "churn")) {
    std::fprintf(stderr, "usage: qtrp-load serve | hold PORT N BYTES ROUNDS | churn PORT N BYTES AT_A_TIME\n");
    return 2;
  }
  const auto number = [&](std::size_t i) { return std::strtoull(arguments[i].data(), nullptr, 10); };
  Users users(static_cast<std::uint16_t>(number(1)), number(2));
  if (arguments[0] == "hold") {
    users.hold(number(3), static_cast<unsigned>(number(4)));
  } else {
    users.churn(number(3), number(4));
  }
  return users.good() ? 0 : 1;
}
