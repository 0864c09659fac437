// TLS records between OpenSSL and our buffers: a BIO that reads from the span given to open() and appends to our
// output.
#include <openssl/err.h>
#include <openssl/ssl.h>

#include "crypto/foreign.h"
#include "crypto/tls_layer.h"

namespace qtrp::crypto {
namespace {

constexpr std::size_t kRecordPlain = 16384;                              // RFC 8446, section 5.1
constexpr std::size_t kRecordOverhead = 5 + 1 + 16;                      // header, content type, tag (section 5.2)
constexpr std::size_t kBatch = 4 * kRecordPlain;                         // plaintext bytes of one open() or seal()
constexpr std::string_view kExporterLabel = "EXPORTER-Channel-Binding";  // RFC 9266, section 2

constexpr std::size_t records_of(std::size_t plain) {
  return (plain + kRecordPlain - 1) / kRecordPlain;
}

}  // namespace

// The three call-backs of the BIO. It lives no longer than the layer, its data pointer is the layer.

int TlsLayer::bio_read(BIO* bio, char* to, std::size_t room, std::size_t* got) {
  auto* const layer = static_cast<TlsLayer*>(BIO_get_data(bio));
  BIO_clear_retry_flags(bio);
  if (layer->wire_.empty()) {
    *got = 0;
    BIO_set_retry_read(bio);
    return 0;
  }
  *got = std::min(room, layer->wire_.size());
  std::memcpy(to, layer->wire_.data(), *got);
  layer->wire_ = layer->wire_.subspan(*got);
  return 1;
}

int TlsLayer::bio_write(BIO* bio, const char* from, std::size_t size, std::size_t* written) {
  auto* const layer = static_cast<TlsLayer*>(BIO_get_data(bio));
  BIO_clear_retry_flags(bio);
  layer->sink_->append({reinterpret_cast<const std::byte*>(from), size});
  *written = size;
  return 1;
}

long TlsLayer::bio_control(BIO*, int command, long, void*) {
  return command == BIO_CTRL_FLUSH ? 1 : 0;
}

BIO_METHOD* TlsLayer::bio_method() {
  static BIO_METHOD* const method = [] {
    BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "qtrp record layer");
    if (made != nullptr) {
      BIO_meth_set_read_ex(made, bio_read);
      BIO_meth_set_write_ex(made, bio_write);
      BIO_meth_set_ctrl(made, bio_control);
    }
    return made;
  }();
  return method;
}

TlsLayer::TlsLayer(SslPtr ssl, bool server) : ssl_(std::move(ssl)), server_(server) {
  SSL_set_app_data(ssl_.get(), &refusal_);
  if (server_) {
    SSL_set_accept_state(ssl_.get());
  } else {
    SSL_set_connect_state(ssl_.get());
  }
}

Result<void> TlsLayer::start() {
  BIO* const bio = BIO_new(bio_method());
  if (bio == nullptr) return fail(ErrorKind::crypto, "OpenSSL cannot make a BIO");
  BIO_set_data(bio, this);
  BIO_set_init(bio, 1);
  SSL_set_bio(ssl_.get(), bio, bio);
  return handshake();
}

Result<void> TlsLayer::handshake() {
  ERR_clear_error();
  const int result = SSL_do_handshake(ssl_.get());
  if (result != 1) {
    if (SSL_get_error(ssl_.get(), result) == SSL_ERROR_WANT_READ) return {};
    return std::unexpected(explain(result));
  }
  // No context is the same as an empty one in TLS 1.3 (RFC 8446, section 7.5).
  if (SSL_export_keying_material(ssl_.get(), reinterpret_cast<unsigned char*>(binding_.data()), binding_.size(),
                                 kExporterLabel.data(), kExporterLabel.size(), nullptr, 0, 0) != 1) {
    return std::unexpected(explain(-1));
  }
  established_ = true;
  return {};
}

