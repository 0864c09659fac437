// nghttp3 glue: requests in, small answers out. Everything a visitor may do is bounded: 16 KiB of header fields
// (nghttp3's own limit is set to it), one answer a stream, bodies of requests are dropped.
#include "http3.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace qtrp::quic {
namespace {

constexpr std::uint64_t kMaxHeaders = 16 << 10;

nghttp3_nv field(std::string_view name, std::string_view value) {
  auto bytes = [](std::string_view text) { return reinterpret_cast<const std::uint8_t*>(text.data()); };
  return {bytes(name), bytes(value), name.size(), value.size(), NGHTTP3_NV_FLAG_NONE};
}

}  // namespace

struct Http3Callbacks {
  static Http3& self(void* user) { return *static_cast<Http3*>(user); }

  static int begin_headers(nghttp3_conn*, std::int64_t stream, void* user, void*) {
    self(user).exchanges_[stream];
    return 0;
  }
  static int recv_header(nghttp3_conn*, std::int64_t stream, std::int32_t token, nghttp3_rcbuf*, nghttp3_rcbuf* value,
                         std::uint8_t, void* user, void*) {
    nghttp3_vec text = nghttp3_rcbuf_get_buf(value);
    std::string_view view(reinterpret_cast<const char*>(text.base), text.len);
    Request& request = self(user).exchanges_[stream].request;
    if (token == NGHTTP3_QPACK_TOKEN__METHOD) request.method = view;
    if (token == NGHTTP3_QPACK_TOKEN__PATH) request.path = view;
    if (token == NGHTTP3_QPACK_TOKEN_AUTHORIZATION) request.authorization = view;
    return 0;
  }
  static int end_headers(nghttp3_conn*, std::int64_t stream, int, void* user, void*) {
    return self(user).respond(stream);
  }
  static int recv_data(nghttp3_conn*, std::int64_t, const std::uint8_t*, std::size_t n, void* user, void*) {
    self(user).credit_ += n;
    return 0;
  }
  static int deferred_consume(nghttp3_conn*, std::int64_t, std::size_t n, void* user, void*) {
    self(user).credit_ += n;
    return 0;
  }
  static nghttp3_ssize read_body(nghttp3_conn*, std::int64_t stream, nghttp3_vec* out, std::size_t count,
                                 std::uint32_t* flags, void* user, void*) {
    *flags = NGHTTP3_DATA_FLAG_EOF;
    auto at = self(user).exchanges_.find(stream);
    if (at == self(user).exchanges_.end() || count == 0 || at->second.body.empty()) return 0;
    std::string& body = at->second.body;
    out[0] = {reinterpret_cast<std::uint8_t*>(body.data()), body.size()};
    return 1;
  }
};

Http3::~Http3() {
  nghttp3_conn_del(conn_);
}

Result<void> Http3::start(std::int64_t control, std::int64_t encoder, std::int64_t decoder) {
  nghttp3_callbacks callbacks{};
  callbacks.begin_headers = Http3Callbacks::begin_headers;
  callbacks.recv_header = Http3Callbacks::recv_header;
  callbacks.end_headers = Http3Callbacks::end_headers;
  callbacks.recv_data = Http3Callbacks::recv_data;
  callbacks.deferred_consume = Http3Callbacks::deferred_consume;
  nghttp3_settings settings;
  nghttp3_settings_default(&settings);
  settings.max_field_section_size = kMaxHeaders;
  settings.qpack_max_dtable_capacity = 4096;
  settings.qpack_blocked_streams = 16;
  int rv = nghttp3_conn_server_new(&conn_, &callbacks, &settings, nghttp3_mem_default(), this);
  if (rv == 0) rv = nghttp3_conn_bind_control_stream(conn_, control);
  if (rv == 0) rv = nghttp3_conn_bind_qpack_streams(conn_, encoder, decoder);
  if (rv != 0) return fail(ErrorKind::protocol, fmt::format("HTTP/3: {}", nghttp3_strerror(rv)));
  return {};
}

std::expected<std::size_t, std::uint64_t> Http3::receive(std::int64_t stream, Bytes data, bool fin) {
  credit_ = 0;
  auto n = nghttp3_conn_read_stream(conn_, stream, reinterpret_cast<const std::uint8_t*>(data.data()), data.size(),
                                    fin ? 1 : 0);
  if (n < 0) return std::unexpected(nghttp3_err_infer_quic_app_error_code(static_cast<int>(n)));
  return static_cast<std::size_t>(n) + credit_;
}

void Http3::reset(std::int64_t stream) {
  nghttp3_conn_shutdown_stream_read(conn_, stream);
}

void Http3::closed(std::int64_t stream, std::uint64_t code) {
  nghttp3_conn_close_stream(conn_, stream, code);
  exchanges_.erase(stream);
}

void Http3::acknowledged(std::int64_t stream, std::uint64_t bytes) {
  nghttp3_conn_add_ack_offset(conn_, stream, bytes);
}
void Http3::unblocked(std::int64_t stream) {
  nghttp3_conn_unblock_stream(conn_, stream);
}

std::expected<bool, std::uint64_t> Http3::next(Outgoing& out) {
  int fin = 0;
  auto n = nghttp3_conn_writev_stream(conn_, &out.stream, &fin, out.pieces, std::size(out.pieces));
  if (n < 0) return std::unexpected(nghttp3_err_infer_quic_app_error_code(static_cast<int>(n)));
  out.count = static_cast<std::size_t>(n);
  out.fin = fin != 0;
  return out.stream >= 0;
}

void Http3::sent(std::int64_t stream, std::size_t bytes) {
  nghttp3_conn_add_write_offset(conn_, stream, bytes);
}
void Http3::blocked(std::int64_t stream) {
  nghttp3_conn_block_stream(conn_, stream);
}
void Http3::cannot_write(std::int64_t stream) {
  nghttp3_conn_shutdown_stream_write(conn_, stream);
}

int Http3::respond(std::int64_t stream) {
  Exchange& exchange = exchanges_[stream];
  Answer reply = answer(site_, exchange.request, visitor_);
  std::string status = std::to_string(reply.status), length = std::to_string(reply.body.size());
  exchange.body = exchange.request.method == "HEAD" ? std::string() : std::move(reply.body);
  std::vector<nghttp3_nv> fields{field(":status", status), field("content-type", reply.type),
                                 field("content-length", length)};
  if (reply.status == 405) fields.push_back(field("allow", "GET, HEAD"));
  nghttp3_data_reader reader{.read_data = Http3Callbacks::read_body};
  int rv = nghttp3_conn_submit_response(conn_, stream, fields.data(), fields.size(),
                                        exchange.body.empty() ? nullptr : &reader);
  return rv == 0 ? 0 : NGHTTP3_ERR_CALLBACK_FAILURE;
}

}  // namespace qtrp::quic
