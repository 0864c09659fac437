// Making a connection, feeding it datagrams and time, and ending it.
#include "connection.h"

#include <fmt/format.h>
#include <gnutls/crypto.h>

#include <algorithm>
#include <array>
#include <bit>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "wire.h"

namespace qtrp::quic {

namespace {

// What a late turn of the loop may make up for.
constexpr Duration kMostCredit = std::chrono::milliseconds(10);

}  // namespace

std::uint64_t to_wire(session::ResetCode code) {
  return kResetBase + static_cast<std::uint64_t>(code);
}
session::ResetCode from_wire(std::uint64_t code) {
  if (code < kResetBase || code > kResetBase + static_cast<std::uint64_t>(session::ResetCode::session_lost))
    return session::ResetCode::unspecified;
  return static_cast<session::ResetCode>(code - kResetBase);
}

void random_nonce(std::uint8_t* out, std::size_t n) {
  if (gnutls_rnd(GNUTLS_RND_NONCE, out, n) != 0) std::abort();
}

ngtcp2_cid make_identifier(unsigned worker, unsigned workers, std::size_t length) {
  ngtcp2_cid id;
  id.datalen = length;
  random_nonce(id.data, length);
  unsigned first = id.data[0] - id.data[0] % workers + worker;
  id.data[0] = static_cast<std::uint8_t>(first > 255 ? first - workers : first);
  return id;
}

ngtcp2_path to_ngtcp2(const Path& path) {
  auto address = [](const io::Endpoint& endpoint) {
    return ngtcp2_addr{const_cast<sockaddr*>(endpoint.data()), static_cast<ngtcp2_socklen>(endpoint.size())};
  };
  return {address(path.local), address(path.remote), nullptr};
}
Path from_ngtcp2(const ngtcp2_path& path) {
  return {io::Endpoint(path.local.addr, path.local.addrlen), io::Endpoint(path.remote.addr, path.remote.addrlen)};
}

Connection::Connection(const Setup& setup, bool server)
    : setup_(setup),
      server_(server),
      kind_(server ? Kind::unknown : Kind::tunnel),
      outgoing_(*setup.pool),
      incoming_(*setup.pool),
      bucket_(0, kMostCredit) {
  conn_ref_.get_conn = [](ngtcp2_crypto_conn_ref* ref) { return static_cast<Connection*>(ref->user_data)->conn_; };
  conn_ref_.user_data = this;
  ngtcp2_ccerr_default(&close_error_);
}

Connection::~Connection() {
  release_last_body();
  for (auto* events : {&events_, &early_})
    for (Pending& event : *events)
      if (event.block) incoming_.release(*event.block);
  for (auto& [id, stream] : streams_) stream.out.clear(outgoing_);
  if (conn_) ngtcp2_conn_del(conn_);
}

Result<std::unique_ptr<Connection>> Connection::client(const Setup& setup, const Path& path, TimePoint now) {
  std::unique_ptr<Connection> connection(new Connection(setup, false));
  if (auto made = connection->make(path, nullptr, now); !made) return std::unexpected(made.error());
  return connection;
}

Result<std::unique_ptr<Connection>> Connection::server(const Setup& setup, const Path& path, const Accepted& accepted,
                                                       TimePoint now) {
  std::unique_ptr<Connection> connection(new Connection(setup, true));
  if (auto made = connection->make(path, &accepted, now); !made) return std::unexpected(made.error());
  return connection;
}

void Connection::fill_settings(ngtcp2_settings& settings, TimePoint now) const {
  const Options& options = *setup_.options;
  ngtcp2_settings_default(&settings);
  settings.initial_ts = stamp(now);
  settings.handshake_timeout =
      static_cast<ngtcp2_duration>(std::chrono::nanoseconds(options.handshake_timeout).count());
  settings.max_stream_window = settings.max_window = 0;  // grow_window() does it; the connection's is a bound on memory
  settings.max_tx_udp_payload_size = setup_.max_datagram;
  const bool named = options.brutal_target == 0;  // else the next best thing to Brutal is BBR
  if (controller_ || (named && options.congestion == "reno")) {
    settings.cc_algo = NGTCP2_CC_ALGO_RENO;  // our controller stands in its place
  } else if (named && options.congestion == "cubic") {
    settings.cc_algo = NGTCP2_CC_ALGO_CUBIC;
  } else {
    settings.cc_algo = NGTCP2_CC_ALGO_BBR;
  }
}

void Connection::fill_parameters(ngtcp2_transport_params& parameters) const {
  const Options& options = *setup_.options;
  ngtcp2_transport_params_default(&parameters);
  parameters.max_idle_timeout = static_cast<ngtcp2_duration>(std::chrono::nanoseconds(options.idle_timeout).count());
  parameters.initial_max_stream_data_uni = 64 << 10;
  parameters.initial_max_streams_uni = 100;
  parameters.initial_max_streams_bidi = kFirstStreams;  // more after the handshake, where nobody sees it
  parameters.active_connection_id_limit = 7;
  parameters.initial_max_stream_data_bidi_local = options.stream_window;
  parameters.initial_max_stream_data_bidi_remote = server_ ? kUnauthenticatedBytes : options.stream_window;
  parameters.initial_max_data = server_ ? 4 * kUnauthenticatedBytes : std::min(kFirstBytes, options.max_buffered);
}

Result<void> Connection::make(const Path& path, const Accepted* accepted, TimePoint now) {
  auto tls = TlsSession::make(*setup_.tls, &conn_ref_);
  if (!tls) return std::unexpected(tls.error());
  tls_ = std::move(*tls);

  const Options& options = *setup_.options;
  if (has_own_congestion() && (options.brutal_target > 0 || options.congestion == "bbr"))
    controller_ = make_steering(options.brutal_target / 8);
  ngtcp2_settings settings;
  fill_settings(settings, now);
  std::array<std::uint16_t, 6> probes{};
  std::size_t count = 0;
  for (std::size_t size : {setup_.max_datagram, std::size_t{16384}, std::size_t{8948}, std::size_t{1472},
                           std::size_t{1452}, std::size_t{1392}})
    if (size > NGTCP2_MAX_UDP_PAYLOAD_SIZE && size <= setup_.max_datagram && (count == 0 || size < probes[count - 1]))
      probes[count++] = static_cast<std::uint16_t>(size);
  if (count > 0) {
    settings.pmtud_probes = probes.data();
    settings.pmtud_probeslen = count;
  }
  ngtcp2_transport_params parameters;
  fill_parameters(parameters);
  ngtcp2_path native = to_ngtcp2(path);
  ngtcp2_cid own = make_identifier(setup_.worker, setup_.workers, server_ ? kServerIdLength : kClientIdLength);
  ControllerScope scope(controller_.get());
  int rv = 0;
  if (server_) {
    parameters.original_dcid = accepted->original_dcid;
    parameters.original_dcid_present = 1;
    if (accepted->validated) {
      parameters.retry_scid = accepted->header.dcid;
      parameters.retry_scid_present = 1;
      settings.token = accepted->header.token;
      settings.tokenlen = accepted->header.tokenlen;
      settings.token_type = NGTCP2_TOKEN_TYPE_RETRY;
    }
    parameters.stateless_reset_token_present = 1;
    if (ngtcp2_crypto_generate_stateless_reset_token(parameters.stateless_reset_token,
                                                     reinterpret_cast<const std::uint8_t*>(setup_.reset_secret.data()),
                                                     setup_.reset_secret.size(), &own) != 0)
      return fail(ErrorKind::crypto, "stateless reset token");
    client_dcid_.assign(reinterpret_cast<const char*>(accepted->header.dcid.data), accepted->header.dcid.datalen);
    rv = ngtcp2_conn_server_new(&conn_, &accepted->header.scid, &own, &native, accepted->header.version, &callbacks(),
                                &settings, &parameters, nullptr, this);
  } else {
    ngtcp2_cid destination = make_identifier(0, 1, kServerIdLength);
    rv = ngtcp2_conn_client_new(&conn_, &destination, &own, &native, NGTCP2_PROTO_VER_V1, &callbacks(), &settings,
                                &parameters, nullptr, this);
  }
  if (rv != 0) return fail(ErrorKind::protocol, fmt::format("QUIC: {}", ngtcp2_strerror(rv)));
  ngtcp2_conn_set_tls_native_handle(conn_, tls_->handle());
  if (!server_ && options.keepalive > Duration::zero())
    ngtcp2_conn_set_keep_alive_timeout(
        conn_, static_cast<ngtcp2_duration>(std::chrono::nanoseconds(options.keepalive).count()));
  return {};
}

std::vector<ConnectionId> Connection::identifiers() const {
  std::vector<ngtcp2_cid> ids(ngtcp2_conn_get_scid(conn_, nullptr));
  ngtcp2_conn_get_scid(conn_, ids.data());
  std::vector<ConnectionId> out;
  out.reserve(ids.size() + 1);
  for (const ngtcp2_cid& id : ids) out.emplace_back(reinterpret_cast<const char*>(id.data), id.datalen);
  if (!client_dcid_.empty()) out.push_back(client_dcid_);
  return out;
}

Path Connection::path() const {
  return from_ngtcp2(*ngtcp2_conn_get_path(conn_));
}
std::size_t Connection::datagram_size() const {
  return ngtcp2_conn_get_path_max_tx_udp_payload_size(conn_);
}

void Connection::receive(const Path& path, std::uint8_t ecn, Bytes datagram, TimePoint now) {
  now_ = now;
  bytes_in_ += datagram.size();
  if (state_ == State::closing) {
    // RFC 9000, section 10.2.1: answer, but ever more rarely.
    ++close_answers_;
    if (std::has_single_bit(close_answers_)) close_wanted_ = true;
    return;
  }
  if (state_ != State::open) return;
  ngtcp2_path native = to_ngtcp2(path);
  ngtcp2_pkt_info info{ecn};
  int rv = ngtcp2_conn_read_pkt(conn_, &native, &info, reinterpret_cast<const std::uint8_t*>(datagram.data()),
                                datagram.size(), stamp(now));
  if (rv == 0) {
    heard_ = true;
    relieve();
    return;
  }
  ngtcp2_ccerr error;
  switch (rv) {
    case NGTCP2_ERR_DRAINING:
      state_ = State::draining;
      closing_until_ = now + 3 * std::chrono::nanoseconds(static_cast<std::int64_t>(ngtcp2_conn_get_pto(conn_)));
      over(failure_ ? *failure_ : peers_reason(*ngtcp2_conn_get_ccerr(conn_)));
      return;
    case NGTCP2_ERR_DROP_CONN:
    case NGTCP2_ERR_RETRY:
      state_ = State::dead;
      over({ErrorKind::protocol, "the first datagram is unusable"});
      return;
    case NGTCP2_ERR_CRYPTO: {
      std::uint8_t alert = ngtcp2_conn_get_tls_alert(conn_);
      ngtcp2_ccerr_set_tls_alert(&error, alert, nullptr, 0);
      std::string why = tls_->refusal().empty() ? gnutls_alert_get_name(static_cast<gnutls_alert_description_t>(alert))
                                                : tls_->refusal();
      fail_with(
          {ErrorKind::crypto,
           fmt::format("{}: {}",
                       server_ ? "TLS handshake failed" : "the server's certificate was refused or TLS failed", why)},
          error);
      return;
    }
    default:
      if (failure_) {  // one of our callbacks gave the reason
        ngtcp2_ccerr_set_application_error(&error, to_wire_kind(failure_->kind), nullptr, 0);
      } else {
        ngtcp2_ccerr_set_liberr(&error, rv, nullptr, 0);
      }
      fail_with(failure_ ? *failure_ : Error{ErrorKind::protocol, fmt::format("QUIC: {}", ngtcp2_strerror(rv))}, error);
  }
}

void Connection::on_time(TimePoint now) {
  if (state_ == State::closing || state_ == State::draining) {
    if (now >= closing_until_ && !close_wanted_) state_ = State::dead;
    return;
  }
  if (state_ != State::open || ngtcp2_conn_get_expiry(conn_) > stamp(now)) return;
  acknowledgement_due_ = true;
  int rv = ngtcp2_conn_handle_expiry(conn_, stamp(now));
  if (rv == 0) return;
  if (rv == NGTCP2_ERR_IDLE_CLOSE || rv == NGTCP2_ERR_HANDSHAKE_TIMEOUT) {
    state_ = State::dead;
    over({ErrorKind::timeout, rv == NGTCP2_ERR_IDLE_CLOSE ? "nothing was heard from the peer for the idle timeout"
                                                          : "no answer to the QUIC handshake"});
    return;
  }
  ngtcp2_ccerr error;
  ngtcp2_ccerr_set_liberr(&error, rv, nullptr, 0);
  fail_with({ErrorKind::protocol, fmt::format("QUIC: {}", ngtcp2_strerror(rv))}, error);
}

TimePoint Connection::next_time(TimePoint now) const {
  if (state_ == State::dead) return TimePoint::max();
  if (close_wanted_) return now;
  if (state_ != State::open) return closing_until_;
  ngtcp2_tstamp expiry = ngtcp2_conn_get_expiry(conn_);
  TimePoint when =
      expiry == UINT64_MAX ? TimePoint::max() : TimePoint(std::chrono::nanoseconds(static_cast<std::int64_t>(expiry)));
  if (paced_) when = std::min(when, paced_until_);
  when = std::min(when, follow_up_at_);
  if (closing_deadline_) when = std::min(when, *closing_deadline_);
  return when;
}

void Connection::migrate(const Path& to, TimePoint now) {
  if (state_ != State::open) return;
  ngtcp2_path native = to_ngtcp2(to);
  if (ngtcp2_conn_initiate_immediate_migration(conn_, &native, stamp(now)) == 0) setup_.host->wants_flush(*this);
}

void Connection::close(Error reason) {
  if (state_ != State::open || closing_reason_) return;
  closing_reason_ = std::move(reason);
  setup_.host->wants_flush(*this);
}

void Connection::abandon() {
  abandoned_ = true;
  release_last_body();
  for (auto* events : {&events_, &early_})
    for (Pending& event : *events)
      if (event.block) incoming_.release(*event.block);
  events_.clear();
  early_.clear();
  for (auto& [id, stream] : streams_) {
    stream.source = nullptr;
    stream.gone = true;
  }
  abandon_for({ErrorKind::closed, "closed"});
}

void Connection::abandon_for(Error reason) {
  ngtcp2_ccerr error;
  ngtcp2_ccerr_set_application_error(&error, to_wire_kind(reason.kind), nullptr, 0);
  fail_with(std::move(reason), error);
}

void Connection::fail_with(Error error, std::optional<ngtcp2_ccerr> close_frame) {
  if (state_ != State::open) return;
  state_ = State::closing;
  if (close_frame) close_error_ = *close_frame;
  close_text_ = error.message.substr(0, 200);
  close_wanted_ = true;
  over(std::move(error));
  setup_.host->wants_flush(*this);
}

void Connection::over(Error error) {
  failure_ = std::move(error);
  closing_reason_.reset();
  closing_deadline_.reset();
  for (auto& [id, stream] : streams_) stream.source = nullptr;
  fresh_.clear();
  bulk_.clear();
  events_.push_back({.kind = session::EventKind::closed});
}

Error peers_reason(const ngtcp2_ccerr& error) {
  std::string text(reinterpret_cast<const char*>(error.reason), error.reasonlen);
  if (error.type == NGTCP2_CCERR_TYPE_APPLICATION) {
    if (error.error_code == kNoError) return {ErrorKind::closed, text.empty() ? "the peer closed the session" : text};
    return {kind_from_wire(error.error_code),
            text.empty() ? fmt::format("the peer closed the session with code {:#x}", error.error_code) : text};
  }
  if (error.error_code >= 0x100 && error.error_code < 0x200) {
    const char* alert = gnutls_alert_get_name(static_cast<gnutls_alert_description_t>(error.error_code - 0x100));
    return {ErrorKind::crypto, fmt::format("the peer refused the TLS handshake: {}", alert ? alert : "unknown alert")};
  }
  return {ErrorKind::protocol, fmt::format("the peer ended the QUIC connection with code {:#x}{}{}", error.error_code,
                                           text.empty() ? "" : ": ", text)};
}

}  // namespace qtrp::quic
