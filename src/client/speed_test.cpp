// The test's two ends here are a tunnel with one proxy of type "speedtest" and, as its local service, a listener of
// this very process, which reads or writes with all it has.
#include "qtrp/client/speed_test.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cmath>
#include <thread>
#include <vector>

#include "client/link.h"
#include "qtrp/identity/identity.h"
#include "qtrp/io/endpoint.h"
#include "qtrp/io/socket.h"

namespace qtrp::client {
namespace {

constexpr auto kPatience = std::chrono::seconds(15);

// False when nothing happened by `until`.
bool await(int fd, short events, TimePoint until) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now()).count();
  pollfd waiting{fd, events, 0};
  return left > 0 && ::poll(&waiting, 1, static_cast<int>(left)) > 0;
}

struct LocalService {
  io::Fd listener;
  std::uint16_t port = 0;
};

Result<LocalService> listen_here() {
  LocalService service;
  service.listener = io::Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  auto at = io::Endpoint::from_literal("127.0.0.1", 0);
  socklen_t size = io::Endpoint::capacity();
  if (!service.listener || ::bind(service.listener.get(), at->data(), at->size()) != 0 ||
      ::listen(service.listener.get(), 1) != 0 || ::getsockname(service.listener.get(), at->data(), &size) != 0)
    return fail_errno("listen on 127.0.0.1", errno);
  service.port = at->port();
  return service;
}

// A tunnel with one proxy, on a thread of its own.
class Tunnel {
 public:
  Tunnel(std::shared_ptr<const Settings> settings, std::unique_ptr<pacing::TcpControl> tcp,
         std::unique_ptr<io::Loop> loop)
      : loop_(std::move(loop)), shared_(std::move(settings)) {
    identity::random_bytes(shared_.instance);  // not the running client's, or the server would move its ports here
    identity::random_bytes(shared_.run);
    shared_.tcp = std::move(tcp);
    shared_.target = std::make_shared<pacing::TargetShare>(0);
    link_ = std::make_unique<Link>(shared_, *loop_, 0);
    thread_ = std::thread([this] {
      link_->begin();
      loop_->run();
    });
  }
  ~Tunnel() {
    loop_->stop();
    thread_.join();
    link_.reset();
  }
  Tunnel(const Tunnel&) = delete;
  Tunnel& operator=(const Tunnel&) = delete;

 private:
  std::unique_ptr<io::Loop> loop_;
  Shared shared_;  // its resolvers end before the loop that they answer on
  std::unique_ptr<Link> link_;
  std::thread thread_;
};

struct Mark {
  TimePoint at;
  double bytes = 0;
};

double mbps(const Mark& from, const Mark& to) {
  const double seconds = std::chrono::duration<double>(to.at - from.at).count();
  return seconds > 0 ? (to.bytes - from.bytes) * 8 / seconds / 1e6 : 0;
}

std::unexpected<Error> cut_off() {
  return fail(ErrorKind::closed, "the tunnel was lost during the test");
}

Result<double> read_all(int fd, const SpeedTest& test) {
  std::vector<std::byte> room(256 << 10);
  const TimePoint begin = Clock::now();
  Mark first, last{begin, 0};
  double bytes = 0;
  while (last.at < begin + test.warm_up + test.measured) {
    if (!await(fd, POLLIN, begin + test.warm_up + test.measured)) break;
    const ssize_t n = ::recv(fd, room.data(), room.size(), 0);
    if (n <= 0) return cut_off();
    bytes += static_cast<double>(n);
    last = {Clock::now(), bytes};
    if (first.bytes == 0 && last.at >= begin + test.warm_up) first = last;
  }
  return first.bytes > 0 ? mbps(first, last) : mbps({begin, 0}, last);
}

// The server tells how much has arrived so far, ten times a second: what counts is between two of its reports.
Result<double> write_all(int fd, const SpeedTest& test) {
  const std::vector<std::byte> room(256 << 10);
  std::array<std::byte, 8> report;
  std::size_t have = 0;
  const TimePoint begin = Clock::now(), end = begin + test.warm_up + test.measured;
  Mark first, last{begin, 0};
  while (last.at < end) {
    if (!await(fd, POLLIN | POLLOUT, end)) break;
    const ssize_t sent = ::send(fd, room.data(), room.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) return cut_off();
    if (sent < 0 && !await(fd, POLLIN | POLLOUT, end)) break;
    const ssize_t n = ::recv(fd, report.data() + have, report.size() - have, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN)) return cut_off();
    if (n > 0) have += static_cast<std::size_t>(n);
    if (have < report.size()) {
      if (Clock::now() >= end) break;
      continue;
    }
    have = 0;
    last = {Clock::now(), static_cast<double>(load_be<std::uint64_t>(report.data()))};
    if (first.bytes == 0 && last.at >= begin + test.warm_up) first = last;
  }
  return first.bytes > 0 ? mbps(first, last) : mbps({begin, 0}, last);
}

Result<double> measure(config::ClientConfig config, const std::string& direction, const SpeedTest& test) {
  auto service = listen_here();
  if (!service) return std::unexpected(service.error());
  config::Proxy proxy;
  proxy.name = direction;
  proxy.type = "speedtest";
  proxy.local = {"127.0.0.1", service->port};
  config.proxies = {proxy};
  auto settings = make_settings(config, nullptr);
  if (!settings) return std::unexpected(settings.error());
  auto tcp = pacing::TcpControl::create({"auto", config.tcp.congestion, config.tcp.buffer, false});
  if (!tcp) return std::unexpected(tcp.error());
  const Tunnel tunnel(std::move(*settings), std::move(*tcp),
                      config.transport == config::Transport::net ? io::make_asio_loop() : io::make_epoll_loop());
  if (!await(service->listener.get(), POLLIN, Clock::now() + kPatience)) {
    return fail(ErrorKind::timeout,
                "the server gave no stream for the test within 15 s; the lines above say why (a server of an earlier "
                "version does not know speed tests)");
  }
  const io::Fd stream(::accept4(service->listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!stream) return fail_errno("accept the test's stream", errno);
  return direction == "download" ? read_all(stream.get(), test) : write_all(stream.get(), test);
}

}  // namespace

Result<Speed> measure_speed(const config::ClientConfig& wanted, const SpeedTest& test) {
  config::ClientConfig config = wanted;
  config.brutal.enabled = false;
  config.tunnels = 1;
  config.pool = 0;
  config.log.access.clear();
  Speed speed;
  for (const auto& [direction, mbps] : {std::pair{"download", &speed.download_mbps}, {"upload", &speed.upload_mbps}}) {
    auto measured = measure(config, direction, test);
    if (!measured) return std::unexpected(measured.error());
    *mbps = *measured;
  }
  return speed;
}

std::string suggest(const Speed& speed) {
  const auto line = [](double mbps) {
    const double target = mbps * 0.9;
    return fmt::format("brutal: {{enabled: true, target_mbps: {}}}",
                       target >= 10 ? fmt::format("{:.0f}", std::floor(target)) : fmt::format("{:.1f}", target));
  };
  return fmt::format("server.yaml:  {}\nclient.yaml:  {}\n", line(speed.download_mbps), line(speed.upload_mbps));
}

}  // namespace qtrp::client
