// A client as the server sees it: the proxies it registered and the tunnels that carry them. The proxies' listeners
// live on the home loop, the loop of the client's first tunnel; tunnels on other loops are handed accepted connections
// as descriptors.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "qtrp/config/config.h"
#include "qtrp/io/socket.h"
#include "qtrp/pacing/target_share.h"
#include "qtrp/protocol/messages.h"
#include "qtrp/stats/access_log.h"
#include "qtrp/stats/counters.h"
#include "server/gate.h"

namespace qtrp::server {

class Peer;

/// A tunnel's place in its group. `peer` may be touched on `loop` only and is null once the tunnel is gone.
struct Member {
  explicit Member(io::Loop& l) : loop(l) {}
  io::Loop& loop;
  Peer* peer = nullptr;
  std::uint32_t tunnel = 0;
  std::atomic<std::uint32_t> connections{0};
  std::atomic<TimePoint> moved_much{TimePoint{}};  ///< relay::Meters
  std::atomic<bool> draining{false};
  std::atomic<bool> waits{true};  ///< a user would wait here: it has not answered yet, or grants no streams

  /// What a new connection weighs against other tunnels: the connections, and a download or upload of the last second
  /// as much as kBulkWeight of them. TCP delivers in order: beside a bulk transfer on a lossy link everybody waits for
  /// what was lost of it. One where users wait comes last.
  std::uint32_t load(TimePoint now) const {
    const bool bulk = now - moved_much.load(std::memory_order_relaxed) < std::chrono::seconds(1);
    return connections.load(std::memory_order_relaxed) + (bulk ? kBulkWeight : 0) +
           (waits.load(std::memory_order_relaxed) ? kWaitWeight : 0);
  }
  static constexpr std::uint32_t kBulkWeight = 16, kWaitWeight = 1U << 24U;
};

/// What a user's connection needs to know of the proxy that it came to; outlives the proxy.
struct ProxyInfo {
  std::uint32_t id = 0;
  std::string name;
  std::uint16_t port = 0;
};

/// Figures of a proxy for statistics.
struct ProxyFigures {
  std::uint32_t id = 0;
  std::string name, type, bind;
  std::uint16_t port = 0;
  std::uint64_t retired_in = 0, retired_out = 0, retired_total = 0;  ///< by tunnels that are gone
};

class Group : public std::enable_shared_from_this<Group> {
 public:
  Group(io::Loop& home, const config::ServerConfig& config, io::Endpoint default_bind, stats::AccessLog& access,
        std::shared_ptr<TokenState> token, const protocol::AuthBody& client);
  ~Group();

  io::Loop& home() const { return home_; }
  const std::string& name() const { return name_; }
  const protocol::Id16& instance() const { return instance_; }
  const protocol::Id16& run() const { return run_; }
  const protocol::Id16& session_id() const { return session_; }
  const std::shared_ptr<TokenState>& token() const { return token_; }
  /// Brutal's target for all that is sent to this client: the token's own, else brutal.target_mbps.
  const std::shared_ptr<pacing::TargetShare>& target() const { return target_; }

  // Any thread.
  void join(const std::shared_ptr<Member>& member);
  /// Returns true if it was the last one.
  bool leave(const std::shared_ptr<Member>& member);
  std::vector<std::shared_ptr<Member>> members() const;
  /// Registers on the home loop and answers on `answer_on`. The same proxy from another tunnel of the client is
  /// answered likewise.
  void add_proxy(const protocol::NewProxy& proxy, io::Loop& answer_on, std::function<void(protocol::ProxyResp)> answer);
  void remove_proxy(std::uint32_t id);
  /// Frees every port at once and accepts no more; running connections go on.
  void close_listeners(std::function<void()> done = {});
  /// Takes over ports and targets. Proxies on ports that are not allowed any more are closed, and the client is told;
  /// connections that run go on.
  void reload(const config::ServerConfig& config);
  /// Says in the access log that a user was turned away.
  void turned_away(const ProxyInfo& proxy, const io::Endpoint& user, stats::EndReason why) const;
  void retire(std::uint32_t proxy, std::uint64_t in, std::uint64_t out, std::uint64_t total);

  // Home loop only.
  std::vector<ProxyFigures> figures() const;
  /// When the home loop does not run any more.
  void drop() { proxies_.clear(); }

 private:
  struct Proxy {
    protocol::NewProxy spec;
    ProxyFigures figures;
    std::shared_ptr<const ProxyInfo> info;
    std::unique_ptr<io::Listener> listener;
  };
  /// Why the port may not be had; empty if it may.
  std::string forbidden(const protocol::NewProxy& spec, const config::Token& token) const;
  protocol::ProxyResp register_here(const protocol::NewProxy& spec);
  void accepted(std::uint32_t id, io::Fd fd, const io::Endpoint& user);
  std::shared_ptr<Member> least_loaded(TimePoint now);

  io::Loop& home_;
  const io::Endpoint default_bind_;
  stats::AccessLog& access_;
  const std::shared_ptr<TokenState> token_;
  const std::string name_;
  const protocol::Id16 instance_, run_;
  const std::shared_ptr<pacing::TargetShare> target_;
  protocol::Id16 session_{};

  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<Member>> members_;

  // Home loop only.
  config::PortSet ports_;
  std::map<std::uint32_t, Proxy> proxies_;
  bool closed_ = false;
  TimePoint limit_logged_{};
};

}  // namespace qtrp::server
