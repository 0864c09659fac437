#include "server/group.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "qtrp/base/log.h"
#include "qtrp/identity/identity.h"
#include "server/advice.h"
#include "server/peer.h"

namespace qtrp::server {

using protocol::NewProxy;
using protocol::ProxyResp;

namespace {

std::uint64_t target_bps(const config::ServerConfig& config, const config::Token& token) {
  const double mbps = token.target_mbps.value_or(config.brutal.enabled ? config.brutal.target_mbps : 0);
  return static_cast<std::uint64_t>(mbps * 1e6);
}

}  // namespace

Group::Group(io::Loop& home, const config::ServerConfig& config, io::Endpoint default_bind, stats::AccessLog& access,
             std::shared_ptr<TokenState> token, const protocol::AuthBody& client)
    : home_(home),
      default_bind_(default_bind),
      access_(access),
      token_(std::move(token)),
      name_(client.name.empty() ? "client" : client.name),
      instance_(client.instance),
      run_(client.run),
      target_(std::make_shared<pacing::TargetShare>(target_bps(config, *token_->config()))),
      ports_(config.ports) {
  identity::random_bytes(session_);
}

Group::~Group() = default;

void Group::join(const std::shared_ptr<Member>& member) {
  const std::lock_guard lock(mutex_);
  members_.push_back(member);
}

bool Group::leave(const std::shared_ptr<Member>& member) {
  const std::lock_guard lock(mutex_);
  std::erase(members_, member);
  return members_.empty();
}

std::vector<std::shared_ptr<Member>> Group::members() const {
  const std::lock_guard lock(mutex_);
  return members_;
}

void Group::add_proxy(const NewProxy& proxy, io::Loop& answer_on, std::function<void(ProxyResp)> answer) {
  home_.post([self = shared_from_this(), proxy, &answer_on, answer = std::move(answer)]() mutable {
    ProxyResp response = self->register_here(proxy);
    answer_on.post([answer = std::move(answer), response = std::move(response)] { answer(response); });
  });
}

std::string Group::forbidden(const NewProxy& spec, const config::Token& token) const {
  if (spec.port == 0 && !token.ports.empty())
    return "a port chosen by the server may lie outside of the token's `ports`; name one";
  if (spec.port != 0 && (!config::allows(ports_, spec.port) || !config::allows(token.ports, spec.port)))
    return fmt::format("port {} is not allowed for '{}'; see `ports` in the server's configuration", spec.port,
                       token.name);
  return "";
}

void Group::reload(const config::ServerConfig& config) {
  target_->set_target(target_bps(config, *token_->config()));
  home_.post([self = shared_from_this(), ports = config.ports]() mutable {
    self->ports_ = std::move(ports);
    const auto token = self->token_->config();
    std::erase_if(self->proxies_, [&](const auto& entry) {
      const auto& [id, proxy] = entry;
      if (self->forbidden(proxy.spec, *token).empty()) return false;
      log::warn("client '{}': proxy '{}' closed: its port {} is not allowed any more", self->name_, proxy.spec.name,
                proxy.figures.port);
      for (const auto& member : self->members()) {
        member->loop.post([member, id] {
          if (member->peer) member->peer->tell(protocol::CloseProxy{id});
        });
      }
      self->token_->proxies.fetch_sub(1);
      return true;
    });
  });
}

ProxyResp Group::register_here(const NewProxy& spec) {
  const auto token = token_->config();
  const auto refuse = [&](std::string code, std::string text) {
    log::warn("client '{}': proxy '{}' refused: {}", name_, spec.name, text);
    return ProxyResp{spec.id, std::move(code), std::move(text), spec.port};
  };
  if (const auto it = proxies_.find(spec.id); it != proxies_.end()) {
    if (it->second.spec.port == spec.port && it->second.spec.bind == spec.bind) {
      return ProxyResp{.id = spec.id, .code = "ok", .text = "", .port = it->second.figures.port};
    }
    return refuse("bad_request", "this id is another proxy's already");
  }
  if (closed_) return refuse("bad_request", "the client is leaving");
  if (spec.type != "tcp") return refuse("bad_request", fmt::format("type '{}' is not known here", spec.type));
  if (std::string why = forbidden(spec, *token); !why.empty()) return refuse("port_not_allowed", std::move(why));
  // Counted before it is there, so that two loops cannot both take the last place.
  const std::uint32_t before = token_->proxies.fetch_add(1);
  const auto give_back = [&] { token_->proxies.fetch_sub(1); };
  if (token->max_proxies && before >= *token->max_proxies) {
    give_back();
    return refuse("too_many_proxies",
                  fmt::format("'{}' may have {} proxies at most", token->name, *token->max_proxies));
  }
  io::Endpoint at = default_bind_;
  if (!spec.bind.empty()) {
    auto literal = io::Endpoint::from_literal(spec.bind, spec.port);
    if (!literal) {
      give_back();
      return refuse("bad_request", literal.error().message);
    }
    at = *literal;
  }
  at.set_port(spec.port);
  auto listener = io::Listener::listen(
      home_, at, [this, id = spec.id](io::Fd fd, const io::Endpoint& user) { accepted(id, std::move(fd), user); });
  if (!listener) {
    give_back();
    const Error e = advised(listener.error(), at);
    const char* code = e.code == EADDRINUSE      ? "port_in_use"
                       : e.code == EACCES        ? "permission_denied"
                       : e.code == EADDRNOTAVAIL ? "address_not_available"
                                                 : "failed";
    return refuse(code, e.message);
  }
  const std::uint16_t port = (*listener)->local().port();
  Proxy& proxy = proxies_[spec.id];
  proxy.spec = spec;
  proxy.listener = std::move(*listener);
  proxy.info = std::make_shared<const ProxyInfo>(ProxyInfo{spec.id, spec.name, port});
  proxy.figures = {spec.id, spec.name, spec.type, at.host(), port, 0, 0, 0};
  log::info("client '{}': proxy '{}' listens on {}", name_, spec.name, proxy.listener->local().to_string());
  return ProxyResp{.id = spec.id, .code = "ok", .text = "", .port = port};
}

void Group::remove_proxy(std::uint32_t id) {
  home_.post([self = shared_from_this(), id] {
    const auto it = self->proxies_.find(id);
    if (it == self->proxies_.end()) return;
    log::info("client '{}': proxy '{}' closed", self->name_, it->second.spec.name);
    self->proxies_.erase(it);
    self->token_->proxies.fetch_sub(1);
  });
}

void Group::close_listeners(std::function<void()> done) {
  home_.post([self = shared_from_this(), done = std::move(done)] {
    self->closed_ = true;
    self->token_->proxies.fetch_sub(static_cast<std::uint32_t>(self->proxies_.size()));
    self->proxies_.clear();
    if (done) done();
  });
}

void Group::retire(std::uint32_t id, std::uint64_t in, std::uint64_t out, std::uint64_t total) {
  home_.post([self = shared_from_this(), id, in, out, total] {
    const auto it = self->proxies_.find(id);
    if (it == self->proxies_.end()) return;
    it->second.figures.retired_in += in;
    it->second.figures.retired_out += out;
    it->second.figures.retired_total += total;
  });
}

std::shared_ptr<Member> Group::least_loaded(TimePoint now) {
  const std::lock_guard lock(mutex_);
  std::shared_ptr<Member> best;
  for (const auto& member : members_) {
    if (member->draining.load(std::memory_order_relaxed)) continue;
    if (!best || member->load(now) < best->load(now)) best = member;
  }
  return best;
}

void Group::turned_away(const ProxyInfo& proxy, const io::Endpoint& user, stats::EndReason why) const {
  if (!access_.enabled()) return;
  const std::string from = user.to_string();
  stats::AccessRecord record;
  record.user = from;
  record.port = proxy.port;
  record.client = name_;
  record.proxy = proxy.name;
  record.end = why;
  access_.add(record);
}

void Group::accepted(std::uint32_t id, io::Fd fd, const io::Endpoint& user) {
  const auto it = proxies_.find(id);
  if (it == proxies_.end()) return;
  const std::shared_ptr<const ProxyInfo>& proxy = it->second.info;
  const auto reset = [&](stats::EndReason why) {
    turned_away(*proxy, user, why);
    const linger now{1, 0};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
    fd.reset();
  };
  if (!token_->may_open_connection()) {
    if (home_.now() - limit_logged_ > std::chrono::seconds(10)) {
      limit_logged_ = home_.now();
      log::warn("client '{}': connection from {} refused, '{}' has its {} connections already", name_, user.to_string(),
                token_->config()->name, token_->config()->max_connections.value_or(0));
    }
    return reset(stats::EndReason::limit);
  }
  const std::shared_ptr<Member> member = least_loaded(home_.now());
  if (!member) return reset(stats::EndReason::tunnel_lost);
  member->connections.fetch_add(1, std::memory_order_relaxed);
  token_->connections.fetch_add(1, std::memory_order_relaxed);
  if (&member->loop == &home_) {
    Peer::hand_over(*this, member, proxy, std::move(fd), user);
  } else {
    member->loop.post([self = shared_from_this(), member, proxy, fd = std::move(fd), user]() mutable {
      Peer::hand_over(*self, member, proxy, std::move(fd), user);
    });
  }
}

std::vector<ProxyFigures> Group::figures() const {
  std::vector<ProxyFigures> all;
  for (const auto& [id, proxy] : proxies_) all.push_back(proxy.figures);
  return all;
}

}  // namespace qtrp::server
