// qtrp-stream: one TCP stream as a tunnel's socket would carry it, with nothing of the tunnel: what the pacing room
// gives by itself.
//   qtrp-stream receive                                  prints its port, takes one connection, prints what arrived
//   (JSON) qtrp-stream send HOST PORT SECONDS TARGET_MBPS MODE [CONGESTION]   MODE as brutal.mode; TARGET_MBPS 0 is the
//   base controller
// A line "target MBPS" on the sender's stdin changes the target.
#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "qtrp/pacing/tcp.h"

namespace qtrp {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

int die(const std::string& what) {
  std::fprintf(stderr, "qtrp-stream: %s\n", what.c_str());
  return 1;
}

int receive() {
  auto control = pacing::TcpControl::create({});
  if (!control) return die(control.error().message);
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  (*control)->prepare_listener(listener);
  sockaddr_in address{.sin_family = AF_INET, .sin_port = 0, .sin_addr = {htonl(INADDR_ANY)}, .sin_zero = {}};
  socklen_t size = sizeof address;
  if (bind(listener, reinterpret_cast<sockaddr*>(&address), size) != 0 || listen(listener, 1) != 0 ||
      getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    return die("cannot listen");
  }
  fmt::print("{}\n", ntohs(address.sin_port));
  std::fflush(stdout);
  const int fd = accept(listener, nullptr, nullptr);
  if (fd < 0) return die("accept failed");

  constexpr auto kBin = milliseconds(20);
  std::vector<std::uint64_t> bins;  // bytes of each kBin since the first byte
  std::vector<char> buffer(1 << 20);
  TimePoint first{}, last{};
  std::uint64_t total = 0;
  for (;;) {
    const ssize_t n = recv(fd, buffer.data(), buffer.size(), 0);
    if (n <= 0) break;
    last = Clock::now();
    if (total == 0) first = last;
    total += static_cast<std::uint64_t>(n);
    const auto bin = static_cast<std::size_t>((last - first) / kBin);
    if (bins.size() <= bin) bins.resize(bin + 1);
    bins[bin] += static_cast<std::uint64_t>(n);
  }
  const std::size_t a_second = static_cast<std::size_t>(seconds(1) / kBin);
  std::uint64_t window = 0, most = 0, steady = 0;
  for (std::size_t i = 0; i < bins.size(); ++i) {
    window += bins[i];
    if (i >= a_second) window -= bins[i - a_second];
    most = std::max(most, window);
    if (i >= 2 * a_second) steady += bins[i];
  }
  const double elapsed = std::chrono::duration<double>(last - first).count();
  const auto mbps = [](std::uint64_t bytes, double time) {
    return time > 0 ? static_cast<double>(bytes) * 8e-6 / time : 0.0;
  };
  fmt::print(
      R"({{"bytes": {}, "seconds": {:.3f}, "mbps": {:.2f}, "steady_mbps": {:.2f}, "most_in_a_second_mbps": {:.2f}}})"
      "\n",
      total, elapsed, mbps(total, elapsed), mbps(steady, elapsed - 2), mbps(most, 1));
  return 0;
}

double number(const char* text) {
  return std::strtod(text, nullptr);
}

int send(int argc, char** argv) {
  if (argc < 7) return die("usage: send HOST PORT SECONDS TARGET_MBPS MODE [CONGESTION]");
  const auto bits = [](double mbps) { return static_cast<std::uint64_t>(mbps * 1e6); };
  std::uint64_t target = bits(number(argv[5]));
  auto made =
      pacing::TcpControl::create({.mode = argv[6], .congestion = argc > 7 ? argv[7] : "", .brutal = target != 0});
  if (!made) return die(made.error().message);
  pacing::TcpControl& control = **made;
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  control.prepare_connect(fd);
  sockaddr_in address{.sin_family = AF_INET,
                      .sin_port = htons(static_cast<std::uint16_t>(number(argv[3]))),
                      .sin_addr = {},
                      .sin_zero = {}};
  inet_pton(AF_INET, argv[2], &address.sin_addr);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return die("cannot connect");
  fcntl(fd, F_SETFL, O_NONBLOCK);
  fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK);

  pacing::TunnelPacing tunnel(control);
  const TimePoint start = Clock::now();
  const TimePoint end = start + std::chrono::duration_cast<Duration>(std::chrono::duration<double>(number(argv[4])));
  tunnel.set_target(target, start);
  tunnel.apply(fd, start);
  const std::vector<char> payload(1 << 20);
  TimePoint sampled = start;
  for (TimePoint now = start; now < end; now = Clock::now()) {
    if (now - sampled >= pacing::TunnelPacing::kSampleInterval) {
      tunnel.sample(now);
      sampled = now;
      std::array<char, 64> line{};
      double mbps = 0;
      if (read(STDIN_FILENO, line.data(), line.size() - 1) > 0 && std::sscanf(line.data(), "target %lf", &mbps) == 1) {
        tunnel.set_target(target = bits(mbps), now);
      }
    }
    const std::uint64_t allowed = std::min<std::uint64_t>(tunnel.allowance(now), payload.size());
    if (allowed == 0) {
      const Duration wait = std::min(tunnel.next_time(now), sampled + pacing::TunnelPacing::kSampleInterval) - now;
      const timespec time{.tv_sec = 0, .tv_nsec = std::clamp<std::int64_t>(wait.count(), 0, 999'999'999)};
      ppoll(nullptr, 0, &time, nullptr);
      continue;
    }
    const ssize_t n = ::send(fd, payload.data(), allowed, MSG_NOSIGNAL);
    if (n > 0) {
      tunnel.sent(static_cast<std::uint64_t>(n), now);
    } else if (errno == EAGAIN) {
      pollfd ready{.fd = fd, .events = POLLOUT, .revents = 0};
      poll(&ready, 1, 50);
    } else {
      return die(fmt::format("send: {}", strerror(errno)));
    }
  }
  const auto& sample = tunnel.sample(Clock::now());
  int send_buffer = 0;
  socklen_t size = sizeof send_buffer;
  getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_buffer, &size);
  fmt::print(
      R"({{"runs": "{}", "control": "{}", "rtt_ms": {:.2f}, "min_rtt_ms": {:.2f}, "ack_rate": {:.4f}, "retransmitted_bytes": {}, )"
      R"("rate_mbps": {:.2f}, "delivery_rate_mbps": {:.2f}, "unsent_bytes": {}, "send_buffer": {}}})"
      "\n",
      tunnel.describe(), control.describe(), std::chrono::duration<double, std::milli>(sample.rtt).count(),
      std::chrono::duration<double, std::milli>(sample.min_rtt).count(), sample.ack_rate, sample.retransmitted_bytes,
      static_cast<double>(sample.rate_bps) * 1e-6, static_cast<double>(sample.delivery_rate_bps) * 1e-6,
      sample.unsent_bytes, send_buffer);
  const linger discard{.l_onoff = 1, .l_linger = 0};  // what is still in flight doesn't count
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &discard, sizeof discard);
  close(fd);
  return 0;
}

}  // namespace
}  // namespace qtrp

int main(int argc, char** argv) {
  const std::string_view what = argc > 1 ? argv[1] : "";
  if (what == "receive") return qtrp::receive();
  if (what == "send") return qtrp::send(argc, argv);
  return qtrp::die("usage: qtrp-stream receive | send HOST PORT SECONDS TARGET_MBPS MODE [CONGESTION]");
}
