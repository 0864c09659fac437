#include "server/registry.h"

#include "qtrp/base/log.h"
#include "server/peer.h"

namespace qtrp::server {
namespace {

constexpr auto kProbe = std::chrono::seconds(1);

}  // namespace

void Registry::join(const protocol::AuthBody& client, const std::shared_ptr<TokenState>& token,
                    const std::shared_ptr<Member>& member, std::function<void(std::shared_ptr<Group>)> joined) {
  std::vector<std::shared_ptr<Group>> earlier;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& group : groups_) {
      if (group->instance() == client.instance && group->run() != client.run && group->token() == token)
        earlier.push_back(group);
    }
  }
  // One answer for each tunnel of the earlier runs; the last one lets this client in.
  struct Probe {
    std::mutex mutex;
    std::size_t waiting = 0;
    std::function<void()> proceed;
    void answered() {
      {
        const std::lock_guard lock(mutex);
        if (--waiting > 0) return;
      }
      proceed();
    }
  };
  auto probe = std::make_shared<Probe>();
  probe->proceed = [this, client, token, member, joined = std::move(joined)] {
    member->loop.post([this, client, token, member, joined] { join_now(client, token, member, joined); });
  };
  probe->waiting = 1;
  for (const auto& group : earlier) {
    for (const auto& old : group->members()) {
      {
        const std::lock_guard lock(probe->mutex);
        ++probe->waiting;
      }
      old->loop.post([probe, group, old] {
        if (!old->peer) return probe->answered();
        old->peer->probe(kProbe, [probe, group, old](bool alive) {
          if (alive) {
            log::warn("client '{}': another one with the same instance id is alive; was its state directory copied?",
                      group->name());
          } else {
            if (old->peer) old->peer->give_up("silent while the same client came back");
            // Freed before the newcomer asks for these ports.
            if (group->members().empty()) return group->close_listeners([probe] { probe->answered(); });
          }
          probe->answered();
        });
      });
    }
  }
  probe->answered();
}

void Registry::join_now(const protocol::AuthBody& client, const std::shared_ptr<TokenState>& token,
                        const std::shared_ptr<Member>& member,
                        const std::function<void(std::shared_ptr<Group>)>& joined) {
  std::shared_ptr<Group> group;
  {
    std::unique_lock lock(mutex_);
    if (token->revoked) {
      lock.unlock();
      return joined(nullptr);
    }
    for (const auto& known : groups_) {
      if (known->instance() == client.instance && known->run() == client.run && known->token() == token) group = known;
    }
    if (!group) {
      group = std::make_shared<Group>(member->loop, config_, default_bind_, access_, token, client);
      groups_.push_back(group);
    }
    // Its own tunnel of the same number: the client has given that one up, or it would not be here.
    for (const auto& old : group->members()) {
      if (old->tunnel != client.tunnel) continue;
      old->draining = true;
      old->loop.post([old] {
        if (old->peer) old->peer->give_up("the client opened this tunnel anew");
      });
    }
    member->tunnel = client.tunnel;
    group->join(member);
  }
  joined(std::move(group));
}

void Registry::leave(const std::shared_ptr<Group>& group, const std::shared_ptr<Member>& member) {
  const std::lock_guard lock(mutex_);
  if (!group->leave(member)) return;
  group->close_listeners();
  std::erase(groups_, group);
}

void Registry::reload(const config::ServerConfig& config) {
  const std::lock_guard lock(mutex_);
  config_ = config;
  for (const auto& group : groups_) {
    if (!group->token()->revoked) {
      group->reload(config);
      continue;
    }
    group->close_listeners();
    for (const auto& member : group->members()) {
      member->draining = true;
      member->loop.post([member, grace = config.shutdown_grace] {
        if (member->peer) member->peer->send_away("its token was taken out of the configuration", grace);
      });
    }
  }
}

void Registry::clear() {
  const std::lock_guard lock(mutex_);
  for (const auto& group : groups_) group->drop();
  groups_.clear();
}

std::vector<std::shared_ptr<Group>> Registry::groups() const {
  const std::lock_guard lock(mutex_);
  return groups_;
}

}  // namespace qtrp::server
