// Which clients are here. Joins tunnels to their client's group, and lets a client that came back take its place from
// its own dead session.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "qtrp/config/config.h"
#include "server/group.h"

namespace qtrp::server {

class Registry {
 public:
  Registry(const config::ServerConfig& config, io::Endpoint default_bind, stats::AccessLog& access)
      : default_bind_(default_bind), access_(access), config_(config) {}

  /// Finds or makes the group of an authenticated tunnel and answers on the member's loop. If the same instance has a
  /// group of an earlier run, that one's tunnels are probed first, for a second at most: dead ones give way, living
  /// ones stay (two machines with one state directory: both work, but for ports that both want). Answers null if the
  /// token was revoked meanwhile.
  void join(const protocol::AuthBody& client, const std::shared_ptr<TokenState>& token,
            const std::shared_ptr<Member>& member, std::function<void(std::shared_ptr<Group>)> joined);
  void leave(const std::shared_ptr<Group>& group, const std::shared_ptr<Member>& member);
  std::vector<std::shared_ptr<Group>> groups() const;
  /// New clients follow this configuration, running ones take over its limits and targets; those whose token was
  /// revoked are sent away. After Gate::replace().
  void reload(const config::ServerConfig& config);
  /// At the very end, when no loop runs any more but all are still there: frees the listeners.
  void clear();

 private:
  void join_now(const protocol::AuthBody& client, const std::shared_ptr<TokenState>& token,
                const std::shared_ptr<Member>& member, const std::function<void(std::shared_ptr<Group>)>& joined);

  const io::Endpoint default_bind_;
  stats::AccessLog& access_;
  mutable std::mutex mutex_;
  config::ServerConfig config_;
  std::vector<std::shared_ptr<Group>> groups_;
};

}  // namespace qtrp::server
