// What ngtcp2 calls while a datagram is read. Nothing here calls the session's owner: events are queued.
#include <fmt/format.h>
#include <gnutls/crypto.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <memory>
#include <utility>

#include "connection.h"
#include "wire.h"

namespace qtrp::quic {

struct Callbacks {
  static Connection& self(void* user) { return *static_cast<Connection*>(user); }

  static void rand(std::uint8_t* out, std::size_t n, const ngtcp2_rand_ctx*) { random_nonce(out, n); }

  static int handshake_completed(ngtcp2_conn*, void* user) {
    self(user).on_handshake_completed();
    return self(user).failure_ ? NGTCP2_ERR_CALLBACK_FAILURE : 0;
  }
  static int recv_stream_data(ngtcp2_conn*, std::uint32_t flags, std::int64_t id, std::uint64_t,
                              const std::uint8_t* data, std::size_t n, void* user, void*) {
    return self(user).on_stream_data(id, {reinterpret_cast<const std::byte*>(data), n},
                                     (flags & NGTCP2_STREAM_DATA_FLAG_FIN) != 0);
  }
  static int acked_stream_data_offset(ngtcp2_conn*, std::int64_t id, std::uint64_t offset, std::uint64_t n, void* user,
                                      void*) {
    Connection& c = self(user);
    if (c.http3_ && c.is_foreign(id)) {
      c.http3_->acknowledged(id, n);
    } else if (auto* stream = c.find(id)) {
      stream->out.acknowledged(offset + n, c.outgoing_);
    }
    return 0;
  }
  static int stream_open(ngtcp2_conn*, std::int64_t id, void* user) {
    self(user).on_stream_opened(id);
    return 0;
  }
  static int stream_close(ngtcp2_conn*, std::uint32_t flags, std::int64_t id, std::uint64_t code, void* user, void*) {
    self(user).on_stream_closed(id, code, (flags & NGTCP2_STREAM_CLOSE_FLAG_APP_ERROR_CODE_SET) != 0);
    return 0;
  }
  static int stream_reset(ngtcp2_conn*, std::int64_t id, std::uint64_t, std::uint64_t code, void* user, void*) {
    self(user).on_stream_reset(id, code);
    return 0;
  }
  static int stream_stop_sending(ngtcp2_conn*, std::int64_t id, std::uint64_t code, void* user, void*) {
    Connection& c = self(user);
    if (c.is_foreign(id)) {
      if (c.http3_) c.http3_->cannot_write(id);
    } else {
      c.on_stream_reset(id, code);
    }
    return 0;
  }
  static int extend_max_local_streams_bidi(ngtcp2_conn*, std::uint64_t, void* user) {
    Connection& c = self(user);
    if (std::exchange(c.want_open_, false)) c.events_.push_back({.kind = session::EventKind::can_open});
    return 0;
  }
  static int extend_max_stream_data(ngtcp2_conn*, std::int64_t id, std::uint64_t, void* user, void*) {
    Connection& c = self(user);
    if (c.is_foreign(id)) {
      if (c.http3_) c.http3_->unblocked(id);
    } else if (auto* stream = c.find(id); stream && stream->blocked) {
      stream->blocked = false;
      c.enqueue(*stream, false);
    }
    return 0;
  }
  static int get_new_connection_id(ngtcp2_conn*, ngtcp2_cid* id, std::uint8_t* token, std::size_t length, void* user) {
    Connection& c = self(user);
    *id = make_identifier(c.setup_.worker, c.setup_.workers, length);
    if (ngtcp2_crypto_generate_stateless_reset_token(
            token, reinterpret_cast<const std::uint8_t*>(c.setup_.reset_secret.data()), c.setup_.reset_secret.size(),
            id) != 0)
      return NGTCP2_ERR_CALLBACK_FAILURE;
    c.setup_.host->identifier_added(c, to_id(*id));
    return 0;
  }
  static int remove_connection_id(ngtcp2_conn*, const ngtcp2_cid* id, void* user) {
    self(user).setup_.host->identifier_removed(self(user), to_id(*id));
    return 0;
  }
  static int recv_stateless_reset(ngtcp2_conn*, const ngtcp2_pkt_stateless_reset*, void* user) {
    self(user).failure_ =
        Error{ErrorKind::closed, "the peer knows nothing of the session any more (stateless reset): it was restarted"};
    return 0;
  }
};

const ngtcp2_callbacks& callbacks() {
  static const ngtcp2_callbacks table = [] {
    ngtcp2_callbacks c{};
    c.client_initial = ngtcp2_crypto_client_initial_cb;
    c.recv_client_initial = ngtcp2_crypto_recv_client_initial_cb;
    c.recv_crypto_data = ngtcp2_crypto_recv_crypto_data_cb;
    c.handshake_completed = Callbacks::handshake_completed;
    c.encrypt = ngtcp2_crypto_encrypt_cb;
    c.decrypt = ngtcp2_crypto_decrypt_cb;
    c.hp_mask = ngtcp2_crypto_hp_mask_cb;
    c.recv_stream_data = Callbacks::recv_stream_data;
    c.acked_stream_data_offset = Callbacks::acked_stream_data_offset;
    c.stream_open = Callbacks::stream_open;
    c.stream_close = Callbacks::stream_close;
    c.recv_stateless_reset = Callbacks::recv_stateless_reset;
    c.recv_retry = ngtcp2_crypto_recv_retry_cb;
    c.extend_max_local_streams_bidi = Callbacks::extend_max_local_streams_bidi;
    c.rand = Callbacks::rand;
    c.get_new_connection_id = Callbacks::get_new_connection_id;
    c.remove_connection_id = Callbacks::remove_connection_id;
    c.update_key = ngtcp2_crypto_update_key_cb;
    c.stream_reset = Callbacks::stream_reset;
    c.extend_max_stream_data = Callbacks::extend_max_stream_data;
    c.delete_crypto_aead_ctx = ngtcp2_crypto_delete_crypto_aead_ctx_cb;
    c.delete_crypto_cipher_ctx = ngtcp2_crypto_delete_crypto_cipher_ctx_cb;
    c.get_path_challenge_data = ngtcp2_crypto_get_path_challenge_data_cb;
    c.stream_stop_sending = Callbacks::stream_stop_sending;
    c.version_negotiation = ngtcp2_crypto_version_negotiation_cb;
    return c;
  }();
  return table;
}

void Connection::on_handshake_completed() {
  handshake_done_ = true;
  auto binding = tls_->channel_binding();
  if (!binding) {
    failure_ = binding.error();
    return;
  }
  binding_ = *binding;
  has_binding_ = true;
  events_.push_back({.kind = session::EventKind::established});
  open_fixed_streams();
  if (server_) return;
  if (setup_.options->max_streams > kFirstStreams)
    ngtcp2_conn_extend_max_streams_bidi(conn_, static_cast<std::size_t>(setup_.options->max_streams - kFirstStreams));
  if (setup_.options->max_buffered > kFirstBytes)
    ngtcp2_conn_extend_max_offset(conn_, setup_.options->max_buffered - kFirstBytes);
}

void Connection::open_fixed_streams() {
  // RFC 9114, section 6.2: the control stream (type 0) with SETTINGS, QPACK's encoder and decoder streams (types 2, 3).
  static constexpr std::array<std::byte, 10> kControl{std::byte{0},    std::byte{4}, std::byte{7},    std::byte{1},
                                                      std::byte{0},    std::byte{6}, std::byte{0x80}, std::byte{0},
                                                      std::byte{0x40}, std::byte{0}};
  static constexpr std::byte kEncoder{2}, kDecoder{3};
  std::int64_t ids[3];
  for (std::int64_t& id : ids)
    if (ngtcp2_conn_open_uni_stream(conn_, &id, nullptr) != 0) {
      failure_ = Error{ErrorKind::protocol, "the peer allows too few one-way streams for HTTP/3"};
      return;
    }
  if (server_) {
    http3_ = std::make_unique<Http3>(*setup_.site, path().remote);
    if (auto started = http3_->start(ids[0], ids[1], ids[2]); !started) failure_ = started.error();
    return;
  }
  const Bytes first[3] = {kControl, {&kEncoder, 1}, {&kDecoder, 1}};
  for (int i = 0; i < 3; ++i) {
    Stream& stream = add_stream(ids[i]);
    stream.out.add(first[i].data(), first[i].size(), nullptr, outgoing_);
    enqueue(stream, true);
  }
}

void Connection::on_stream_opened(std::int64_t id) {
  if (!ngtcp2_is_bidi_stream(id) || kind_ == Kind::visitor) return;
  add_stream(id);
  events_.push_back({.kind = session::EventKind::opened, .stream = id});
}

int Connection::on_stream_data(std::int64_t id, Bytes data, bool fin) {
  if (!is_foreign(id)) return on_bidi_data(id, data, fin);
  std::size_t credit = data.size();
  if (http3_) {
    auto taken = http3_->receive(id, data, fin);
    if (!taken) {
      failure_ = Error{ErrorKind::protocol, fmt::format("HTTP/3 error {:#x}", taken.error())};
      return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    credit = *taken;
  }
  if (ngtcp2_is_bidi_stream(id)) ngtcp2_conn_extend_max_stream_offset(conn_, id, credit);
  if (!ngtcp2_is_bidi_stream(id)) ngtcp2_conn_extend_max_stream_offset(conn_, id, data.size());
  ngtcp2_conn_extend_max_offset(conn_, credit);
  return 0;
}

int Connection::on_bidi_data(std::int64_t id, Bytes data, bool fin) {
  if (kind_ == Kind::unknown && id == 0 && !data.empty()) {
    classify(data[0]);
    if (kind_ == Kind::visitor) return on_stream_data(id, data, fin);
    data = data.subspan(1);
    ngtcp2_conn_extend_max_stream_offset(conn_, id, 1);
    ngtcp2_conn_extend_max_offset(conn_, 1);
  }
  if (!data.empty()) queue_body(id, data);
  if (fin) events_.push_back({.kind = session::EventKind::finished, .stream = id});
  return 0;
}

void Connection::queue_body(std::int64_t id, Bytes data) {
  while (!data.empty()) {
    Block& block = incoming_.room(std::min<std::size_t>(data.size(), 1500), data.size() + incoming_bytes_);
    std::size_t n = std::min(data.size(), block.space().size());
    std::memcpy(block.space().data(), data.data(), n);
    const std::byte* at = incoming_.commit(block, n);
    incoming_bytes_ += n;
    data = data.subspan(n);
    if (!events_.empty()) {
      Pending& last = events_.back();
      if (last.kind == session::EventKind::body && last.stream == id && last.block == &block &&
          last.data + last.length == at) {
        last.length += n;
        incoming_.merge(block);
        continue;
      }
    }
    events_.push_back({.kind = session::EventKind::body, .stream = id, .block = &block, .data = at, .length = n});
  }
}

void Connection::classify(std::byte first) {
  kind_ = first == kTunnelByte ? Kind::tunnel : Kind::visitor;
  if (kind_ == Kind::visitor) feed_site();
}

void Connection::feed_site() {
  // What other streams brought before stream 0 told who this is.
  std::deque<Pending> before = std::exchange(events_, {});
  for (Pending& event : before) {
    if (event.block) {
      if (http3_ && !failure_) on_stream_data(event.stream, {event.data, event.length}, false);
      incoming_bytes_ -= event.length;
      incoming_.release(*event.block);
    } else if (event.kind == session::EventKind::finished && http3_ && !failure_) {
      on_stream_data(event.stream, {}, true);
    }
  }
  for (auto& [id, stream] : streams_) stream.out.clear(outgoing_);
  streams_.clear();
}

void Connection::on_stream_reset(std::int64_t id, std::uint64_t code) {
  if (is_foreign(id)) {
    if (http3_) http3_->reset(id);
    return;
  }
  Stream* stream = find(id);
  if (!stream || stream->gone || stream->reset_queued) return;
  // A reset ends both directions here (session.h); QUIC has one signal for each.
  queue_reset(*stream, code);
}

void Connection::on_stream_closed(std::int64_t id, std::uint64_t code, bool code_set) {
  if (!ngtcp2_conn_is_local_stream(conn_, id)) {
    if (ngtcp2_is_bidi_stream(id)) {
      ngtcp2_conn_extend_max_streams_bidi(conn_, 1);
    } else {
      ngtcp2_conn_extend_max_streams_uni(conn_, 1);
    }
  }
  if (http3_ && is_foreign(id)) {
    http3_->closed(id, code_set ? code : kNoError);
    return;
  }
  Stream* stream = find(id);
  if (!stream) return;
  stream->closed = true;
  stream->source = nullptr;
  stream->out.clear(outgoing_);
  events_.push_back({.kind = session::EventKind::reset, .stream = id, .release = true});
}

}  // namespace qtrp::quic
