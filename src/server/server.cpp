#include "qtrp/server/server.h"

#include <fmt/format.h>
#include <netdb.h>
#include <signal.h>

#include <algorithm>
#include <future>
#include <thread>

#include "qtrp/base/log.h"
#include "qtrp/base/signals.h"
#include "qtrp/identity/identity.h"
#include "qtrp/stats/endpoint.h"
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
  Server(const config::ServerConfig& config, Signals& signals, io::Endpoint bind)
      : config_(config),
        signals_(signals),
        bind_(bind),
        shared_{config, Gate(config.tokens), Registry(config, bind), {}, {}, {}, {}} {}

  Result<void> start() {
    if (auto made = make_crypto(); !made) return made;
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
    if (!at) return std::unexpected(at.error());
    for (auto& worker : workers_) worker->start();
    if (page_) page_->start();
    const bool quic = config_.transport == config::Transport::quic;
    log::info("listening for tunnels on {} ({}, {}, {}, {} workers)", at->to_string(),
              config::to_string(config_.transport), config::to_string(config_.crypto),
              quic ? "quic" : config::to_string(config_.mux), workers_.size());
    auto endpoint = stats::start_endpoint(config_.stats, {.snapshot = [this] { return snapshot(shared_, workers_); },
                                                          .totals = [this] { return totals(workers_); },
                                                          .ready = {}});
    if (!endpoint) return std::unexpected(endpoint.error());
    endpoint_ = std::move(*endpoint);
    return {};
  }

  // The control thread: sleeps until a signal comes.
  void serve() {
    signals_.wait();
    log::info("shutting down: no new connections, running ones have {} ms", config_.shutdown_grace.count());
    on_each([this](Worker& worker, const Arrived& arrived) {
      if (&worker == workers_.front().get()) listener_.reset();
      worker.drain(arrived);
    });
    for (const auto& group : shared_.registry.groups()) group->close_listeners();
    if (!wait_for_all(config_.shutdown_grace)) return;
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
  Result<io::Endpoint> listen() {
    if (config_.transport == config::Transport::quic)
      return listen_quic(workers_, bind_, config_, certificate_, page_ ? &*page_ : nullptr);
    auto listener = io::Listener::listen(
        workers_.front()->loop(), bind_, [this](io::Fd fd, const io::Endpoint& from) { spread(std::move(fd), from); },
        shared_.tcp->receive_buffer());
    if (!listener) return std::unexpected(listener.error());
    listener_ = std::move(*listener);
    return listener_->local();
  }

  Result<void> make_crypto() {
    if (config_.crypto == config::Crypto::tls) {
      auto certificate = config_.tls.cert.empty()
                             ? identity::keep_certificate(identity::state_directory(config_.state_dir))
                             : identity::load_certificate(config_.tls.cert, config_.tls.key);
      if (!certificate) return std::unexpected(certificate.error());
      auto context = crypto::TlsContext::server(*certificate);
      if (!context) return std::unexpected(context.error());
      shared_.tls = std::move(*context);
      log::info("certificate pin {}", certificate->pin);
      certificate_ = std::move(*certificate);
    } else if (config_.crypto == config::Crypto::chacha20) {
      auto keys = std::make_shared<std::vector<crypto::NoiseKey>>();
      if (!config_.chacha20_psk.empty()) {
        keys->push_back(crypto::derive_noise_key(config_.chacha20_psk));
      } else {
        for (const config::Token& token : config_.tokens) keys->push_back(crypto::derive_noise_key(token.token));
      }
      shared_.noise_keys = std::move(keys);
    }
    return {};
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
      if (what != Signals::kNotified) return false;
    }
    return true;
  }

  const config::ServerConfig& config_;
  Signals& signals_;
  const io::Endpoint bind_;
  identity::Certificate certificate_;
  Shared shared_;
  std::optional<StatsPage> page_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::unique_ptr<io::Listener> listener_;
  std::unique_ptr<stats::HttpServer> endpoint_;
  std::size_t next_worker_ = 0;
  std::shared_ptr<std::atomic<std::size_t>> waiting_;
};

}  // namespace

Result<void> run(const config::ServerConfig& config) {
  Signals signals({SIGTERM, SIGINT});
  auto bind = resolve_now(config.bind);
  if (!bind) return std::unexpected(bind.error());
  Server server(config, signals, *bind);
  if (auto started = server.start(); !started) {
    server.stop();
    return started;
  }
  server.serve();
  server.stop();
  log::info("stopped");
  return {};
}

}  // namespace qtrp::server
