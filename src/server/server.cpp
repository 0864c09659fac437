#include "qtrp/server/server.h"

#include <fmt/format.h>
#include <netdb.h>
#include <signal.h>

#include <algorithm>
#include <future>
#include <thread>

#include "qtrp/base/log.h"
#include "qtrp/base/service_notify.h"
#include "qtrp/base/signals.h"
#include "qtrp/identity/identity.h"
#include "qtrp/stats/endpoint.h"
#include "server/advice.h"
#include "server/figures.h"
#include "server/peer.h"
#include "server/quic_listener.h"
#include "server/stats_page.h"
#include "server/worker.h"

namespace qtrp::server {
namespace {

// At start only, when there is no loop yet to be held up.
Result<io::Endpoint> resolve_now(const io::HostPort& what) {
  if (auto literal = io::Endpoint::from_literal(what.host, what.port)) return literal;
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* list = nullptr;
  if (const int code = ::getaddrinfo(what.host.c_str(), nullptr, &hints, &list); code != 0 || !list) {
    return fail(ErrorKind::config,
                fmt::format("bind: name '{}' does not resolve: {}", what.host, ::gai_strerror(code)));
  }
  io::Endpoint endpoint(list->ai_addr, list->ai_addrlen);
  endpoint.set_port(what.port);
  ::freeaddrinfo(list);
  return endpoint;
}

unsigned worker_count(unsigned configured) {
  return configured > 0 ? configured : std::clamp(std::thread::hardware_concurrency(), 1U, 4U);
}

class Server {
 public:
  Server(std::shared_ptr<const Settings> settings, config::Source<config::ServerConfig> source, Signals& signals,
         io::Endpoint bind)
      : settings_(std::move(settings)),
        config_(settings_->config),
        signals_(signals),
        bind_(bind),
        reloader_(std::move(source), config_, [this](const config::ServerConfig& wanted) { return reload(wanted); }),
        shared_(settings_, bind) {}

  Result<void> start() {
    if (auto opened = shared_.access.open(config_.log.access); !opened) return opened;
    const bool brutal = config_.brutal.enabled || std::ranges::any_of(config_.tokens, [](const auto& token) {
                          return token.target_mbps.has_value();
                        });
    auto tcp = pacing::TcpControl::create({config_.brutal.mode, config_.tcp.congestion, config_.tcp.buffer, brutal});
    if (!tcp) return std::unexpected(tcp.error());
    shared_.tcp = std::move(*tcp);
    log::info("congestion control: {}", shared_.tcp->describe());
    for (unsigned i = 0; i < worker_count(config_.workers); ++i) {
      auto loop = config_.transport == config::Transport::net ? io::make_asio_loop() : io::make_epoll_loop();
      workers_.push_back(std::make_unique<Worker>(shared_, std::move(loop)));
    }
    if (config_.transport == config::Transport::quic && config_.quic.masquerade == "stats")
      page_.emplace(config_.stats, [this] { return snapshot(shared_, workers_); }, [this] { return totals(workers_); });
    auto at = listen();
    if (!at) return std::unexpected(advised(at.error(), bind_));
    for (auto& worker : workers_) worker->start();
    if (page_) page_->start();
    const bool quic = config_.transport == config::Transport::quic;
    log::info("listening for tunnels on {} ({}, {}, {}, {} workers)", at->to_string(),
              config::to_string(config_.transport), config::to_string(config_.crypto),
              quic ? "quic" : config::to_string(config_.mux), workers_.size());
    auto endpoint = stats::start_endpoint(
        config_.stats,
        {.snapshot = [this] { return snapshot(shared_, workers_); },
         .totals = [this] { return totals(workers_); },
         .ready = {},
         .connections = [this] { return connections(workers_); },
         .close_connection = [this](std::uint64_t number) { return server::close_connection(workers_, number); },
         .close_client = [this](const std::string& instance) { return server::close_client(shared_, instance); }});
    if (!endpoint) return std::unexpected(endpoint.error());
    endpoint_ = std::move(*endpoint);
    reloader_.listen(signals_, "server", identity::state_directory(config_.state_dir));
    return {};
  }

