// One tunnel of a client at the server: authenticates it, answers its control messages, and opens a stream for every
// user connection.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include "qtrp/io/socket.h"
#include "qtrp/relay/relay.h"
#include "qtrp/session/session.h"
#include "qtrp/stats/snapshot.h"
#include "qtrp/tunnel/control_channel.h"
#include "qtrp/tunnel/shared_target.h"
#include "server/group.h"
#include "server/speed_stream.h"
#include "server/worker.h"

namespace qtrp::server {

class Peer final : public session::SessionListener, private tunnel::ControlListener {
 public:
  static constexpr Duration kBacklogLimit = std::chrono::seconds(10);

  /// A user for whom the client grants no stream waits for `backlog_limit` at most.
  Peer(Worker& worker, const io::Endpoint& from, Duration backlog_limit = kBacklogLimit);
  ~Peer();

  /// Takes the session and the time limit for authenticating begins.
  void start(std::unique_ptr<session::Session> session);
  void on_events() override;

  /// A user came to one of the client's ports; counted in member and token already.
  static void hand_over(const Group& group, const std::shared_ptr<Member>& member,
                        const std::shared_ptr<const ProxyInfo>& proxy, io::Fd user, const io::Endpoint& from);
  /// Answers whether anything is heard within `limit`, having asked.
  void probe(Duration limit, std::function<void(bool alive)> answer);
  /// The tunnel is dead or unwanted: everything on it ends now, without waiting for the peer. Empty reason: nothing is
  /// logged.
  void give_up(const std::string& reason);
  void say_goodbye(const std::string& reason);
  /// Goodbye, and the tunnel closes once its connections have ended, after `grace` at the latest.
  void send_away(const std::string& reason, Duration grace);
  void tell(const protocol::Message& message);
  void close(const std::string& reason);

  struct Figures {
    std::string client, address;
    session::SessionStats session;
    std::uint32_t tunnel = 0;
    std::size_t connections = 0;
    TimePoint since;
    struct Proxy {
      std::uint32_t id;
      std::uint64_t in, out, active, total;
    };
    std::vector<Proxy> proxies;
  };
  /// Nothing before it is authenticated.
  std::optional<Figures> figures() const;
  /// Its users' connections.
  void list_connections(stats::Connections& into) const;
  /// Resets the user's connection of that number; false if it is not here.
  bool close_connection(std::uint64_t number);
  void close_by_operator();
  const std::shared_ptr<Group>& group() const { return group_; }
  const std::string& source() const { return source_; }  ///< io::Endpoint::source() of where it comes from

 private:
  class UserRelay;
  struct Waiting {  // a user for whom the peer grants no stream yet
    std::shared_ptr<const ProxyInfo> proxy;
    io::Fd user;
    io::Endpoint from;
    TimePoint since;
  };
  struct ProxyUse {  // a proxy of which this tunnel has carried users
    std::shared_ptr<const ProxyInfo> info;
    stats::Counters counters;
  };

  void on_message(protocol::Message message) override;
  void on_control_failed(Error error) override;
  void on_control_drained() override;
  void authenticate(const protocol::Auth& auth);
  void deny(const Error& reason, Duration delay);
  void joined(std::shared_ptr<Group> group);
  void open_user(const std::shared_ptr<const ProxyInfo>& proxy, io::Fd user, const io::Endpoint& from);
  bool try_open(Waiting& waiting);
  void open_waiting();
  void drop_stale();
  void speed_test(const protocol::NewProxy& wanted);
  void start_speed_test();
  void note_waits();  // for who chooses among the client's tunnels
  void turn_away(Waiting user, stats::EndReason why);
  void log_access(const UserRelay& relay, stats::EndReason end);
  void relay_ended(UserRelay& relay, relay::End end, session::ResetCode code);
  void release_connection();
  void keep_alive();
  void ended(const Error& error);
  std::string label() const;

  Worker& worker_;
  io::Loop& loop_;
  const std::string address_, source_;
  std::unique_ptr<session::Session> session_;
  std::optional<tunnel::ControlChannel> control_;
  std::optional<tunnel::SharedTarget> target_;
  io::Timer auth_timer_, alive_timer_, probe_timer_, backlog_timer_;
  const Duration backlog_limit_;
  TimePoint since_;

  enum class State : std::uint8_t { waiting, joining, running, ended } state_ = State::waiting;
  protocol::AuthBody client_;
  protocol::Mac client_hmac_{};
  std::shared_ptr<TokenState> token_;
  std::shared_ptr<Member> member_;
  std::shared_ptr<Group> group_;
  std::unordered_map<UserRelay*, std::unique_ptr<UserRelay>> relays_;
  std::unordered_map<std::uint32_t, std::unique_ptr<ProxyUse>> proxies_;
  std::deque<Waiting> backlog_;
  io::TurnEnd serve_;                   // opens streams for the backlog
  std::unique_ptr<SpeedStream> speed_;  // one at a time
  bool answered_ = false;               // AuthResp is on its way: no stream may overtake it
  std::size_t newcomers_refused_ = 0;   // since the backlog was full
  unsigned unanswered_ = 0;
  bool sent_away_ = false;
  bool by_operator_ = false;  // an operator ends it
  bool goodbye_ = false;      // either side said so: what ends now ends for that
  std::function<void(bool)> probe_answer_;
};

}  // namespace qtrp::server
