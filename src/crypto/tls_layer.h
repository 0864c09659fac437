// One tunnel's TLS 1.3: OpenSSL's handshake through a BIO on our buffers, then records under the keys that came out of
// it. tls_context.cpp makes them.
#pragma once

#include <openssl/ssl.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "crypto/grow_buffer.h"
#include "crypto/tls_records.h"
#include "qtrp/crypto/record_layer.h"
#include "qtrp/identity/identity.h"

namespace qtrp::crypto {

struct FreeSsl {
  void operator()(SSL* ssl) const { SSL_free(ssl); }
};
using SslPtr = std::unique_ptr<SSL, FreeSsl>;

/// What the SSL_CTX's call-backs leave for the layer; the SSL object's application data points to it.
struct TlsNotes {
  std::shared_ptr<const identity::ServerChecks> checks;  ///< a client's; the layer may outlive its TlsContext
  std::string refusal;  ///< why the peer's certificate was refused; empty if it was not
  Secret<EVP_MAX_MD_SIZE> client_secret;
  Secret<EVP_MAX_MD_SIZE> server_secret;
  std::size_t secret_bytes = 0;  ///< of each of the two, once known
};
/// SSL_CTX_set_keylog_callback: takes the application traffic secrets out of OpenSSL, in memory only.
void take_traffic_secret(const SSL* ssl, const char* line);

class TlsLayer final : public RecordLayer {
 public:
  /// `ssl` is fresh from an SSL_CTX whose keylog call-back is take_traffic_secret.
  TlsLayer(SslPtr ssl, bool server, std::shared_ptr<const identity::ServerChecks> checks = nullptr);

  Result<void> start() override;
  Result<Opened> open(MutableBytes wire) override;
  Bytes output() const override { return output_.bytes(); }
  void clear_output() override;
  Rooms rooms() const override;
  Result<Bytes> seal(MutableBytes buffer) override;
  bool established() const override { return established_; }
  Bytes channel_binding() const override { return established_ ? Bytes(binding_) : Bytes(); }
  void close() override;
  std::string describe() const override;

  /// After so many records under one key a new one is taken (RFC 8446, section 5.5: 2^24.5 for AES-GCM).
  void set_records_per_key(std::uint64_t records) { records_per_key_ = records; }
  std::uint64_t key_updates() const { return key_updates_; }

 private:
  static int bio_read(BIO* bio, char* to, std::size_t room, std::size_t* got);
  static int bio_write(BIO* bio, const char* from, std::size_t size, std::size_t* written);
  static long bio_control(BIO* bio, int command, long number, void* pointer);
  static BIO_METHOD* bio_method();

  /// An error if the peer's first bytes cannot be TLS.
  Result<void> check_first(Bytes wire);
  Result<void> handshake();
  /// Takes the keys over from OpenSSL, whose object is then freed.
  Result<void> take_keys();
  Result<Opened> open_records(MutableBytes wire);
  /// The size with header of the whole record at the front, 0 if it is not whole.
  Result<std::size_t> next_record(Bytes wire) const;
  /// What is not application data.
  Result<void> take_control(ContentType type, Bytes content);
  Result<void> take_handshake_message(Bytes content);
  /// Seals a short record of its own kind behind `where`'s end.
  Result<void> send_control(ContentType type, Bytes content, GrowBuffer& where);
  Result<void> send_key_update(GrowBuffer& where);
  /// The error for a failed call of OpenSSL's handshake that returned `result`.
  Error explain(int result);

  SslPtr ssl_;  ///< until established
  bool server_;
  bool established_ = false;
  bool closed_ = false;
  bool key_update_queued_ = false;  ///< our answer to a key update is in output_
  int idle_ = 0;                    ///< records without data since the last one with some
  std::uint64_t records_per_key_ = std::uint64_t{1} << 24;
  std::uint64_t key_updates_ = 0;
  std::optional<TlsRecords> send_;
  std::optional<TlsRecords> receive_;
  MutableBytes wire_;  ///< during the handshake: what open() was given and OpenSSL has not read
  GrowBuffer plain_;
  GrowBuffer sealed_;
  GrowBuffer output_;
  std::array<std::byte, 3> first_{};
  std::size_t first_size_ = 0;  ///< of the peer's first bytes, how many are in first_
  std::array<std::byte, 32> binding_{};
  std::string suite_name_;
  TlsNotes notes_;
  std::optional<Error> error_;
};

}  // namespace qtrp::crypto
