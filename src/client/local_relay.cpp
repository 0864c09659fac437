#include "client/local_relay.h"

#include <cerrno>

#include "client/advice.h"
#include "client/link.h"
#include "qtrp/base/log.h"
#include "qtrp/protocol/proxy_header.h"

namespace qtrp::client {

using session::ResetCode;

namespace {

io::Endpoint endpoint_of(std::string_view text) {
  const auto parts = io::parse_host_port(text);
  const auto endpoint = parts ? io::Endpoint::from_literal(parts->host, parts->port) : std::unexpected(parts.error());
  return endpoint.value_or(io::Endpoint());
}

}  // namespace

LocalRelay::LocalRelay(Link& link, session::Session& session, io::Loop& loop, stats::Counters& loop_counters)
    : Relay(session, loop, Side::client, {&loop_counters, nullptr}), link_(link), dial_(std::make_unique<Dial>()) {}

LocalRelay::~LocalRelay() = default;

void LocalRelay::on_body(Bytes body) {
  if (!config_ && !over()) {
    const std::size_t before = body.size();
    auto message = dial_->reader.next(body);
    session().moved(stream(), before - body.size());
    if (!message) {
      log::warn("{}: a stream does not begin with NewConn: {}", link_.label(), message.error().message);
      return abort(ResetCode::protocol);
    }
    if (!*message) return;
    const auto* conn = std::get_if<protocol::NewConn>(&**message);
    if (!conn) return abort(ResetCode::protocol);
    begin(*conn);
    if (over() || body.empty()) return;
  }
  Relay::on_body(body);
}

void LocalRelay::on_finished() {
  if (!config_ && !over()) return abort(ResetCode::protocol);  // ended before it said what it is for
  Relay::on_finished();
}

void LocalRelay::begin(const protocol::NewConn& conn) {
  config_ = link_.proxy(conn.proxy);
  proxy_ = conn.proxy;
  if (!config_) {
    log::warn("{}: user {} came for proxy {}, which is not ours", link_.label(), conn.user, conn.proxy);
    return abort(ResetCode::unknown_proxy);
  }
  number_ = conn.connection;
  since_ = loop().now();
  user_ = endpoint_of(conn.user);
  port_ = endpoint_of(conn.destination).port();
  set_proxy_counters(link_.opened(conn.proxy));
  log::debug("{}: proxy '{}': user {} to {}", link_.label(), config_->name, conn.user, config_->local.to_string());
  if (!config_->proxy_protocol.empty()) {
    const auto version = config_->proxy_protocol == "v1" ? protocol::ProxyHeader::v1 : protocol::ProxyHeader::v2;
    set_greeting(protocol::encode_proxy_header(version, conn.user, conn.destination));
  }
  if (auto ready = link_.take_ready(conn.proxy)) {
    dial_.reset();
    return connect(std::move(*ready));
  }
  if (auto literal = io::Endpoint::from_literal(config_->local.host, config_->local.port))
    return connect_to({*literal});
  link_.resolver().resolve(loop(), config_->local, dial_->wanted, [this](Result<std::vector<io::Endpoint>> found) {
    if (!found) return failed(found.error());
    connect_to(std::move(*found));
  });
}

void LocalRelay::connect_to(std::vector<io::Endpoint> addresses) {
  dial_->connector = std::make_unique<io::Connector>(
      loop(), std::move(addresses),
      io::Connector::Options{.timeout = link_.connect_timeout(), .receive_buffer = 0, .before_connect = {}},
      [this](Result<io::Fd> fd) {
        if (!fd) return failed(fd.error());
        dial_.reset();
        connect(std::move(*fd));
      });
}

void LocalRelay::failed(const Error& error) {
  log::warn("{}: proxy '{}': local service {} does not answer: {}; the user's connection is reset", link_.label(),
            config_->name, config_->local.to_string(), advised_local(error));
  abort(error.code == ECONNREFUSED ? ResetCode::refused : ResetCode::unreachable);
}

stats::AccessRecord LocalRelay::record(std::string& user, std::string& local) const {
  user = user_.to_string();
  local = config_->local.to_string();
  stats::AccessRecord record;
  record.user = user;
  record.port = port_;
  record.proxy = config_->name;
  record.local_addr = local;
  record.connection = number_;
  record.bytes_in = bytes_to_socket();
  record.bytes_out = bytes_to_stream();
  record.duration = link_.now() - since_;
  return record;
}

void LocalRelay::close_by_operator() {
  by_operator_ = true;
  abort(ResetCode::cancelled);
}

void LocalRelay::on_end(relay::End end, ResetCode code) {
  dial_.reset();
  link_.relay_ended(*this, end, code);
}

}  // namespace qtrp::client
