// Our TLS records against OpenSSL's own: a TlsLayer at one end, a plain SSL object at the other, each suite, both
// roles; and a hostile peer that holds the right keys.
#include <gmock/gmock.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>

#include "crypto/tls_layer.h"
#include "layer_pair.h"
#include "qtrp/crypto/tls.h"

namespace qtrp::crypto {
namespace {

using testing::HasSubstr;

const identity::Certificate& own_certificate() {
  static const identity::Certificate certificate = identity::keep_certificate(std::nullopt).value();
  return certificate;
}

/// An SSL object of OpenSSL's on two memory BIOs. Its traffic secrets are kept, for tests that seal records of their
/// own.
class PlainSsl {
 public:
  PlainSsl(bool server, const char* suite) : context_(SSL_CTX_new(TLS_method())) {
    SSL_CTX_set_min_proto_version(context_, TLS1_3_VERSION);
    SSL_CTX_set_ciphersuites(context_, suite);
    SSL_CTX_set_keylog_callback(context_, take_traffic_secret);
    if (server) {
      const auto& own = own_certificate();
      BIO* pem = BIO_new_mem_buf(own.certificate_pem.data(), static_cast<int>(own.certificate_pem.size()));
      X509* certificate = PEM_read_bio_X509(pem, nullptr, nullptr, nullptr);
      EXPECT_EQ(SSL_CTX_use_certificate(context_, certificate), 1);
      X509_free(certificate);
      BIO_free(pem);
      pem = BIO_new_mem_buf(own.key_pem.data(), static_cast<int>(own.key_pem.size()));
      EVP_PKEY* key = PEM_read_bio_PrivateKey(pem, nullptr, nullptr, nullptr);
      EXPECT_EQ(SSL_CTX_use_PrivateKey(context_, key), 1);
      EVP_PKEY_free(key);
      BIO_free(pem);
    }
    ssl_ = SSL_new(context_);
    SSL_set_app_data(ssl_, &notes_);
    SSL_set_bio(ssl_, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    if (server) {
      SSL_set_accept_state(ssl_);
    } else {
      SSL_set_connect_state(ssl_);
    }
  }
  ~PlainSsl() {
    SSL_free(ssl_);
    SSL_CTX_free(context_);
    ERR_clear_error();
  }
  PlainSsl(const PlainSsl&) = delete;
  PlainSsl& operator=(const PlainSsl&) = delete;

  SSL* get() { return ssl_; }
  const TlsNotes& notes() const { return notes_; }
  void give(Bytes wire) {
    if (!wire.empty()) {
      EXPECT_EQ(BIO_write(SSL_get_rbio(ssl_), wire.data(), static_cast<int>(wire.size())),
                static_cast<int>(wire.size()));
    }
  }
  Buffer take_output() {
    Buffer out(BIO_ctrl_pending(SSL_get_wbio(ssl_)));
    if (!out.empty()) {
      EXPECT_EQ(BIO_read(SSL_get_wbio(ssl_), out.data(), static_cast<int>(out.size())), static_cast<int>(out.size()));
    }
    return out;
  }
  /// All the plaintext there is; what SSL_get_error says at its end goes to `why`.
  Buffer read(int& why) {
    Buffer plain;
    std::byte piece[20000];
    for (;;) {
      std::size_t got = 0;
      ERR_clear_error();
      const int result = SSL_read_ex(ssl_, piece, sizeof piece, &got);
      if (result != 1) {
        why = SSL_get_error(ssl_, result);
        return plain;
      }
      plain.insert(plain.end(), piece, piece + got);
    }
  }
  Buffer write(Bytes plain) {
    std::size_t written = 0;
    EXPECT_EQ(SSL_write_ex(ssl_, plain.data(), plain.size(), &written), 1);
    return take_output();
  }

 private:
  SSL_CTX* context_;
  SSL* ssl_ = nullptr;
  TlsNotes notes_;
};

struct Case {
  const char* suite;
  bool ours_is_server;
};

class AgainstOpenssl : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    theirs_ = std::make_unique<PlainSsl>(!GetParam().ours_is_server, GetParam().suite);
    ours_.layer = GetParam().ours_is_server ? TlsContext::server(own_certificate()).value()->make().value()
                                            : TlsContext::client({}).value()->make().value();
    ASSERT_TRUE(ours_.layer->start());
    while (!ours_.layer->established() || SSL_is_init_finished(theirs_->get()) == 0) {
      theirs_->give(ours_.take_output());
      ERR_clear_error();
      SSL_do_handshake(theirs_->get());
      const auto given = ours_.give(theirs_->take_output());
      ASSERT_TRUE(given) << given.error().message;
    }
    theirs_->give(ours_.take_output());
  }
  TlsLayer& layer() { return dynamic_cast<TlsLayer&>(*ours_.layer); }
  Buffer read_theirs() {
    int why = 0;
    Buffer plain = theirs_->read(why);
    EXPECT_EQ(why, SSL_ERROR_WANT_READ);
    return plain;
  }

