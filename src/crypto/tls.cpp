// The TLS layer of a tunnel. OpenSSL does the whole handshake, through a BIO that reads from the span given to open()
// and writes to our output. It reads record by record and never ahead, so that what follows the handshake stays in our
// buffer; from then on records go from the caller's memory to ours, or back, in the cipher's one pass.
#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include "crypto/foreign.h"
#include "crypto/tls_layer.h"

namespace qtrp::crypto {
namespace {

constexpr std::size_t kBatch = 4 * kRecordPlain;                    // plaintext bytes of one open() or seal()
constexpr std::size_t kMostPadding = kRecordLength - kRecordPlain;  // with content type, in a record's plaintext
constexpr int kMostIdle = 32;  // records without data in a row: a key update costs us far more than its sender
constexpr std::string_view kExporterLabel = "EXPORTER-Channel-Binding";  // RFC 9266, section 2

// RFC 8446, sections 4 and 6
constexpr std::byte kNewSessionTicket{4};
constexpr std::byte kKeyUpdate{24};
constexpr std::byte kWarning{1};
constexpr std::byte kFatal{2};
constexpr std::byte kCloseNotify{0};
constexpr std::byte kBadRecordMac{20};
constexpr std::byte kUserCanceled{90};

}  // namespace

void take_traffic_secret(const SSL* ssl, const char* line) {
  // "<label> <client random> <secret>", both in hexadecimal.
  auto& notes = *static_cast<TlsNotes*>(SSL_get_app_data(ssl));
  const std::string_view text(line);
  const std::string_view label = text.substr(0, text.find(' '));
  Secret<EVP_MAX_MD_SIZE>* secret = nullptr;
  if (label == "CLIENT_TRAFFIC_SECRET_0") secret = &notes.client_secret;
  if (label == "SERVER_TRAFFIC_SECRET_0") secret = &notes.server_secret;
  if (secret == nullptr) return;
  const std::string_view digits = text.substr(text.rfind(' ') + 1);
  sodium_hex2bin(reinterpret_cast<unsigned char*>(secret->data()), EVP_MAX_MD_SIZE, digits.data(), digits.size(),
                 nullptr, &notes.secret_bytes, nullptr);
}

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
  layer->output_.append({reinterpret_cast<const std::byte*>(from), size});
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

TlsLayer::TlsLayer(SslPtr ssl, bool server, std::shared_ptr<const identity::ServerChecks> checks)
    : ssl_(std::move(ssl)), server_(server) {
  notes_.checks = std::move(checks);
  SSL_set_app_data(ssl_.get(), &notes_);
  SSL_set_read_ahead(ssl_.get(), 0);
  if (server_) {
    SSL_set_accept_state(ssl_.get());
  } else {
    SSL_set_connect_state(ssl_.get());
  }
}

Result<void> TlsLayer::start() {
  BIO* const bio = bio_method() == nullptr ? nullptr : BIO_new(bio_method());
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
  return take_keys();
}

Result<void> TlsLayer::take_keys() {
  // No context is the same as an empty one in TLS 1.3 (RFC 8446, section 7.5).
  if (SSL_export_keying_material(ssl_.get(), reinterpret_cast<unsigned char*>(binding_.data()), binding_.size(),
                                 kExporterLabel.data(), kExporterLabel.size(), nullptr, 0, 0) != 1) {
    return std::unexpected(explain(-1));
  }
  const SSL_CIPHER* const cipher = SSL_get_current_cipher(ssl_.get());
  const auto suite = TlsSuite::find(SSL_CIPHER_get_protocol_id(cipher));
  if (!suite) return std::unexpected(suite.error());
  if (SSL_version(ssl_.get()) != TLS1_3_VERSION || SSL_has_pending(ssl_.get()) != 0 ||
      notes_.secret_bytes != suite->secret_bytes()) {
    return fail(ErrorKind::crypto, "OpenSSL's handshake ended in a state that cannot be taken over");
  }
  const Bytes clients = notes_.client_secret.span().first(notes_.secret_bytes);
  const Bytes servers = notes_.server_secret.span().first(notes_.secret_bytes);
  auto send = TlsRecords::create(*suite, server_ ? servers : clients, true);
  if (!send) return std::unexpected(std::move(send.error()));
  auto receive = TlsRecords::create(*suite, server_ ? clients : servers, false);
  if (!receive) return std::unexpected(std::move(receive.error()));
  send_ = std::move(*send);
  receive_ = std::move(*receive);
  suite_name_ = SSL_CIPHER_get_name(cipher);
  notes_ = {};
  ssl_.reset();
  established_ = true;
  return {};
}

Result<void> TlsLayer::check_first(Bytes wire) {
  const std::size_t more = std::min(first_.size() - first_size_, wire.size());
  std::ranges::copy(wire.first(more), first_.begin() + static_cast<std::ptrdiff_t>(first_size_));
  const bool all_here = first_size_ == 0;
  first_size_ += more;
  const Bytes first = Bytes(first_).first(first_size_);
  if (may_be_tls(first)) return {};
  return fail(ErrorKind::crypto,
              fmt::format("the peer does not speak TLS ({})", describe_foreign(all_here ? wire : first)));
}

Result<RecordLayer::Opened> TlsLayer::open(MutableBytes wire) {
  if (error_) return std::unexpected(*error_);
  Result<void> done;
  if (first_size_ < first_.size()) done = check_first(wire);
  std::size_t consumed = 0;
  if (done && !established_) {
    wire_ = wire;
    done = handshake();
    consumed = wire.size() - wire_.size();
    wire_ = {};
    if (done) return Opened{consumed, {}};  // application data, if there is any, at the next call
  }
  if (!done) {
    error_ = std::move(done.error());
    return std::unexpected(*error_);
  }
  return open_records(wire);
}

Result<RecordLayer::Opened> TlsLayer::open_records(MutableBytes wire) {
  Opened opened;
  const auto give_up = [&](Error error) -> Result<Opened> {
    if (error.kind == ErrorKind::crypto) {
      // The alert that the RFC asks for; it helps nobody but the peer's log, so a failure to send it is no matter.
      (void)send_control(ContentType::alert, std::array{kFatal, kBadRecordMac}, output_);
    }
    error_ = std::move(error);
    // What was opened before the error comes out first.
    if (opened.plain.empty()) return std::unexpected(*error_);
    return opened;
  };

  auto size = next_record(wire);
  if (!size) return give_up(std::move(size.error()));
  if (*size == 0) return opened;
  const auto second = next_record(wire.subspan(*size));
  const bool alone = second && *second == 0;
  plain_.restart(alone ? 0 : std::min(wire.size(), kBatch + kMostPadding));
  while (*size > 0) {
    const MutableBytes record = wire.subspan(opened.consumed, *size);
    // A single record opens in place. Several go side by side to memory of our own, which costs no more and makes one
    // piece of them.
    if (!alone && plain_.size() + record.size() > plain_.capacity() + kRecordHeader + kRecordTag) break;
    std::byte* const to = alone ? record.data() + kRecordHeader : plain_.data() + plain_.size();
    const auto inner = receive_->open(record, to);
    if (!inner) return give_up(inner.error());
    opened.consumed += record.size();
    idle_ = inner->type == ContentType::application_data && inner->size > 0 ? 0 : idle_ + 1;
    if (idle_ > kMostIdle) return give_up({ErrorKind::protocol, "too many TLS records without data"});
    if (inner->type == ContentType::application_data) {
      if (!alone) plain_.extend(inner->size);
      opened.plain = alone ? MutableBytes(to, inner->size) : MutableBytes(plain_.data(), plain_.size());
    } else if (auto taken = take_control(inner->type, {to, inner->size}); !taken) {
      return give_up(std::move(taken.error()));
    }
    if (alone) break;
    size = next_record(wire.subspan(opened.consumed));
    if (!size) return give_up(std::move(size.error()));
  }
  return opened;
}

Result<std::size_t> TlsLayer::next_record(Bytes wire) const {
  if (wire.size() < kRecordHeader) return 0;
  const std::size_t length = load_be<std::uint16_t>(wire.data() + 3);
  if (wire[0] != static_cast<std::byte>(ContentType::application_data)) {
    return fail(ErrorKind::protocol, "an unprotected TLS record after the handshake");
  }
  if (length > kRecordLength) return fail(ErrorKind::protocol, fmt::format("a TLS record of {} bytes", length));
  return wire.size() < kRecordHeader + length ? 0 : kRecordHeader + length;
}

Result<void> TlsLayer::take_control(ContentType type, Bytes content) {
  if (type == ContentType::handshake) return take_handshake_message(content);
  if (type != ContentType::alert || content.size() != 2)
    return fail(ErrorKind::protocol, "a TLS record of a wrong kind");
  if (content[1] == kCloseNotify) return fail(ErrorKind::closed, "the peer closed the tunnel");
  if (content[1] == kUserCanceled && content[0] == kWarning) return {};  // section 6.1: a close_notify follows
  return fail(ErrorKind::protocol,
              fmt::format("the peer ended TLS: {}", SSL_alert_desc_string_long(std::to_integer<int>(content[1]))));
}

Result<void> TlsLayer::take_handshake_message(Bytes content) {
  // Whole messages only: of the two kinds that may come, a key update must not be split or followed by anything
  // (section 5.1), and a ticket, which our own servers never send, fits one record.
  while (!content.empty()) {
    const std::size_t length = content.size() < 4 ? content.size() : load_be<std::uint32_t>(content.data()) & 0xffffffU;
    if (content.size() < 4 || length > content.size() - 4)
      return fail(ErrorKind::protocol, "a TLS handshake message in pieces");
    const Bytes body = content.subspan(4, length);
    const std::byte kind = content[0];
    content = content.subspan(4 + length);
    if (kind == kNewSessionTicket && !server_) continue;
    if (kind != kKeyUpdate || body.size() != 1 || body[0] > std::byte{1} || !content.empty()) {
      return fail(ErrorKind::protocol, "a TLS handshake message of a wrong kind");
    }
    if (auto updated = receive_->update(); !updated) return updated;
    // Section 4.6.3: one answer is enough for all the requests since we last sent something.
    if (body[0] == std::byte{1} && !key_update_queued_ && !closed_) {
      if (auto sent = send_key_update(output_); !sent) return sent;
      key_update_queued_ = true;
    }
    return {};
  }
  return {};
}

Result<void> TlsLayer::send_control(ContentType type, Bytes content, GrowBuffer& where) {
  std::array<std::byte, 16> plain{};
  std::array<std::byte, plain.size() + kRecordOverhead> record;
  std::ranges::copy(content, plain.begin());
  if (auto sealed = send_->seal(type, MutableBytes(plain).first(content.size()), record.data()); !sealed) return sealed;
  where.append(Bytes(record).first(content.size() + kRecordOverhead));
  return {};
}

Result<void> TlsLayer::send_key_update(GrowBuffer& where) {
  constexpr std::array kMessage{kKeyUpdate, std::byte{0}, std::byte{0}, std::byte{1},
                                std::byte{0}};  // update_not_requested
  if (auto sent = send_control(ContentType::handshake, kMessage, where); !sent) return sent;
  ++key_updates_;
  return send_->update();
}

void TlsLayer::clear_output() {
  output_.clear();
  key_update_queued_ = false;
}

Rooms TlsLayer::rooms() const {
  return {0, 1, kBatch};
}  // the byte behind is for the content type

Result<Bytes> TlsLayer::seal(MutableBytes buffer) {
  if (error_) return std::unexpected(*error_);
  if (closed_) return fail(ErrorKind::closed, "sealing after close");
  if (!established_) return fail(ErrorKind::crypto, "sealing before the handshake is done");
  if (buffer.size() <= 1) return Bytes();
  MutableBytes plain = buffer.first(buffer.size() - 1);
  const std::size_t records = (plain.size() + kRecordPlain - 1) / kRecordPlain;
  sealed_.restart(plain.size() + (records + 2) * kRecordOverhead);  // and room for a key update
  if (send_->records() >= records_per_key_) {
    if (auto sent = send_key_update(sealed_); !sent) return std::unexpected(std::move(sent.error()));
  }
  while (!plain.empty()) {
    const MutableBytes piece = plain.first(std::min(plain.size(), kRecordPlain));
    auto sealed = send_->seal(ContentType::application_data, piece, sealed_.data() + sealed_.size());
    if (!sealed) return std::unexpected(std::move(sealed.error()));
    sealed_.extend(piece.size() + kRecordOverhead);
    plain = plain.subspan(piece.size());
  }
  return sealed_.bytes();
}

void TlsLayer::close() {
  if (closed_) return;
  closed_ = true;
  if (!established_ || error_) return;
  (void)send_control(ContentType::alert, std::array{kWarning, kCloseNotify}, output_);
}

std::string TlsLayer::describe() const {
  return established_ ? "tls " + suite_name_ : "tls";
}

Error TlsLayer::explain(int result) {
  const int kind = SSL_get_error(ssl_.get(), result);
  const unsigned long code = ERR_peek_last_error();
  ERR_clear_error();
  if (kind == SSL_ERROR_ZERO_RETURN) return {ErrorKind::closed, "the peer closed the tunnel"};
  if (!notes_.refusal.empty()) return {ErrorKind::crypto, notes_.refusal};
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
    case SSL_R_VERSION_TOO_LOW: return {ErrorKind::crypto, "the peer does not speak TLS 1.3"};
    default: break;
  }
  // OpenSSL numbers the alerts that the peer sent from here on.
  if (reason > SSL_AD_REASON_OFFSET && reason < SSL_AD_REASON_OFFSET + 256) {
    return {ErrorKind::crypto, fmt::format("the peer ended TLS: {}", text)};
  }
  return {ErrorKind::crypto, fmt::format("the TLS handshake failed: {}", text)};
}

}  // namespace qtrp::crypto
