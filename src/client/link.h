// One tunnel of the client: dials, authenticates both ends, registers the proxies, takes the users' streams, keeps
// itself alive, and begins anew when it is lost.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "client/backoff.h"
#include "client/local_relay.h"
#include "client/ready_pool.h"
#include "client/settings.h"
#include "qtrp/io/socket.h"
#include "qtrp/pacing/tcp.h"
#include "qtrp/session/session.h"
#include "qtrp/stats/access_log.h"
#include "qtrp/stats/snapshot.h"
#include "qtrp/tunnel/control_channel.h"
#include "qtrp/tunnel/shared_target.h"

namespace qtrp::quic {
class Dialer;
}

namespace qtrp::client {

/// What all tunnels of the client share; outlives them.
struct Shared {
  explicit Shared(std::shared_ptr<const Settings> s) : settings(std::move(s)) {}
  const std::shared_ptr<const Settings> settings;  ///< to begin with
  protocol::Id16 instance{}, run{};
  std::unique_ptr<pacing::TcpControl> tcp;
  std::shared_ptr<pacing::TargetShare> target;  ///< Brutal's, of all tunnels together
  stats::AccessLog access;
  io::Resolver server_names, local_names;  // apart, so that a server name that hangs does not hold up local services
};

class Link final : private session::SessionListener, private tunnel::ControlListener {
 public:
  Link(Shared& shared, io::Loop& loop, std::uint32_t number);
  ~Link();

  void begin();
  /// No new connections from now on; `drained` is called once, when the running ones have ended (at once without any).
  void drain(std::function<void()> drained);
  void close(std::function<void()> closed);
  /// The next connection follows these settings; proxies are closed and opened on the running one.
  void use(std::shared_ptr<const Settings> settings);

  // For its relays.
  std::shared_ptr<const config::Proxy> proxy(std::uint32_t id) const;
  stats::Counters& opened(std::uint32_t proxy);
  /// A connection to the proxy's service that is made already (`pool`), if there is one.
  std::optional<io::Fd> take_ready(std::uint32_t proxy);
  io::Resolver& resolver() { return shared_.local_names; }
  Duration connect_timeout() const { return config().connect_timeout; }
  void relay_ended(LocalRelay& relay, relay::End end, session::ResetCode code);
  std::string label() const;
  TimePoint now() const { return loop_.now(); }

  struct ProxyFigures {
    std::uint32_t id = 0;
    std::uint16_t port = 0;  ///< on the server; 0: not registered now
    std::string code;        ///< why not
    std::uint64_t in = 0, out = 0, active = 0, total = 0;
  };
  struct Figures {
    bool connected = false;
    std::uint32_t tunnel = 0;
    std::string server;
    TimePoint since;
    std::size_t connections = 0;
    session::SessionStats session;
    std::vector<ProxyFigures> proxies;
  };
  Figures figures() const;
  /// Its users' connections.
  void list_connections(stats::Connections& into) const;
  /// Resets the connection of that number, the server's; false if it is not here.
  bool close_connection(std::uint64_t number);
  const stats::Counters& totals() const { return totals_; }

 private:
  struct ProxyState {
    std::shared_ptr<const config::Proxy> config;
    bool removed = false;  // by a reload; stays while users are on it
    std::uint16_t port = 0;
    std::string code = "not connected";
    unsigned failures = 0;
    std::unique_ptr<io::Timer> retry;
    std::unique_ptr<ReadyPool> pool;  ///< with `pool` in the configuration
    stats::Counters counters;
  };

  void on_events() override;
  void on_message(protocol::Message message) override;
  void on_control_failed(Error error) override;
  void connect();
  void connected(io::Fd fd);
  void dial_quic(std::vector<io::Endpoint> addresses);
  void wait_for_answer();
  void authenticate();
  void verify(const protocol::AuthResp& response);
  void registered(const protocol::ProxyResp& response);
  void register_proxy(std::uint32_t id);
  void add_proxy(std::uint32_t id, std::shared_ptr<const config::Proxy> proxy);
  void remove_proxy(std::uint32_t id, ProxyState& state);
  void start_pool(ProxyState& state);
  const config::ClientConfig& config() const { return settings_->config; }
  void keep_alive();
  void lost(const Error& error);
  void try_again();

  Shared& shared_;
  std::shared_ptr<const Settings> settings_;
  io::Loop& loop_;
  const std::uint32_t number_;
  const std::shared_ptr<int> wanted_ = std::make_shared<int>(0);
  Backoff backoff_;
  io::Timer retry_timer_, auth_timer_, alive_timer_;
  std::unique_ptr<io::Connector> connector_;
#ifdef QTRP_HAVE_QUIC
  std::unique_ptr<quic::Dialer> dialer_;
#endif
  std::unique_ptr<session::Session> session_;
  std::unique_ptr<tunnel::ControlChannel> control_;
  std::optional<tunnel::SharedTarget> target_;
  enum class State : std::uint8_t { idle, dialing, authenticating, running, closing } state_ = State::idle;
  protocol::Mac proof_{};
  TimePoint since_{};
  unsigned unanswered_ = 0;
  bool draining_ = false;
  bool goodbye_ = false;  // the server said so: what ends now ends for that
  std::string last_error_;
  std::function<void()> drained_, closed_;
  std::map<std::uint32_t, ProxyState> proxies_;
  std::unordered_map<LocalRelay*, std::unique_ptr<LocalRelay>> relays_;
  stats::Counters totals_;
};

}  // namespace qtrp::client
