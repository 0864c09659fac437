// The Noise layer: published test vectors, the key hint, wrong keys, and the ends of the counters.
#include "qtrp/crypto/noise.h"

#include <gmock/gmock.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <sodium.h>

#include <limits>

#include "crypto/noise_handshake.h"
#include "layer_pair.h"
#include "qtrp/crypto/tls.h"

namespace qtrp::crypto {
namespace {

using testing::HasSubstr;

Buffer from_hex(std::string_view hex) {
  Buffer bytes(hex.size() / 2);
  std::size_t length = 0;
  EXPECT_EQ(sodium_hex2bin(reinterpret_cast<unsigned char*>(bytes.data()), bytes.size(), hex.data(), hex.size(),
                           nullptr, &length, nullptr),
            0);
  EXPECT_EQ(length, bytes.size());
  return bytes;
}

std::shared_ptr<const std::vector<NoiseKey>> keys_of(std::initializer_list<std::string_view> secrets) {
  auto keys = std::make_shared<std::vector<NoiseKey>>();
  for (const auto secret : secrets) keys->push_back(derive_noise_key(secret));
  return keys;
}

// The vector of that name in cacophony's vectors/cacophony.txt (public domain), which the Noise project's wiki lists.
struct Message {
  std::string_view payload;
  std::string_view ciphertext;
};
constexpr std::string_view kPrologue = "4a6f686e2047616c74";
constexpr std::string_view kPsk = "54686973206973206d7920417573747269616e20706572737065637469766521";
constexpr std::string_view kInitiatorEphemeral = "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a";
constexpr std::string_view kResponderEphemeral = "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b";
constexpr std::string_view kHandshakeHash =
    "ed5e9692d0ab507b6c2beec3f584fd5b127817a9d20b26cd50aa72c507260fa3"
    "1aa7d88dd3723316338af37ce0b4cfb2923aeb848bbf2b934911306f01ffc963";
constexpr std::array<Message, 6> kMessages{{
    {"4c756477696720766f6e204d69736573",
     "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944"
     "ed63df2f5a12aee1185ee9c50305f2ecf12421dcb53c047a63b784cf7c54a105"},
    {"4d757272617920526f746862617264",
     "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843"
     "0e0fe7d5c0c9b92f7478716c8852f1b4f389edb75e3ebe546fafafd5b6f0f7"},
    {"462e20412e20486179656b", "0fe04b26dcfbb69f8a6a94c61f1a26ef88769218d32f5d17c068a6"},
    {"4361726c204d656e676572", "2239e0c540c01f09eb1f4cc5258fd5acfefff18a5a3773f21b7bfe"},
    {"4a65616e2d426170746973746520536179", "f216cb03d30fb8af1e561fe02a07552d09b416e27a75e62c77d193718b0bdaae9f"},
    {"457567656e2042f6686d20766f6e2042617765726b",
     "6e8baf98b944184dd7dc5ef14d8108cbeca626de118a5460f3308e294d61e17238bce29bd9"},
}};

NoiseHandshake vector_end(NoiseHandshake::Role role, std::string_view ephemeral) {
  const Secret<kKeyBytes> key(std::span<const std::byte>(from_hex(ephemeral)).first<kKeyBytes>());
  return NoiseHandshake(role, from_hex(kPrologue), std::span<const std::byte>(from_hex(kPsk)).first<kKeyBytes>(), key);
}

TEST(NoiseVectors, CacophonyNNpsk0) {
  auto initiator = vector_end(NoiseHandshake::Role::initiator, kInitiatorEphemeral);
  auto responder = vector_end(NoiseHandshake::Role::responder, kResponderEphemeral);
  for (std::size_t i = 0; i < 2; ++i) {
    auto& from = i == 0 ? initiator : responder;
    auto& to = i == 0 ? responder : initiator;
    const auto message = from.write(from_hex(kMessages[i].payload));
    ASSERT_TRUE(message);
    EXPECT_EQ(identity::to_hex(*message), kMessages[i].ciphertext);
    const auto payload = to.read(*message);
    ASSERT_TRUE(payload) << payload.error().message;
    EXPECT_EQ(identity::to_hex(*payload), kMessages[i].payload);
  }
  ASSERT_TRUE(initiator.finished() && responder.finished());
  EXPECT_EQ(identity::to_hex(initiator.hash()), kHandshakeHash);
  EXPECT_EQ(identity::to_hex(responder.hash()), kHandshakeHash);
  auto initiators = initiator.split();
  auto responders = responder.split();
  ASSERT_TRUE(initiators && responders);
  for (std::size_t i = 2; i < kMessages.size(); ++i) {
    auto& from = i % 2 == 0 ? *initiators : *responders;
    auto& to = i % 2 == 0 ? *responders : *initiators;
    const Buffer plain = from_hex(kMessages[i].payload);
    Buffer message = plain;
    message.resize(plain.size() + kTagBytes);
    const auto text = MutableBytes(message).first(plain.size());
    ASSERT_TRUE(from.send.seal(text, MutableBytes(message).last<kTagBytes>()));
    EXPECT_EQ(identity::to_hex(message), kMessages[i].ciphertext);
    ASSERT_TRUE(to.receive.open(text, Bytes(message).last<kTagBytes>()));
    EXPECT_TRUE(std::ranges::equal(text, plain));
  }
}

TEST(NoiseHandshakeState, RefusesMessagesOutOfTurnAndTooShort) {
  auto initiator = vector_end(NoiseHandshake::Role::initiator, kInitiatorEphemeral);
  auto responder = vector_end(NoiseHandshake::Role::responder, kResponderEphemeral);
  EXPECT_FALSE(responder.write({}));
  EXPECT_FALSE(initiator.read(Buffer(48)));
  EXPECT_FALSE(responder.read(Buffer(47)));
  ASSERT_TRUE(initiator.write({}));
  EXPECT_FALSE(initiator.write({}));
}

TEST(NoiseHandshakeState, RefusesAnEphemeralOfLowOrder) {
  // X25519 with 0 gives 0, a shared secret that anyone knows: it must end the handshake.
  auto initiator = vector_end(NoiseHandshake::Role::initiator, kInitiatorEphemeral);
  ASSERT_TRUE(initiator.write({}));
  const auto read = initiator.read(Buffer(48));
  ASSERT_FALSE(read);
  EXPECT_THAT(read.error().message, HasSubstr("low order"));
}

TEST(ChaChaPolyCounter, EndsHardBeforeItWraps) {
  const std::array<std::byte, 32> key{};
  auto cipher = ChaChaPoly::create(key, true);
  ASSERT_TRUE(cipher);
  Buffer text(10);
  std::array<std::byte, kTagBytes> tag{};
  cipher->set_nonce(std::numeric_limits<std::uint64_t>::max() - 1);
  EXPECT_TRUE(cipher->seal(text, tag));
  for (int i = 0; i < 2; ++i) {
    const auto sealed = cipher->seal(text, tag);
    ASSERT_FALSE(sealed);
    EXPECT_EQ(sealed.error().kind, ErrorKind::limit);
  }
}

TEST(ChaChaPolyCounter, GivesEachMessageANonceOfItsOwn) {
  const std::array<std::byte, 32> key{};
  auto cipher = ChaChaPoly::create(key, true);
  ASSERT_TRUE(cipher);
  std::vector<Buffer> seen;
  for (int i = 0; i < 300; ++i) {
    Buffer text(16);
    std::array<std::byte, kTagBytes> tag{};
    ASSERT_TRUE(cipher->seal(text, tag));
    EXPECT_THAT(seen, testing::Not(testing::Contains(text)));
    seen.push_back(text);
  }
}

TEST(NoiseKeys, AreBlake2bUnderTwoPersonalisations) {
  // hashlib.blake2b(b"your-secret-token", digest_size=32, person=b"qtrp-psk").hexdigest(), and "qtrp-hint"
  const NoiseKey key = derive_noise_key("your-secret-token");
  EXPECT_EQ(identity::to_hex(key.psk), "06c331e610e0283e2fa5adee3d6a6997114bdd5a5a13fb6ae4dbffc395765a4c");
  EXPECT_EQ(identity::to_hex(key.hint), "8e2607842df8bc35396cd1ef5eeb3c79aa6c6d85c27f146aac1579f53de4b534");
  EXPECT_NE(derive_noise_key("your-secret-tokem").psk, key.psk);
}

TEST(NoiseLayer, TheHintIsAKeyedBlake2bOf8Bytes) {
  const NoiseKey key = derive_noise_key("your-secret-token");
  const auto client = make_noise_client(key);
  ASSERT_TRUE(client->start());
  const Bytes flight = client->output();
  ASSERT_EQ(flight.size(), 8U + 2U + 48U);
  EXPECT_EQ(load_be<std::uint16_t>(flight.data() + 8), 48);
  // OpenSSL's BLAKE2b beside libsodium's.
  std::size_t size = 8;
  std::size_t written = 0;
  unsigned char expected[8];
  const std::array<OSSL_PARAM, 2> parameters{OSSL_PARAM_construct_size_t("size", &size), OSSL_PARAM_construct_end()};
  EXPECT_NE(
      EVP_Q_mac(nullptr, "BLAKE2BMAC", nullptr, nullptr, parameters.data(), key.hint.data(), key.hint.size(),
                reinterpret_cast<const unsigned char*>(flight.data() + 10), 32, expected, sizeof expected, &written),
      nullptr);
  EXPECT_EQ(std::memcmp(flight.data(), expected, sizeof expected), 0);
}

TEST(NoiseLayer, TheServerFindsTheClientsKeyAmongMany) {
  auto keys = std::make_shared<std::vector<NoiseKey>>();
  for (int i = 0; i < 100; ++i) keys->push_back(derive_noise_key("token number " + std::to_string(i)));
  for (const int i : {0, 42, 99}) {
    End client{make_noise_client(derive_noise_key("token number " + std::to_string(i)))};
    End server{make_noise_server(keys)};
    ASSERT_TRUE(shake_hands(client, server));
    EXPECT_TRUE(client.layer->established());
  }
}

TEST(NoiseLayer, AWrongTokenIsDeniedWithoutAnAnswer) {
  End client{make_noise_client(derive_noise_key("guess"))};
  End server{make_noise_server(keys_of({"one", "two"}))};
  const auto done = shake_hands(client, server);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().kind, ErrorKind::denied);
  EXPECT_THAT(done.error().message, HasSubstr("token"));
  EXPECT_TRUE(server.layer->output().empty());
}

TEST(NoiseLayer, TheRightHintWithAWrongPskIsRefused) {
  NoiseKey half = derive_noise_key("one");
  half.psk = derive_noise_key("two").psk;
  End client{make_noise_client(half)};
  End server{make_noise_server(keys_of({"one", "two"}))};
  const auto done = shake_hands(client, server);
  ASSERT_FALSE(done);
  EXPECT_THAT(done.error().message, HasSubstr("does not authenticate"));
}

TEST(NoiseLayer, AnImpostorServerIsRefusedByTheClient) {
  // It knows the hint half, not the psk.
  const NoiseKey key = derive_noise_key("one");
  NoiseKey impostor = derive_noise_key("guess");
  impostor.hint = key.hint;
  End client{make_noise_client(key)};
  ASSERT_TRUE(client.layer->start());
  NoiseHandshake mallory(NoiseHandshake::Role::responder, as_bytes("qtrp 1"), impostor.psk);
  Buffer first = client.take_output();
  EXPECT_FALSE(mallory.read(Bytes(first).subspan(10)));
  // Whatever it answers of the right size does not authenticate.
  Buffer answer(50);
  identity::random_bytes(answer);
  store_be<std::uint16_t>(answer.data(), 48);
  const auto given = client.give(answer);
  ASSERT_FALSE(given);
  EXPECT_THAT(given.error().message, HasSubstr("another token or chacha20.psk"));
}

TEST(NoiseLayer, AReplayedFirstMessageGivesNothingWithoutTheEphemeralKey) {
  End client{make_noise_client(derive_noise_key("one"))};
  ASSERT_TRUE(client.layer->start());
  const Buffer first = client.take_output();
  Buffer answers[2];
  for (Buffer& answer : answers) {
    End server{make_noise_server(keys_of({"one"}))};
    ASSERT_TRUE(server.give(first));
    answer = server.take_output();
    // Records sealed for another run of the handshake do not open here.
    EXPECT_FALSE(server.give(Buffer(2 + 64, std::byte{0})));
  }
  EXPECT_NE(answers[0], answers[1]);
}

TEST(NoiseLayer, SealsAtMost65519Bytes) {
  End client{make_noise_client(derive_noise_key("one"))};
  End server{make_noise_server(keys_of({"one"}))};
  ASSERT_TRUE(shake_hands(client, server));
  EXPECT_EQ(client.layer->rooms().max_plain, 65519U);
  EXPECT_FALSE(seal(*client.layer, Buffer(65520)));
  EXPECT_TRUE(seal(*client.layer, Bytes()).value().empty());  // no plaintext: nothing to send
  const auto wire = seal(*client.layer, Buffer(65519));
  ASSERT_TRUE(wire);
  EXPECT_EQ(wire->size(), 65537U);
  ASSERT_TRUE(server.give(*wire));
  EXPECT_EQ(server.plain.size(), 65519U);
}

TEST(NoiseLayer, ARecordShorterThanItsTagIsRefused) {
  for (std::uint16_t length = 0; length < 16; ++length) {
    End client{make_noise_client(derive_noise_key("one"))};
    End server{make_noise_server(keys_of({"one"}))};
    ASSERT_TRUE(shake_hands(client, server));
    Buffer wire(2 + length);
    store_be(wire.data(), length);
    EXPECT_FALSE(server.give(wire));
  }
}

TEST(NoiseLayer, SaysWhatTheOtherSideSpeaks) {
  const auto tls = TlsContext::client({}).value()->make().value();
  ASSERT_TRUE(tls->start());
  const std::vector<std::pair<Buffer, std::string>> cases{
      {Buffer(tls->output().begin(), tls->output().end()), "crypto: tls"},
      {Buffer(as_bytes("GET / HTTP/1.1\r\n").begin(), as_bytes("GET / HTTP/1.1\r\n").end()), "HTTP"},
      {Buffer(as_bytes("SSH-2.0-OpenSSH_9.2\r\n").begin(), as_bytes("SSH-2.0-OpenSSH_9.2\r\n").end()), "SSH"},
      {Buffer(12, std::byte{0xee}), "another crypto"}};
  for (const auto& [wire, expected] : cases) {
    End server{make_noise_server(keys_of({"one"}))};
    const auto at_server = server.give(wire);
    ASSERT_FALSE(at_server);
    EXPECT_THAT(at_server.error().message, HasSubstr(expected));
    End client{make_noise_client(derive_noise_key("one"))};
    ASSERT_TRUE(client.layer->start());
    const auto at_client = client.give(wire);
    ASSERT_FALSE(at_client);
    EXPECT_THAT(at_client.error().message, HasSubstr(expected));
  }
}

}  // namespace
}  // namespace qtrp::crypto
