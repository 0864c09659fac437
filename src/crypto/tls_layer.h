// One tunnel's TLS state machine; tls_context.cpp makes them.
#pragma once

#include <openssl/ssl.h>

#include <cstdint>
#include <memory>
#include <string>

#include "crypto/grow_buffer.h"
#include "qtrp/crypto/record_layer.h"

namespace qtrp::crypto {

struct FreeSsl {
  void operator()(SSL* ssl) const { SSL_free(ssl); }
};
using SslPtr = std::unique_ptr<SSL, FreeSsl>;

class TlsLayer final : public RecordLayer {
 public:
  /// `ssl` is fresh from its SSL_CTX. Its application data becomes a std::string*: where a certificate callback leaves
  /// its reason.
  TlsLayer(SslPtr ssl, bool server);

  Result<void> start() override;
  Result<Opened> open(MutableBytes wire) override;
  Bytes output() const override { return output_.bytes(); }
  void clear_output() override { output_.clear(); }
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

  Result<void> handshake();
  /// Reads records into plain_ until the wire or the room is used up.
  Result<void> read_records();
  /// The error for a failed call that returned `result`.
  Error explain(int result);

  SslPtr ssl_;
  bool server_;
  bool established_ = false;
  bool closed_ = false;
  std::uint64_t records_ = 0;  ///< sealed under the current key
  std::uint64_t records_per_key_ = std::uint64_t{1} << 24;
  std::uint64_t key_updates_ = 0;
  Bytes wire_;  ///< what open() was given and OpenSSL has not read
  GrowBuffer plain_;
  GrowBuffer sealed_;
  GrowBuffer output_;
  GrowBuffer* sink_ = &output_;  ///< where OpenSSL's writes go
  std::array<std::byte, 3> first_{};
  std::size_t first_size_ = 0;  ///< of the peer's first bytes, how many are in first_
  std::array<std::byte, 32> binding_{};
  std::string refusal_;  ///< why we refused the peer's certificate
  std::optional<Error> error_;
};

}  // namespace qtrp::crypto