  // The control thread: sleeps until a signal comes.
  void serve() {
    while (reloader_.handle(signals_.wait())) {
    }
    signals_.watch(-1);
    const auto grace = reloader_.running().shutdown_grace;
    notify_service_manager("STOPPING=1");
    log::info("shutting down: no new connections, running ones have {} ms", grace.count());
    on_each([this](Worker& worker, const Arrived& arrived) {
      if (&worker == workers_.front().get()) listener_.reset();
      worker.drain(arrived);
    });
    for (const auto& group : shared_.registry.groups()) group->close_listeners();
    if (!wait_for_all(grace)) return;
    on_each([](Worker& worker, const Arrived& arrived) { worker.close_all(arrived); });
    wait_for_all(std::chrono::milliseconds(1500));
  }

  void stop() {
    endpoint_.reset();  // it asks the loops
    if (page_) page_->end();
    for (auto& worker : workers_) worker->loop().stop();
    for (auto& worker : workers_) worker->join();
    listener_.reset();
    shared_.registry.clear();
  }

 private:
  // All that may fail comes first. What runs is not touched, but for the clients of tokens that are gone.
  Result<void> reload(const config::ServerConfig& wanted) {
    auto settings = make_settings(wanted, settings_.get());
    if (!settings) return std::unexpected(settings.error());
    const auto certificate = stats::read_certificate(wanted.stats);
    if (!certificate) return std::unexpected(certificate.error());
    if (endpoint_ && *certificate) {
      if (auto used = endpoint_->use(**certificate); !used) return used;
    }
    if (auto opened = shared_.access.open(wanted.log.access); !opened) return opened;
    settings_ = std::move(*settings);
    for (auto& worker : workers_)
      worker->loop().post([&worker = *worker, settings = settings_] { worker.use(settings); });
    shared_.gate.replace(wanted.tokens);
    shared_.registry.reload(wanted);
    return {};
  }

  Result<io::Endpoint> listen() {
    if (config_.transport == config::Transport::quic)
      return listen_quic(workers_, bind_, config_, settings_->certificate, page_ ? &*page_ : nullptr);
    auto listener = io::Listener::listen(
        workers_.front()->loop(), bind_, [this](io::Fd fd, const io::Endpoint& from) { spread(std::move(fd), from); },
        shared_.tcp->receive_buffer());
    if (!listener) return std::unexpected(listener.error());
    listener_ = std::move(*listener);
    return listener_->local();
  }

  // Tunnels go to the loops in turn.
  void spread(io::Fd fd, const io::Endpoint& from) {
    Worker& worker = *workers_[next_worker_++ % workers_.size()];
    if (&worker == workers_.front().get()) return worker.adopt(std::move(fd), from);
    worker.loop().post([&worker, fd = std::move(fd), from]() mutable { worker.adopt(std::move(fd), from); });
  }

  using Arrived = std::function<void()>;
  // Each worker answers once; a late answer to an earlier question counts for that one only.
  void on_each(const std::function<void(Worker&, const Arrived&)>& work) {
    waiting_ = std::make_shared<std::atomic<std::size_t>>(workers_.size());
    const Arrived arrived = [this, waiting = waiting_] {
      if (--*waiting == 0) signals_.notify();
    };
    for (auto& worker : workers_) worker->loop().post([&worker = *worker, work, arrived] { work(worker, arrived); });
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

  std::shared_ptr<const Settings> settings_;  // the newest
  const config::ServerConfig config_;         // as it was at the start
  Signals& signals_;
  const io::Endpoint bind_;
  config::Reloader<config::ServerConfig> reloader_;
  Shared shared_;
  std::optional<StatsPage> page_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::unique_ptr<io::Listener> listener_;
  std::unique_ptr<stats::HttpServer> endpoint_;
  std::size_t next_worker_ = 0;
  std::shared_ptr<std::atomic<std::size_t>> waiting_;
};

}  // namespace

Result<void> run(const config::ServerConfig& config, config::Source<config::ServerConfig> source) {
  Signals signals({SIGTERM, SIGINT, SIGHUP});
  auto bind = resolve_now(config.bind);
  if (!bind) return std::unexpected(bind.error());
  auto settings = make_settings(config, nullptr);
  if (!settings) return std::unexpected(settings.error());
  Server server(std::move(*settings), std::move(source), signals, *bind);
  if (auto started = server.start(); !started) {
    server.stop();
    return started;
  }
  notify_service_manager("READY=1");
  server.serve();
  server.stop();
  log::info("stopped");
  return {};
}

}  // namespace qtrp::server