Result<RecordLayer::Opened> TlsLayer::open(MutableBytes wire) {
  if (error_) return std::unexpected(*error_);
  if (first_size_ < first_.size()) {
    const std::size_t more = std::min(first_.size() - first_size_, wire.size());
    std::ranges::copy(wire.first(more), first_.begin() + static_cast<std::ptrdiff_t>(first_size_));
    first_size_ += more;
    if (!may_be_tls(Bytes(first_).first(first_size_))) {
      const std::string guess = describe_foreign(first_size_ == more ? Bytes(wire) : Bytes(first_).first(first_size_));
      error_ = Error{ErrorKind::crypto, fmt::format("the peer does not speak TLS ({})", guess)};
      return std::unexpected(*error_);
    }
  }
  // What can come out: the wire's records and one that OpenSSL has in part or in whole.
  plain_.restart(std::min(wire.size() + kRecordPlain, kBatch));
  wire_ = wire;
  Result<void> done;
  if (!established_) done = handshake();
  if (done && established_) done = read_records();
  const std::size_t consumed = wire.size() - wire_.size();
  wire_ = {};
  if (!done) {
    error_ = std::move(done.error());
    // What was read before the error comes out first.
    if (plain_.size() == 0) return std::unexpected(*error_);
  }
  return Opened{consumed, {plain_.data(), plain_.size()}};
}

Result<void> TlsLayer::read_records() {
  while (plain_.size() < plain_.capacity()) {
    std::size_t got = 0;
    ERR_clear_error();
    const int result = SSL_read_ex(ssl_.get(), plain_.data() + plain_.size(), plain_.capacity() - plain_.size(), &got);
    if (result == 1) {
      plain_.extend(got);
      continue;
    }
    if (SSL_get_error(ssl_.get(), result) == SSL_ERROR_WANT_READ) return {};
    return std::unexpected(explain(result));
  }
  return {};
}

Rooms TlsLayer::rooms() const {
  return {0, 0, kBatch};
}

Result<Bytes> TlsLayer::seal(MutableBytes buffer) {
  if (error_) return std::unexpected(*error_);
  if (closed_) return fail(ErrorKind::closed, "sealing after close");
  if (!established_) return fail(ErrorKind::crypto, "sealing before the handshake is done");
  if (buffer.empty()) return Bytes();
  ERR_clear_error();
  if (records_ >= records_per_key_) {
    if (SSL_key_update(ssl_.get(), SSL_KEY_UPDATE_NOT_REQUESTED) != 1) return std::unexpected(explain(-1));
    records_ = 0;
    ++key_updates_;
  }
  const std::size_t records = records_of(buffer.size());
  records_ += records;
  sealed_.restart(buffer.size() + (records + 2) * kRecordOverhead);  // and room for key updates
  sink_ = &sealed_;
  std::size_t written = 0;
  const int result = SSL_write_ex(ssl_.get(), buffer.data(), buffer.size(), &written);
  sink_ = &output_;
  if (result != 1 || written != buffer.size()) return std::unexpected(explain(result));
  return sealed_.bytes();
}

void TlsLayer::close() {
  if (closed_) return;
  closed_ = true;
  if (!established_ || error_) return;
  ERR_clear_error();
  SSL_shutdown(ssl_.get());  // 0 or 1: the close_notify is in output_, the peer's may still come
  ERR_clear_error();
}

std::string TlsLayer::describe() const {
  const char* const cipher = established_ ? SSL_get_cipher_name(ssl_.get()) : nullptr;
  return cipher == nullptr ? "tls" : fmt::format("tls {}", cipher);
}

Error TlsLayer::explain(int result) {
  const int kind = SSL_get_error(ssl_.get(), result);
  const unsigned long code = ERR_peek_last_error();
  ERR_clear_error();
  if (kind == SSL_ERROR_ZERO_RETURN) return {ErrorKind::closed, "the peer closed the tunnel"};
  if (!refusal_.empty()) return {ErrorKind::crypto, refusal_};
  const int reason = ERR_GET_REASON(code);
  const char* text = code == 0 ? nullptr : ERR_reason_error_string(code);
  if (text == nullptr) text = "no reason given";
  switch (reason) {
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
    case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
      return {ErrorKind::crypto, fmt::format("the peer refused our certificate: {} (its tls.ca or tls.pin)", text)};
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_TLSV1_ALERT_PROTOCOL_VERSION:
    case SSL_R_VERSION_TOO_LOW:
      return {ErrorKind::crypto, "the peer does not speak TLS 1.3"};
    default:
      break;
  }
  // OpenSSL numbers the alerts that the peer sent from here on.
  if (reason > SSL_AD_REASON_OFFSET && reason < SSL_AD_REASON_OFFSET + 256) {
    return {ErrorKind::crypto, fmt::format("the peer ended TLS: {}", text)};
  }
  return {ErrorKind::crypto, fmt::format("TLS {} failed: {}", established_ ? "record" : "handshake", text)};
}

}  // namespace qtrp::crypto
