// Connections to one local service, made before a user needs them (`pool: N`): saves the dial where the service is slow
// to accept. One that the service closes is replaced; one that has waited long is renewed before the service's own
// time-out may hit a user.
#pragma once

#include <list>
#include <memory>
#include <optional>

#include "qtrp/config/config.h"
#include "qtrp/io/socket.h"

namespace qtrp::client {

class ReadyPool {
 public:
  /// Keeps `size` connections ready to `local` from start() to stop().
  ReadyPool(io::Loop& loop, io::Resolver& resolver, const io::HostPort& local, unsigned size, Duration connect_timeout);
  ~ReadyPool();
  ReadyPool(const ReadyPool&) = delete;
  ReadyPool& operator=(const ReadyPool&) = delete;

  void start();
  void stop();
  /// A connection that is alive, or nothing: then the caller dials himself.
  std::optional<io::Fd> take();
  std::size_t ready() const { return idle_.size(); }

  static constexpr std::chrono::seconds kMostIdle{30};  ///< common services wait 60 s and more for a first request
  static constexpr std::chrono::seconds kPause{5};      ///< after a failure, or a service that closes at once

 private:
  struct Idle;
  void refill();
  void connect(std::vector<io::Endpoint> addresses);
  void dropped(Idle& idle);
  void renew();

  io::Loop& loop_;
  io::Resolver& resolver_;
  const io::HostPort local_;
  const unsigned size_;
  const Duration connect_timeout_;
  std::shared_ptr<int> running_;  // null while stopped; answers of the resolver look at it
  bool dialing_ = false;
  std::unique_ptr<io::Connector> connector_;
  std::list<std::unique_ptr<Idle>> idle_;  // oldest first
  io::Timer pause_, renew_;
  io::TurnEnd refill_;
};

}  // namespace qtrp::client
