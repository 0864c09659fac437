// The TLS layer: versions and suites, certificates, pins, CA and name, key updates, and what it says about wrong peers.
#include "qtrp/crypto/tls.h"

#include <gmock/gmock.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include <cstdlib>
#include <filesystem>

#include "crypto/tls_layer.h"
#include "layer_pair.h"
#include "qtrp/crypto/noise.h"

namespace qtrp::crypto {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::StartsWith;

const identity::Certificate& own_certificate() {
  static const identity::Certificate certificate = identity::keep_certificate(std::nullopt).value();
  return certificate;
}

struct Outcome {
  Result<void> result;
  End client;
  End server;
};

Outcome connect(const identity::ServerChecks& checks, const identity::Certificate& certificate = own_certificate()) {
  const auto client = TlsContext::client(checks);
  const auto server = TlsContext::server(certificate);
  EXPECT_TRUE(client && server);
  Outcome outcome{{}, End{(*client)->make().value()}, End{(*server)->make().value()}};
  outcome.result = shake_hands(outcome.client, outcome.server);
  return outcome;
}

TEST(Tls, AgreesOnTls13WithoutTickets) {
  auto outcome = connect({});
  ASSERT_TRUE(outcome.result) << outcome.result.error().message;
  EXPECT_THAT(outcome.client.layer->describe(), StartsWith("tls TLS_"));
  EXPECT_EQ(outcome.client.layer->describe(), outcome.server.layer->describe());
  EXPECT_EQ(outcome.client.layer->channel_binding().size(), 32U);
  // No session ticket follows the handshake.
  EXPECT_TRUE(outcome.server.layer->output().empty());
}

TEST(Tls, AcceptsThePinnedKeyOnly) {
  const auto right = identity::parse_pin(own_certificate().pin).value();
  std::array<std::byte, 32> wrong = right;
  wrong[31] ^= std::byte{1};
  EXPECT_TRUE(connect({.ca_file = {}, .pins = {right}, .server_name = {}}).result);
  EXPECT_TRUE(connect({.ca_file = {}, .pins = {wrong, right}, .server_name = {}}).result);
  auto refused = connect({.ca_file = {}, .pins = {wrong}, .server_name = {}});
  ASSERT_FALSE(refused.result);
  EXPECT_THAT(refused.result.error().message, HasSubstr(own_certificate().pin));
  EXPECT_THAT(refused.result.error().message, HasSubstr(identity::format_pin(wrong)));
  EXPECT_FALSE(refused.client.layer->established());
  // The server is told, and says so.
  const auto told = refused.server.give(refused.client.take_output());
  ASSERT_FALSE(told);
  EXPECT_THAT(told.error().message, HasSubstr("refused our certificate"));
}

/// A certificate authority and a server's certificate for vps.example.com and 192.0.2.7, made with the openssl command.
class Authority : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    std::string pattern = (fs::temp_directory_path() / "qtrp-tls-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    const std::string script = "cd '" + pattern +
                               "' && exec 2>openssl.log && P='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'"
                               " && openssl req -x509 $P -keyout ca.key -out ca.pem -subj /CN=authority -days 30"
                               " && openssl req -x509 $P -keyout other.key -out other.pem -subj /CN=other -days 30"
                               " && openssl req $P -keyout leaf.key -out leaf.csr -subj /CN=leaf"
                               " && printf 'subjectAltName=DNS:vps.example.com,IP:192.0.2.7\\n' > leaf.ext"
                               " && openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 "
                               "-extfile leaf.ext -out leaf.pem";
    ASSERT_EQ(std::system(script.c_str()), 0);
    certificate_ = identity::load_certificate(directory_ / "leaf.pem", directory_ / "leaf.key").value();
  }
  static void TearDownTestSuite() { fs::remove_all(directory_); }

  static Outcome connect_to(const std::string& name, const char* ca = "ca.pem",
                            std::vector<std::array<std::byte, 32>> pins = {}) {
    return connect({.ca_file = (directory_ / ca).string(), .pins = std::move(pins), .server_name = name}, certificate_);
  }

  static inline fs::path directory_;
  static inline identity::Certificate certificate_;
};

TEST_F(Authority, AcceptsItsCertificateUnderTheRightName) {
  EXPECT_TRUE(connect_to("vps.example.com").result);
  EXPECT_TRUE(connect_to("192.0.2.7").result);
}

TEST_F(Authority, RefusesAnotherName) {
  for (const char* name : {"example.com", "vps.example.org", "192.0.2.8", "leaf"}) {
    const auto outcome = connect_to(name);
    ASSERT_FALSE(outcome.result) << name;
    EXPECT_THAT(outcome.result.error().message, HasSubstr("mismatch"));
    EXPECT_THAT(outcome.result.error().message, HasSubstr(name));
  }
}

TEST_F(Authority, RefusesAnotherAuthority) {
  const auto outcome = connect_to("vps.example.com", "other.pem");
  ASSERT_FALSE(outcome.result);
  EXPECT_THAT(outcome.result.error().message, HasSubstr("other.pem"));
  EXPECT_FALSE(outcome.client.layer->established());
}

