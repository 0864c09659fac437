// What every record layer must do alike: carry bytes under any split, and detect whatever was done to them on the way.
#include "qtrp/crypto/record_layer.h"

#include <gmock/gmock.h>

#include "layer_pair.h"
#include "qtrp/crypto/noise.h"
#include "qtrp/crypto/tls.h"

namespace qtrp::crypto {
namespace {

struct Kind {
  std::string name;
  std::function<std::pair<End, End>()> make;  // client, server
};

std::pair<End, End> make_tls_ends() {
  static const auto server = TlsContext::server(identity::keep_certificate(std::nullopt).value()).value();
  static const auto client = TlsContext::client({}).value();
  return {End{client->make().value()}, End{server->make().value()}};
}

std::pair<End, End> make_noise_ends() {
  static const NoiseKey key = derive_noise_key("a token of some length");
  static const auto keys = std::make_shared<const std::vector<NoiseKey>>(std::vector{derive_noise_key("another"), key});
  return {End{make_noise_client(key)}, End{make_noise_server(keys)}};
}

std::pair<End, End> make_none_ends() {
  return {End{make_none()}, End{make_none()}};
}

class EveryLayer : public testing::TestWithParam<Kind> {
 protected:
  /// Both ends, established.
  void connect(const Split& split = whole()) {
    std::tie(client_, server_) = GetParam().make();
    const auto done = shake_hands(client_, server_, split);
    ASSERT_TRUE(done) << done.error().message;
    ASSERT_TRUE(client_.layer->established());
    ASSERT_TRUE(server_.layer->established());
  }
  Buffer random_plain(std::size_t size) { return random_buffer(random_, size); }