  std::unique_ptr<PlainSsl> theirs_;
  End ours_;
  std::mt19937_64 random_{8446};
};

INSTANTIATE_TEST_SUITE_P(Suites, AgainstOpenssl,
                         testing::Values(Case{"TLS_AES_128_GCM_SHA256", false}, Case{"TLS_AES_256_GCM_SHA384", false},
                                         Case{"TLS_CHACHA20_POLY1305_SHA256", false},
                                         Case{"TLS_AES_128_GCM_SHA256", true}, Case{"TLS_AES_256_GCM_SHA384", true},
                                         Case{"TLS_CHACHA20_POLY1305_SHA256", true}),
                         [](const auto& test) {
                           return std::string(test.param.suite) + (test.param.ours_is_server ? "_server" : "_client");
                         });

TEST_P(AgainstOpenssl, CarriesBothWays) {
  EXPECT_EQ(ours_.layer->describe(), std::string("tls ") + GetParam().suite);
  for (const std::size_t size : {1, 2, 100, 16383, 16384, 16385, 40000, 65536}) {
    const Buffer plain = random_buffer(random_, size);
    const auto wire = seal(layer(), plain);
    ASSERT_TRUE(wire);
    theirs_->give(*wire);
    ASSERT_EQ(read_theirs(), plain) << size;
    ours_.plain.clear();
    const auto given = give(ours_, theirs_->write(plain), randomly(random_));
    ASSERT_TRUE(given) << given.error().message;
    ASSERT_EQ(ours_.plain, plain) << size;
  }
}

TEST_P(AgainstOpenssl, TheExporterIsTheSame) {
  std::array<std::byte, 32> exported{};
  ASSERT_EQ(SSL_export_keying_material(theirs_->get(), reinterpret_cast<unsigned char*>(exported.data()),
                                       exported.size(), "EXPORTER-Channel-Binding", 24, nullptr, 0, 0),
            1);
  EXPECT_TRUE(std::ranges::equal(ours_.layer->channel_binding(), exported));
}

TEST_P(AgainstOpenssl, FollowsAndAnswersKeyUpdates) {
  for (int round = 0; round < 5; ++round) {
    ASSERT_EQ(SSL_key_update(theirs_->get(), round % 2 == 0 ? SSL_KEY_UPDATE_REQUESTED : SSL_KEY_UPDATE_NOT_REQUESTED),
              1);
    ours_.plain.clear();
    ASSERT_TRUE(give(ours_, theirs_->write(as_bytes("under a new key")), one_by_one()));
    EXPECT_EQ(as_text(ours_.plain), "under a new key");
    EXPECT_EQ(layer().output().empty(), round % 2 != 0);
    const auto wire = seal(layer(), as_bytes("so is this"));
    ASSERT_TRUE(wire);
    theirs_->give(*wire);
    EXPECT_EQ(as_text(read_theirs()), "so is this");
  }
  EXPECT_EQ(layer().key_updates(), 3U);
}

TEST_P(AgainstOpenssl, ChangesItsOwnKeys) {
  layer().set_records_per_key(3);
  for (int i = 0; i < 20; ++i) {
    const Buffer plain = random_buffer(random_, 30000);
    const auto wire = seal(layer(), plain);
    ASSERT_TRUE(wire);
    theirs_->give(*wire);
    ASSERT_EQ(read_theirs(), plain) << i;
  }
  EXPECT_EQ(layer().key_updates(), 9U);
}

TEST_P(AgainstOpenssl, SkipsPadding) {
  SSL_set_block_padding(theirs_->get(), 4096);
  const Buffer plain = random_buffer(random_, 16000);  // padded to the largest record there is
  for (int i = 0; i < 3; ++i) {
    ours_.plain.clear();
    ASSERT_TRUE(give(ours_, theirs_->write(plain), whole()));
    EXPECT_EQ(ours_.plain, plain);
  }
}

TEST_P(AgainstOpenssl, SaysAndHearsGoodbye) {
  layer().close();
  theirs_->give(ours_.take_output());
  int why = 0;
  EXPECT_TRUE(theirs_->read(why).empty());
  EXPECT_EQ(why, SSL_ERROR_ZERO_RETURN);
  SSL_shutdown(theirs_->get());
  const auto closed = ours_.give(theirs_->take_output());
  ASSERT_FALSE(closed);
  EXPECT_EQ(closed.error().kind, ErrorKind::closed);
}

TEST_P(AgainstOpenssl, TellsThePeerOfADamagedRecord) {
  Buffer wire = theirs_->write(as_bytes("x"));
  wire.back() ^= std::byte{1};
  const auto given = ours_.give(wire);
  ASSERT_FALSE(given);
  EXPECT_EQ(given.error().kind, ErrorKind::crypto);
  theirs_->give(ours_.take_output());
  int why = 0;
  EXPECT_TRUE(theirs_->read(why).empty());
  EXPECT_EQ(why, SSL_ERROR_SSL);
  ERR_clear_error();
}

/// A peer with the right keys that seals what it likes.
class HostilePeer : public testing::Test {
 protected:
  HostilePeer() : theirs_(false, "TLS_AES_128_GCM_SHA256") {
    ours_.layer = TlsContext::server(own_certificate()).value()->make().value();
    EXPECT_TRUE(ours_.layer->start());
    for (int turn = 0; turn < 3; ++turn) {
      SSL_do_handshake(theirs_.get());
      EXPECT_TRUE(ours_.give(theirs_.take_output()));
      theirs_.give(ours_.take_output());
    }
    EXPECT_TRUE(ours_.layer->established());
    const auto suite = TlsSuite::find(0x1301).value();
    sealer_ = TlsRecords::create(suite, theirs_.notes().client_secret.span().first(suite.secret_bytes()), true).value();
  }
  Buffer record(ContentType type, Bytes content) {
    Buffer plain(content.begin(), content.end());
    plain.emplace_back();
    Buffer wire(content.size() + kRecordOverhead);
    EXPECT_TRUE(sealer_->seal(type, MutableBytes(plain).first(content.size()), wire.data()));
    return wire;
  }
  std::string refusal(ContentType type, std::initializer_list<int> content) {
    Buffer bytes;
    for (const int value : content) bytes.push_back(static_cast<std::byte>(value));
    const auto given = ours_.give(record(type, bytes));
    EXPECT_TRUE(ours_.plain.empty());
    return given ? "accepted" : given.error().message;
  }

