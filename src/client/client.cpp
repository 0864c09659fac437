#include "qtrp/client/client.h"

#include <signal.h>

#include <algorithm>
#include <mutex>
#include <thread>

#include "client/figures.h"
#include "client/link.h"
#include "qtrp/base/log.h"
#include "qtrp/base/service_notify.h"
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
  Client(std::shared_ptr<const Settings> settings, config::Source<config::ClientConfig> source, Signals& signals)
      : settings_(std::move(settings)),
        config_(settings_->config),
        signals_(signals),
        reloader_(std::move(source), config_, [this](const config::ClientConfig& wanted) { return reload(wanted); }),
        shared_(settings_) {}

  Result<void> start() {
    if (auto opened = shared_.access.open(config_.log.access); !opened) return opened;
    const auto directory = identity::state_directory(config_.state_dir);
    shared_.instance = identity::keep_instance_id(directory);
    identity::random_bytes(shared_.run);
    auto tcp = pacing::TcpControl::create(
        {config_.brutal.mode, config_.tcp.congestion, config_.tcp.buffer, config_.brutal.enabled});
    if (!tcp) return std::unexpected(tcp.error());
    shared_.tcp = std::move(*tcp);
    shared_.target = std::make_shared<pacing::TargetShare>(target_bps(config_));
    log::info("congestion control: {}", shared_.tcp->describe());
    const unsigned cores =
        config_.workers > 0 ? config_.workers : std::clamp(std::thread::hardware_concurrency(), 1U, 4U);
    for (unsigned i = 0; i < std::min(cores, config_.tunnel_count()); ++i) {
      workers_.push_back(std::make_unique<Worker>(config_.transport == config::Transport::net ? io::make_asio_loop()
                                                                                              : io::make_epoll_loop()));
    }
    for (unsigned i = 0; i < config_.tunnel_count(); ++i) {
      Worker& worker = *workers_[i % workers_.size()];
      worker.links.push_back(std::make_unique<Link>(shared_, *worker.loop, i));
    }
    for (const auto& worker : workers_) {
      auto& [loop, links] = loops_.emplace_back(worker->loop.get(), std::vector<Link*>{});
      for (const auto& link : worker->links) links.push_back(link.get());
    }
    for (auto& worker : workers_) {
      worker->thread = std::thread([w = worker.get()] {
        for (auto& link : w->links) link->begin();
        w->loop->run();
      });
    }
    auto endpoint = stats::start_endpoint(
        config_.stats,
        {.snapshot = [this] { return figures(); },
         .totals = [this] { return totals(loops_); },
         .ready = [this] { return !figures().tunnels.empty(); },
         .connections = [this] { return connections(loops_); },
         .close_connection = [this](std::uint64_t number) { return client::close_connection(loops_, number); },
         .close_client = {}});
    if (!endpoint) return std::unexpected(endpoint.error());
    endpoint_ = std::move(*endpoint);
    reloader_.listen(signals_, "client", directory);
    return {};
  }

  void serve() {
    while (reloader_.handle(signals_.wait())) {
    }
    signals_.watch(-1);
    const auto grace = reloader_.running().shutdown_grace;
    notify_service_manager("STOPPING=1");
    log::info("shutting down: no new connections, running ones have {} ms", grace.count());
    on_each([](Link& link, const Arrived& arrived) { link.drain(arrived); });
    if (!wait_for_all(grace)) return;
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
  static std::uint64_t target_bps(const config::ClientConfig& config) {
    return config.brutal.enabled ? static_cast<std::uint64_t>(config.brutal.target_mbps * 1e6) : 0;
  }

  // All that may fail comes first. Running connections are not touched.
  Result<void> reload(const config::ClientConfig& wanted) {
    auto settings = make_settings(wanted, settings_.get());
    if (!settings) return std::unexpected(settings.error());
    const auto certificate = stats::read_certificate(wanted.stats);
    if (!certificate) return std::unexpected(certificate.error());
    if (endpoint_ && *certificate) {
      if (auto used = endpoint_->use(**certificate); !used) return used;
    }
    if (auto opened = shared_.access.open(wanted.log.access); !opened) return opened;
    {
      const std::lock_guard lock(mutex_);
      settings_ = *settings;
    }
    shared_.target->set_target(target_bps(wanted));
    for (auto& worker : workers_) {
      worker->loop->post([w = worker.get(), settings = *settings] {
        for (auto& link : w->links) link->use(settings);
      });
    }
    return {};
  }

  // The endpoint's thread.
  stats::Snapshot figures() const {
    std::unique_lock lock(mutex_);
    const std::shared_ptr<const Settings> settings = settings_;
    lock.unlock();
    return snapshot(*settings, loops_);
  }

  using Arrived = std::function<void()>;
  // Each link answers once; a late answer to an earlier question counts for that one only.
  void on_each(const std::function<void(Link&, const Arrived&)>& work) {
    waiting_ = std::make_shared<std::atomic<std::size_t>>(config_.tunnel_count());
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
      if (what != Signals::kNotified && what != SIGHUP) return false;
    }
    return true;
  }

  mutable std::mutex mutex_;
  std::shared_ptr<const Settings> settings_;  // the newest; written by the control thread under mutex_
  const config::ClientConfig config_;         // as it was at the start
  Signals& signals_;
  config::Reloader<config::ClientConfig> reloader_;
  std::vector<std::unique_ptr<Worker>> workers_;
  Shared shared_;                   // its resolvers end before the loops that they answer on
  std::vector<LinksOfLoop> loops_;  // the same, for the figures
  std::unique_ptr<stats::HttpServer> endpoint_;
  std::shared_ptr<std::atomic<std::size_t>> waiting_;
};

}  // namespace

Result<void> run(const config::ClientConfig& config, config::Source<config::ClientConfig> source) {
  Signals signals({SIGTERM, SIGINT, SIGHUP});
  auto settings = make_settings(config, nullptr);
  if (!settings) return std::unexpected(settings.error());
  Client client(std::move(*settings), std::move(source), signals);
  if (auto started = client.start(); !started) {
    client.stop();
    return started;
  }
  notify_service_manager("READY=1");
  client.serve();
  client.stop();
  log::info("stopped");
  return {};
}

}  // namespace qtrp::client