  End client_;
  End server_;
  std::mt19937_64 random_{20};
};
class EncryptedLayer : public EveryLayer {};

std::string name_of(const testing::TestParamInfo<Kind>& info) {
  return info.param.name;
}
const Kind kNone{"none", make_none_ends};
const Kind kTls{"tls", make_tls_ends};
const Kind kChaCha{"chacha20", make_noise_ends};
INSTANTIATE_TEST_SUITE_P(Crypto, EveryLayer, testing::Values(kNone, kTls, kChaCha), name_of);
INSTANTIATE_TEST_SUITE_P(Crypto, EncryptedLayer, testing::Values(kTls, kChaCha), name_of);

TEST_P(EveryLayer, CarriesBothWaysByteByByte) {
  connect(one_by_one());
  const Buffer up = random_plain(3000);
  const Buffer down = random_plain(2000);
  const auto up_wire = seal(*client_.layer, up);
  const auto down_wire = seal(*server_.layer, down);
  ASSERT_TRUE(up_wire && down_wire);
  ASSERT_TRUE(give(server_, *up_wire, one_by_one()));
  ASSERT_TRUE(give(client_, *down_wire, one_by_one()));
  EXPECT_EQ(server_.plain, up);
  EXPECT_EQ(client_.plain, down);
  EXPECT_TRUE(server_.kept.empty());
}

TEST_P(EveryLayer, CarriesRandomPiecesUnderRandomSplits) {
  for (int round = 0; round < 8; ++round) {
    connect(randomly(random_));
    Buffer sent;
    Buffer wire;
    for (int piece = 0; piece < 20; ++piece) {
      const std::size_t most = std::min<std::size_t>(client_.layer->rooms().max_plain, 70000);
      const Buffer plain = random_plain(1 + random_() % (piece % 3 == 0 ? most : 100));
      const auto sealed = seal(*client_.layer, plain);
      ASSERT_TRUE(sealed) << sealed.error().message;
      wire.insert(wire.end(), sealed->begin(), sealed->end());
      sent.insert(sent.end(), plain.begin(), plain.end());
    }
    const auto given = give(server_, wire, randomly(random_));
    ASSERT_TRUE(given) << given.error().message;
    ASSERT_EQ(server_.plain, sent);
    ASSERT_TRUE(server_.kept.empty());
  }
}

TEST_P(EveryLayer, CarriesEverySizeAroundARecord) {
  connect();
  const std::size_t most = client_.layer->rooms().max_plain;
  for (const std::size_t size :
       {std::size_t{1}, std::size_t{2}, std::size_t{16383}, std::size_t{16384}, std::size_t{16385}, std::size_t{32768},
        std::size_t{65518}, std::size_t{65519}, std::size_t{65536}}) {
    if (size > most) continue;
    const Buffer plain = random_plain(size);
    const auto wire = seal(*server_.layer, plain);
    ASSERT_TRUE(wire) << size;
    client_.plain.clear();
    ASSERT_TRUE(give(client_, *wire, whole())) << size;
    EXPECT_EQ(client_.plain, plain) << size;
  }
}

TEST_P(EveryLayer, NothingFromNothing) {
  connect();
  ASSERT_TRUE(client_.give({}));
  EXPECT_TRUE(client_.plain.empty());
  EXPECT_TRUE(client_.layer->output().empty());
}

TEST_P(EncryptedLayer, ThePlaintextIsNotOnTheWire) {
  connect();
  const std::string secret = "attack at dawn, attack at dawn, attack at dawn";
  const auto wire = seal(*client_.layer, as_bytes(secret));
  ASSERT_TRUE(wire);
  EXPECT_THAT(std::string(as_text(*wire)), testing::Not(testing::HasSubstr("attack")));
}

TEST_P(EncryptedLayer, BindingsAreEqualOnBothEndsAndNewForEachConnection) {
  std::vector<Buffer> seen;
  for (int round = 0; round < 4; ++round) {
    connect();
    const Bytes binding = client_.layer->channel_binding();
    EXPECT_GE(binding.size(), 32U);
    EXPECT_TRUE(std::ranges::equal(binding, server_.layer->channel_binding()));
    const Buffer copy(binding.begin(), binding.end());
    EXPECT_THAT(seen, testing::Not(testing::Contains(copy)));
    seen.push_back(copy);
  }
}

TEST_P(EncryptedLayer, NothingIsSealedBeforeTheHandshake) {
  auto [client, server] = GetParam().make();
  ASSERT_TRUE(client.layer->start());
  EXPECT_FALSE(client.layer->established());
  EXPECT_TRUE(client.layer->channel_binding().empty());
  EXPECT_FALSE(seal(*client.layer, as_bytes("early")));
}

TEST_P(EncryptedLayer, EveryFlippedBitOfARecordIsDetected) {
  for (std::size_t place = 0;; ++place) {
    connect();
    auto wire = seal(*client_.layer, as_bytes("twenty bytes of text"));
    ASSERT_TRUE(wire);
    if (place == wire->size()) break;
    (*wire)[place] ^= static_cast<std::byte>(1U << (place % 8));
    // What follows makes up for a length that was made larger.
    const auto next = seal(*client_.layer, random_plain(65519));
    ASSERT_TRUE(next);
    wire->insert(wire->end(), next->begin(), next->end());
    EXPECT_FALSE(give(server_, *wire, whole())) << "byte " << place;
    EXPECT_TRUE(server_.plain.empty()) << "byte " << place;
    EXPECT_FALSE(server_.give(*next)) << "an error is final";
  }
}

TEST_P(EncryptedLayer, ReplayedReorderedAndDroppedRecordsAreDetected) {
  const auto three = [&] {
    connect();
    std::vector<Buffer> records;
    for (const std::string_view text : {"one", "two", "three"})
      records.push_back(seal(*client_.layer, as_bytes(text)).value());
    return records;
  };
  auto records = three();
  ASSERT_TRUE(server_.give(records[0]));
  EXPECT_FALSE(server_.give(records[0])) << "replay";
  records = three();
  EXPECT_FALSE(server_.give(records[1])) << "first dropped";
  records = three();
  ASSERT_TRUE(server_.give(records[0]));
  EXPECT_FALSE(server_.give(records[2])) << "order";
  EXPECT_EQ(as_text(server_.plain), "one");
  records = three();
  EXPECT_FALSE(client_.give(records[0])) << "reflected to its sender";
}

TEST_P(EncryptedLayer, RecordsOfAnotherConnectionAreDetected) {
  connect();
  const auto old = seal(*client_.layer, as_bytes("pay"));
  ASSERT_TRUE(old);
  connect();
  EXPECT_FALSE(server_.give(*old));
}

TEST_P(EncryptedLayer, ATruncatedRecordGivesNothing) {
  connect();
  const auto wire = seal(*client_.layer, as_bytes("all or nothing"));
  ASSERT_TRUE(wire);
  for (std::size_t size = 0; size < wire->size(); ++size) {
    ASSERT_TRUE(server_.give(Bytes(*wire).subspan(size, 1)));
    if (size + 1 < wire->size()) {
      ASSERT_TRUE(server_.plain.empty()) << size;
    }
  }
  EXPECT_EQ(as_text(server_.plain), "all or nothing");
}

TEST_P(EncryptedLayer, TheGoodbyeIsDeliveredAndCannotBeForged) {
  connect();
  const auto last = seal(*client_.layer, as_bytes("last words"));
  ASSERT_TRUE(last);
  ASSERT_TRUE(server_.give(*last));
  client_.layer->close();
  const Buffer goodbye = client_.take_output();
  EXPECT_FALSE(goodbye.empty());
  EXPECT_FALSE(seal(*client_.layer, as_bytes("more")));
  const auto closed = server_.give(goodbye);
  ASSERT_FALSE(closed);
  EXPECT_EQ(closed.error().kind, ErrorKind::closed);
  EXPECT_EQ(as_text(server_.plain), "last words");

  connect();
  const auto forged = server_.give(goodbye);
  ASSERT_FALSE(forged);
  EXPECT_EQ(forged.error().kind, ErrorKind::crypto);
}

TEST_P(EncryptedLayer, PlaintextInFrontOfTheGoodbyeIsNotLost) {
  connect();
  auto wire = seal(*client_.layer, as_bytes("last words"));
  ASSERT_TRUE(wire);
  client_.layer->close();
  const Buffer goodbye = client_.take_output();
  wire->insert(wire->end(), goodbye.begin(), goodbye.end());
  EXPECT_FALSE(server_.give(*wire));
  EXPECT_EQ(as_text(server_.plain), "last words");
}

TEST_P(EncryptedLayer, CloseBeforeTheHandshakeIsSilent) {
  auto [client, server] = GetParam().make();
  ASSERT_TRUE(server.layer->start());
  server.layer->close();
  EXPECT_TRUE(server.layer->output().empty());
}

TEST_P(EncryptedLayer, ATamperedHandshakeNeverGivesTwoEndsThatDiffer) {
  std::size_t refused = 0;
  std::size_t tampered = 0;
  for (int flight = 0; flight < 3; ++flight) {
    for (std::size_t place = 0;; ++place) {
      auto [client, server] = GetParam().make();
      ASSERT_TRUE(client.layer->start() && server.layer->start());
      bool failed = false;
      bool past_the_end = false;
      for (int turn = 0; turn < 4 && !failed && !past_the_end; ++turn) {
        End& from = turn % 2 == 0 ? client : server;
        End& to = turn % 2 == 0 ? server : client;
        Buffer wire = from.take_output();
        if (turn == flight) {
          past_the_end = place >= wire.size();
          if (!past_the_end) wire[place] ^= static_cast<std::byte>(1U << (place % 8));
        }
        failed = !to.give(wire);
      }
      if (past_the_end) break;
      ++tampered;
      if (failed || !client.layer->established() || !server.layer->established()) {
        ++refused;
        continue;
      }
      // Bytes outside the transcript (TLS: the legacy version in a plaintext record's header) may differ without harm.
      EXPECT_TRUE(std::ranges::equal(client.layer->channel_binding(), server.layer->channel_binding()))
          << "flight " << flight << " byte " << place;
    }
  }
  EXPECT_GT(tampered, 100U);
  EXPECT_GE(refused + 6, tampered);
}

TEST_P(EncryptedLayer, RandomBytesAreRefusedByBothSides) {
  for (int round = 0; round < 200; ++round) {
    auto [client, server] = GetParam().make();
    ASSERT_TRUE(client.layer->start() && server.layer->start());
    End& victim = round % 2 == 0 ? client : server;
    bool refused = false;
    for (int piece = 0; piece < 100 && !refused; ++piece) refused = !victim.give(random_plain(1 + random_() % 2000));
    EXPECT_TRUE(refused);
    EXPECT_FALSE(victim.layer->established());
  }
}

}  // namespace
}  // namespace qtrp::crypto