  PlainSsl theirs_;
  End ours_;
  std::optional<TlsRecords> sealer_;
};

TEST_F(HostilePeer, ItsRecordsAreReadAtAll) {
  ASSERT_TRUE(ours_.give(record(ContentType::application_data, as_bytes("hello"))));
  EXPECT_EQ(as_text(ours_.plain), "hello");
}
TEST_F(HostilePeer, NoSplitHandshakeMessages) {
  EXPECT_THAT(refusal(ContentType::handshake, {24, 0, 0}), HasSubstr("in pieces"));
}
TEST_F(HostilePeer, NoHandshakeMessageLongerThanItsRecord) {
  EXPECT_THAT(refusal(ContentType::handshake, {24, 255, 255, 255, 0}), HasSubstr("in pieces"));
}
TEST_F(HostilePeer, NoTicketsToAServer) {
  EXPECT_THAT(refusal(ContentType::handshake, {4, 0, 0, 1, 0}), HasSubstr("wrong kind"));
}
TEST_F(HostilePeer, NoNewHandshake) {
  EXPECT_THAT(refusal(ContentType::handshake, {1, 0, 0, 1, 0}), HasSubstr("wrong kind"));
}
TEST_F(HostilePeer, NoKeyUpdateOfAnUnknownKind) {
  EXPECT_THAT(refusal(ContentType::handshake, {24, 0, 0, 1, 2}), HasSubstr("wrong kind"));
}
TEST_F(HostilePeer, NothingBehindAKeyUpdate) {
  EXPECT_THAT(refusal(ContentType::handshake, {24, 0, 0, 1, 0, 24, 0, 0, 1, 0}), HasSubstr("wrong kind"));
}
TEST_F(HostilePeer, NoUnknownContent) {
  EXPECT_THAT(refusal(static_cast<ContentType>(99), {1}), HasSubstr("wrong kind"));
  EXPECT_THAT(refusal(ContentType::application_data, {1}), HasSubstr("wrong kind")) << "an error is final";
}
TEST_F(HostilePeer, NoContentTypeAtAll) {
  EXPECT_THAT(refusal(static_cast<ContentType>(0), {0, 0}), HasSubstr("no content type"));
}
TEST_F(HostilePeer, ItsAlertEndsTheTunnel) {
  EXPECT_THAT(refusal(ContentType::alert, {2, 80}), HasSubstr("internal error"));
}
TEST_F(HostilePeer, NoAlertOfAnotherLength) {
  EXPECT_THAT(refusal(ContentType::alert, {2}), HasSubstr("wrong kind"));
}

TEST_F(HostilePeer, NoUnprotectedAndNoOverlongRecords) {
  const Buffer plaintext_alert{std::byte{21}, std::byte{3}, std::byte{3}, std::byte{0},
                               std::byte{2},  std::byte{2}, std::byte{40}};
  EXPECT_FALSE(ours_.give(plaintext_alert));
}
TEST_F(HostilePeer, NoRecordOverTheLimit) {
  Buffer header{std::byte{23}, std::byte{3}, std::byte{3}, std::byte{0x41}, std::byte{0x01}};  // 16384 + 257
  EXPECT_FALSE(ours_.give(header)) << "known by its header alone";
}

TEST_F(HostilePeer, NoFloodOfRecordsWithoutData) {
  int taken = 0;
  while (taken < 1000 && ours_.give(record(ContentType::application_data, {}))) ++taken;
  EXPECT_EQ(taken, 32);
}

TEST_F(HostilePeer, ManyRequestsForKeyUpdatesGetOneAnswer) {
  const std::array message{std::byte{24}, std::byte{0}, std::byte{0}, std::byte{1}, std::byte{1}};
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(ours_.give(record(ContentType::handshake, message)));
    ASSERT_TRUE(sealer_->update());
  }
  EXPECT_EQ(ours_.layer->output().size(), 5 + kRecordOverhead);
  ours_.layer->clear_output();
  ASSERT_TRUE(ours_.give(record(ContentType::handshake, message)));
  EXPECT_EQ(ours_.layer->output().size(), 5 + kRecordOverhead);
}

}  // namespace
}  // namespace qtrp::crypto