TEST_F(Authority, PinAndAuthorityMustBothHold) {
  const auto right = identity::parse_pin(certificate_.pin).value();
  std::array<std::byte, 32> wrong{};
  EXPECT_TRUE(connect_to("vps.example.com", "ca.pem", {right}).result);
  EXPECT_FALSE(connect_to("vps.example.com", "ca.pem", {wrong}).result);
  EXPECT_FALSE(connect_to("vps.example.com", "other.pem", {right}).result);
}

TEST_F(Authority, MistakesInTheFilesAreErrorsAtOnce) {
  EXPECT_FALSE(TlsContext::client({.ca_file = (directory_ / "absent.pem").string(), .pins = {}, .server_name = "x"}));
  EXPECT_FALSE(TlsContext::client({.ca_file = (directory_ / "leaf.key").string(), .pins = {}, .server_name = "x"}));
  EXPECT_FALSE(TlsContext::client({.ca_file = (directory_ / "ca.pem").string(), .pins = {}, .server_name = {}}));
  identity::Certificate mixed = certificate_;
  mixed.key_pem = own_certificate().key_pem;
  const auto server = TlsContext::server(mixed);
  ASSERT_FALSE(server);
  EXPECT_EQ(server.error().kind, ErrorKind::config);
}

TEST(Tls, SaysWhatTheOtherSideSpeaks) {
  const auto noise = make_noise_client(derive_noise_key("one"));
  ASSERT_TRUE(noise->start());
  Buffer hint_and_message(noise->output().begin(), noise->output().end());
  hint_and_message[0] = std::byte{0x80};  // a hint can look like TLS by chance; not in this test
  const auto text = [](std::string_view s) { return Buffer(as_bytes(s).begin(), as_bytes(s).end()); };
  const std::vector<std::pair<Buffer, std::string>> cases{{hint_and_message, "the peer does not speak TLS"},
                                                          {text("GET / HTTP/1.1\r\n\r\n"), "HTTP"},
                                                          {text("QTRP"), "crypto: none"},
                                                          {text("SSH-2.0-x\r\n"), "SSH"}};
  for (const auto& [wire, expected] : cases) {
    End server{TlsContext::server(own_certificate()).value()->make().value()};
    End client{TlsContext::client({}).value()->make().value()};
    for (End* end : {&server, &client}) {
      ASSERT_TRUE(end->layer->start());
      const auto given = end->give(wire);
      ASSERT_FALSE(given);
      EXPECT_EQ(given.error().kind, ErrorKind::crypto);
      EXPECT_THAT(given.error().message, HasSubstr(expected));
    }
  }
}

TEST(Tls, RefusesAPeerWithTls12) {
  // A client hello of OpenSSL's that ends at TLS 1.2.
  SSL_CTX* context = SSL_CTX_new(TLS_client_method());
  ASSERT_EQ(SSL_CTX_set_max_proto_version(context, TLS1_2_VERSION), 1);
  SSL* old = SSL_new(context);
  SSL_set_bio(old, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
  SSL_set_connect_state(old);
  SSL_do_handshake(old);
  char hello[4096];
  const int size = BIO_read(SSL_get_wbio(old), hello, sizeof hello);
  ASSERT_GT(size, 0);
  SSL_free(old);
  SSL_CTX_free(context);
  ERR_clear_error();
  End server{TlsContext::server(own_certificate()).value()->make().value()};
  ASSERT_TRUE(server.layer->start());
  const auto given = server.give(as_bytes({hello, static_cast<std::size_t>(size)}));
  ASSERT_FALSE(given);
  EXPECT_THAT(given.error().message, HasSubstr("TLS 1.3"));
  EXPECT_FALSE(server.layer->output().empty());  // the alert
}

TEST(Tls, ChangesItsKeysWhenTheyAreWorn) {
  auto outcome = connect({});
  ASSERT_TRUE(outcome.result);
  auto& client = dynamic_cast<TlsLayer&>(*outcome.client.layer);
  client.set_records_per_key(10);
  std::mt19937_64 random(5);
  Buffer sent;
  for (int i = 0; i < 40; ++i) {
    const Buffer plain = random_buffer(random, 40000);  // 3 records
    const auto wire = seal(client, plain);
    ASSERT_TRUE(wire);
    const auto given = give(outcome.server, *wire, randomly(random));
    ASSERT_TRUE(given) << given.error().message;
    sent.insert(sent.end(), plain.begin(), plain.end());
  }
  EXPECT_EQ(client.key_updates(), 9U);  // every fourth seal, since 12 records are past 10
  EXPECT_EQ(outcome.server.plain, sent);
  // The other direction goes on under its own keys.
  const auto back = seal(*outcome.server.layer, as_bytes("still here"));
  ASSERT_TRUE(back && outcome.client.give(*back));
  EXPECT_EQ(as_text(outcome.client.plain), "still here");
}

TEST(Tls, AFullSealIsFullRecords) {
  auto outcome = connect({});
  ASSERT_TRUE(outcome.result);
  const std::size_t most = outcome.client.layer->rooms().max_plain;
  EXPECT_GE(most, 65536U);
  const auto wire = seal(*outcome.client.layer, Buffer(most));
  ASSERT_TRUE(wire);
  EXPECT_EQ(wire->size(), most + most / 16384 * 22);
}

}  // namespace
}  // namespace qtrp::crypto
