#include "qtrp/client/client.h"

#include <signal.h>

#include <algorithm>
#include <thread>

#include "client/figures.h"
#include "client/link.h"
#include "qtrp/base/log.h"
#include "qtrp/base/signals.h"
#include "qtrp/identity/identity.h"
#include "qtrp/stats/endpoint.h"

namespace qtrp::client {
namespace {

// A loop, its thread, and the tunnels on it.
struct Worker {
  explicit Worker(std::unique_ptr<io::Loop> l) : loop(std::move(l)) {}
  std::unique_ptr<io::Loop> loop;
  std::vector<std::unique_ptr<Link>> links;
  std::thread thread;
};

class Client {
 public:
  Client(const config::ClientConfig& config, Signals& signals)
      : config_(config), signals_(signals), shared_{config, {}, {}, {}, {}, {}, {}, {}, {}, {}} {}

  Result<void> start() {
    const auto directory = identity::state_directory(config_.state_dir);
    shared_.instance = identity::keep_instance_id(directory);
    identity::random_bytes(shared_.run);
    if (config_.crypto == config::Crypto::tls) {
      identity::ServerChecks checks{
          config_.tls.ca, {}, config_.tls.server_name.empty() ? config_.server.host : config_.tls.server_name};
      for (const std::string& text : config_.tls.pins) {
        auto pin = identity::parse_pin(text);
        if (!pin) return std::unexpected(pin.error());
        checks.pins.push_back(*pin);
      }
      shared_.checks = checks;
      auto context = crypto::TlsContext::client(checks);
      if (!context) return std::unexpected(context.error());
      shared_.tls = std::move(*context);
    } else if (config_.crypto == config::Crypto::chacha20) {
      shared_.noise_key = crypto::derive_noise_key(config_.chacha20_psk.empty() ? config_.token : config_.chacha20_psk);
    }
    auto tcp = pacing::TcpControl::create(
        {config_.brutal.mode, config_.tcp.congestion, config_.tcp.buffer, config_.brutal.enabled});
    if (!tcp) return std::unexpected(tcp.error());
    shared_.tcp = std::move(*tcp);
    shared_.target = std::make_shared<pacing::TargetShare>(
        config_.brutal.enabled ? static_cast<std::uint64_t>(config_.brutal.target_mbps * 1e6) : 0);
    log::info("congestion control: {}", shared_.tcp->describe());
    const unsigned cores =
        config_.workers > 0 ? config_.workers : std::clamp(std::thread::hardware_concurrency(), 1U, 4U);
    for (unsigned i = 0; i < std::min(cores, config_.tunnels); ++i) {
      workers_.push_back(std::make_unique<Worker>(config_.transport == config::Transport::net ? io::make_asio_loop()
                                                                                              : io::make_epoll_loop()));
    }
    for (unsigned i = 0; i < config_.tunnels; ++i) {
      Worker& worker = *workers_[i % workers_.size()];
      worker.links.push_back(std::make_unique<Link>(shared_, *worker.loop, i));
    }
    for (const auto& worker : workers_) {
      auto& [loop, links] = loops_.emplace_back(worker->loop.get(), std::vector<const Link*>{});
      for (const auto& link : worker->links) links.push_back(link.get());
    }
    for (auto& worker : workers_) {
      worker->thread = std::thread([w = worker.get()] {
        for (auto& link : w->links) link->begin();
        w->loop->run();
      });
    }
    auto endpoint =
        stats::start_endpoint(config_.stats, {.snapshot = [this] { return snapshot(config_, loops_); },
                                              .totals = [this] { return totals(loops_); },
                                              .ready = [this] { return !snapshot(config_, loops_).tunnels.empty(); }});
    if (!endpoint) return std::unexpected(endpoint.error());
    endpoint_ = std::move(*endpoint);
    return {};
  }

  void serve() {
    signals_.wait();
    log::info("shutting down: no new connections, running ones have {} ms", config_.shutdown_grace.count());
    on_each([](Link& link, const Arrived& arrived) { link.drain(arrived); });
    if (!wait_for_all(config_.shutdown_grace)) return;
    on_each([](Link& link, const Arrived& arrived) { link.close(arrived); });
    wait_for_all(std::chrono::milliseconds(1500));
  }

  void stop() {
    endpoint_.reset();  // it asks the loops
    for (auto& worker : workers_) worker->loop->stop();
    for (auto& worker : workers_) {
      if (worker->thread.joinable()) worker->thread.join();
      worker->links.clear();
    }
  }

 private:
  using Arrived = std::function<void()>;
  // Each link answers once; a late answer to an earlier question counts for that one only.
  void on_each(const std::function<void(Link&, const Arrived&)>& work) {
    waiting_ = std::make_shared<std::atomic<std::size_t>>(config_.tunnels);
    const Arrived arrived = [this, waiting = waiting_] {
      if (--*waiting == 0) signals_.notify();
    };
    for (auto& worker : workers_) {
      worker->loop->post([w = worker.get(), work, arrived] {
        for (auto& link : w->links) work(*link, arrived);
      });
    }
  }
  // False when a second signal came.
  bool wait_for_all(Duration limit) {
    const TimePoint deadline = Clock::now() + limit;
    while (*waiting_ > 0) {
      const int what = signals_.wait(std::max(Duration::zero(), deadline - Clock::now()));
      if (what == Signals::kTimeout) break;
      if (what != Signals::kNotified) return false;
    }
    return true;
  }

  const config::ClientConfig& config_;
  Signals& signals_;
  std::vector<std::unique_ptr<Worker>> workers_;
  Shared shared_;                   // its resolvers end before the loops that they answer on
  std::vector<LinksOfLoop> loops_;  // the same, for the figures
  std::unique_ptr<stats::HttpServer> endpoint_;
  std::shared_ptr<std::atomic<std::size_t>> waiting_;
};

}  // namespace

Result<void> run(const config::ClientConfig& config) {
  Signals signals({SIGTERM, SIGINT});
  Client client(config, signals);
  if (auto started = client.start(); !started) {
    client.stop();
    return started;
  }
  client.serve();
  client.stop();
  log::info("stopped");
  return {};
}

}  // namespace qtrp::client
