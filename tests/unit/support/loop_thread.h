// A loop on its own thread for tests: the test's thread asks and waits, with a deadline, and everything that belongs to
// the loop happens there.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <future>
#include <string>
#include <thread>
#include <type_traits>

#include "qtrp/io/loop.h"
#include "qtrp/io/socket.h"

namespace qtrp::test {

inline constexpr auto kDeadline = std::chrono::seconds(30);

class LoopThread {
 public:
  /// "net" or "epoll".
  explicit LoopThread(const std::string& engine)
      : loop_(engine == "net" ? io::make_asio_loop() : io::make_epoll_loop()), thread_([this] { loop_->run(); }) {}
  ~LoopThread() { stop(); }
  LoopThread(const LoopThread&) = delete;
  LoopThread& operator=(const LoopThread&) = delete;

  io::Loop& operator*() { return *loop_; }
  void stop() {
    loop_->stop();
    if (thread_.joinable()) thread_.join();
  }

  /// Does `work` on the loop and gives its result.
  template <typename F>
  auto call(F work) -> std::invoke_result_t<F> {
    std::packaged_task<std::invoke_result_t<F>()> task(std::move(work));
    auto result = task.get_future();
    loop_->post([&task] { task(); });
    if (result.wait_for(kDeadline) != std::future_status::ready) {
      ADD_FAILURE() << "the loop hangs";
      std::abort();  // the task points into this frame
    }
    return result.get();
  }

  /// Waits until `condition`, looked at on the loop, holds; false, and a failure, if it never does.
  template <typename F>
  bool await(const char* what, F condition) {
    const auto until = Clock::now() + kDeadline;
    std::promise<bool> done;
    std::function<void()> look = [&] {
      if (condition()) return done.set_value(true);
      if (Clock::now() > until) return done.set_value(false);
      loop_->after(std::chrono::milliseconds(1), [&look] { look(); });
    };
    loop_->post([&look] { look(); });
    const bool held = done.get_future().get();
    EXPECT_TRUE(held) << "never: " << what;
    return held;
  }

 private:
  std::unique_ptr<io::Loop> loop_;
  std::thread thread_;
};

/// Both ends of a TCP connection over loopback, non-blocking.
inline std::pair<io::Fd, io::Fd> tcp_pair() {
  const io::Fd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof at;
  EXPECT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&at), sizeof at), 0);
  EXPECT_EQ(::listen(listener.get(), 1), 0);
  EXPECT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&at), &size), 0);
  io::Fd a(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(::connect(a.get(), reinterpret_cast<sockaddr*>(&at), sizeof at), 0);
  io::Fd b(::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  EXPECT_TRUE(b);
  EXPECT_EQ(::fcntl(a.get(), F_SETFL, O_NONBLOCK), 0);
  return {std::move(a), std::move(b)};
}

inline void make_blocking(int fd) {
  EXPECT_EQ(::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) & ~O_NONBLOCK), 0);
  const timeval limit{30, 0};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}
/// The connection ends with RST, not FIN.
inline void close_with_reset(io::Fd fd) {
  const linger now{1, 0};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
}
inline bool send_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::send(fd, text.data(), text.size(), MSG_NOSIGNAL);
    if (n <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}
/// What a blocking socket still brings; `end` is 0 for a FIN, else the errno.
struct Received {
  std::string text;
  int end = 0;
};
inline Received receive_all(int fd, std::size_t limit = SIZE_MAX) {
  Received got;
  char buffer[65536];
  while (got.text.size() < limit) {
    const ssize_t n = ::recv(fd, buffer, std::min(sizeof buffer, limit - got.text.size()), 0);
    if (n == 0) return got;
    if (n < 0) {
      got.end = errno;
      return got;
    }
    got.text.append(buffer, static_cast<std::size_t>(n));
  }
  return got;
}

/// Bytes that show any loss, repetition or mix-up.
inline std::string pattern(std::uint32_t seed, std::size_t size) {
  std::string text(size, '\0');
  std::uint32_t state = seed * 2654435761U + 1;
  for (char& c : text) {
    state = state * 1664525U + 1013904223U;
    c = static_cast<char>(state >> 24);
  }
  return text;
}

}  // namespace qtrp::test
