// One loop of the server, its thread, and the tunnels that live on it.
#pragma once

#include <list>
#include <memory>
#include <thread>
#include <unordered_map>

#include "qtrp/config/config.h"
#include "qtrp/io/socket.h"
#include "qtrp/pacing/tcp.h"
#include "qtrp/stats/access_log.h"
#include "qtrp/stats/counters.h"
#include "server/gate.h"
#include "server/registry.h"
#include "server/settings.h"

namespace qtrp::quic {
class QuicSession;
class Server;
}  // namespace qtrp::quic

namespace qtrp::server {

class Peer;

/// What every worker shares; outlives them all.
struct Shared {
  /// `settings` are those to begin with.
  Shared(std::shared_ptr<const Settings> s, const io::Endpoint& bind)
      : settings(std::move(s)), gate(settings->config.tokens), registry(settings->config, bind, access) {}
  const std::shared_ptr<const Settings> settings;
  stats::AccessLog access;
  Gate gate;
  Registry registry;
  std::unique_ptr<pacing::TcpControl> tcp;  ///< tunnels over TCP
  std::atomic<std::uint64_t> next_connection{1};
};

class Worker {
 public:
  Worker(Shared& shared, std::unique_ptr<io::Loop> loop);
  ~Worker();
  void start();  ///< the thread
  void join();

  io::Loop& loop() { return *loop_; }
  Shared& shared() { return shared_; }
  stats::Counters& totals() { return totals_; }

  // On the loop's thread.
  const Settings& settings() const { return *settings_; }
  /// New tunnels follow these; running ones take over what may change under them.
  void use(std::shared_ptr<const Settings> settings);
  /// A connection came to the tunnel port.
  void adopt(io::Fd socket, const io::Endpoint& from);
  /// The same over QUIC.
  void adopt(std::unique_ptr<quic::QuicSession> session);
  /// The QUIC port's end on this loop; it goes after the peers.
  void own(std::unique_ptr<quic::Server> server);
  /// Owns the peer and counts it as unauthenticated; beyond the bound the oldest such one goes of the address that has
  /// most: a flood from one place drops its own connections.
  void admit(std::unique_ptr<Peer> peer);
  void authenticated(Peer& peer);
  void remove(Peer& peer);
  /// Tells every client goodbye and refuses newcomers; `drained` is called once, when the last connection has ended.
  void drain(std::function<void()> drained);
  void connection_ended();
  /// Closes every tunnel; `closed` is called once, when they are gone.
  void close_all(std::function<void()> closed);
  std::size_t connections() const { return static_cast<std::size_t>(totals_.active.load(std::memory_order_relaxed)); }
  const std::unordered_map<Peer*, std::unique_ptr<Peer>>& peers() const { return peers_; }

 private:
  static constexpr std::size_t kMostUnauthenticated = 1024;
  /// To talk to each of them: one that ends meanwhile leaves peers_, and lives until the turn's end.
  std::vector<Peer*> all_peers() const;
  Shared& shared_;
  std::shared_ptr<const Settings> settings_;
  std::unique_ptr<io::Loop> loop_;
  std::thread thread_;
  stats::Counters totals_;
#ifdef QTRP_HAVE_QUIC
  std::unique_ptr<quic::Server> quic_;
#endif
  std::unordered_map<Peer*, std::unique_ptr<Peer>> peers_;
  void forget_stranger(Peer& peer);
  std::list<Peer*> unauthenticated_;                        // oldest first
  std::unordered_map<std::string, std::size_t> strangers_;  // how many of them by address
  bool draining_ = false;
  std::function<void()> drained_, closed_;
  TimePoint flood_logged_{};
};

}  // namespace qtrp::server
