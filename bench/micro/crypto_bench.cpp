// How fast the record layers are, beside the bare ciphers on the same sizes: bytes of plaintext a second for seal
// alone, and for seal and open together, in one thread. Run with --benchmark_repetitions=5
// --benchmark_enable_random_interleaving=true.
#include <benchmark/benchmark.h>
#include <openssl/evp.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "qtrp/crypto/noise.h"
#include "qtrp/crypto/tls.h"

namespace {

using qtrp::Bytes;
using qtrp::MutableBytes;
using qtrp::Result;
namespace crypto = qtrp::crypto;
using Layer = std::unique_ptr<crypto::RecordLayer>;

template <typename T>
T need(Result<T> result) {
  if (result) return std::move(*result);
  std::fprintf(stderr, "crypto_bench: %s\n", result.error().message.c_str());
  std::exit(1);
}
void need(Result<void> result) {
  if (result) return;
  std::fprintf(stderr, "crypto_bench: %s\n", result.error().message.c_str());
  std::exit(1);
}

void move_output(crypto::RecordLayer& from, crypto::RecordLayer& to) {
  std::vector<std::byte> wire(from.output().begin(), from.output().end());
  from.clear_output();
  for (MutableBytes left = wire; !left.empty();) {
    const auto opened = need(to.open(left));
    if (opened.consumed == 0) break;
    left = left.subspan(opened.consumed);
  }
}

std::pair<Layer, Layer> established(Layer client, Layer server) {
  need(client->start());
  need(server->start());
  while (!client->established() || !server->established() || !client->output().empty()) {
    move_output(*client, *server);
    move_output(*server, *client);
  }
  return {std::move(client), std::move(server)};
}

std::pair<Layer, Layer> make_ends(std::string_view name) {
  if (name == "none") return established(crypto::make_none(), crypto::make_none());
  if (name == "chacha20") {
    const auto key = crypto::derive_noise_key("a token of the benchmark");
    return established(crypto::make_noise_client(key),
                       crypto::make_noise_server(std::make_shared<const std::vector<crypto::NoiseKey>>(1, key)));
  }
  static const auto server = need(crypto::TlsContext::server(need(qtrp::identity::keep_certificate(std::nullopt))));
  static const auto client = need(crypto::TlsContext::client({}));
  return established(need(client->make()), need(server->make()));
}

/// Seals pieces of `size` bytes (or the layer's most) and, if asked, opens them at the other end.
void layer(benchmark::State& state, const char* name, bool opens) {
  auto [client, server] = make_ends(name);
  const auto rooms = client->rooms();
  const std::size_t size = std::min(static_cast<std::size_t>(state.range(0)), rooms.max_plain);
  std::vector<std::byte> buffer(rooms.head + size + rooms.tail, std::byte{7});
  for (auto _ : state) {
    const Bytes wire = need(client->seal(buffer));
    // The wire's memory is this buffer or the client layer's own, neither of them constant.
    MutableBytes left{const_cast<std::byte*>(wire.data()), wire.size()};
    while (opens && !left.empty()) {
      const auto opened = need(server->open(left));
      benchmark::DoNotOptimize(opened.plain.data());
      left = left.subspan(opened.consumed);
    }
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * size));
}

/// The yardstick: the bare AEAD through EVP in place, contexts kept, records of at most `record` bytes.
void cipher(benchmark::State& state, const char* name, std::size_t record, bool opens) {
  EVP_CIPHER* const aead = EVP_CIPHER_fetch(nullptr, name, nullptr);
  EVP_CIPHER_CTX* const sealer = EVP_CIPHER_CTX_new();
  EVP_CIPHER_CTX* const opener = EVP_CIPHER_CTX_new();
  const unsigned char key[32] = {1};
  unsigned char iv[12] = {2};
  unsigned char tag[16];
  unsigned char last[16];
  EVP_CipherInit_ex2(sealer, aead, key, nullptr, 1, nullptr);
  EVP_CipherInit_ex2(opener, aead, key, nullptr, 0, nullptr);
  const std::size_t size = static_cast<std::size_t>(state.range(0));
  std::vector<unsigned char> buffer(size, 7);
  bool good = true;
  for (auto _ : state) {
    for (std::size_t at = 0; at < size; at += record) {
      unsigned char* const text = buffer.data() + at;
      const int length = static_cast<int>(std::min(record, size - at));
      int done = 0;
      ++iv[11];
      good = good && EVP_CipherInit_ex2(sealer, nullptr, nullptr, iv, -1, nullptr) == 1 &&
             EVP_EncryptUpdate(sealer, text, &done, text, length) == 1 &&
             EVP_EncryptFinal_ex(sealer, last, &done) == 1 &&
             EVP_CIPHER_CTX_ctrl(sealer, EVP_CTRL_AEAD_GET_TAG, 16, tag) == 1;
      if (!opens) continue;
      good = good && EVP_CipherInit_ex2(opener, nullptr, nullptr, iv, -1, nullptr) == 1 &&
             EVP_CIPHER_CTX_ctrl(opener, EVP_CTRL_AEAD_SET_TAG, 16, tag) == 1 &&
             EVP_DecryptUpdate(opener, text, &done, text, length) == 1 && EVP_DecryptFinal_ex(opener, last, &done) == 1;
    }
  }
  if (!good) state.SkipWithError("the cipher failed");
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * size));
  EVP_CIPHER_CTX_free(sealer);
  EVP_CIPHER_CTX_free(opener);
  EVP_CIPHER_free(aead);
}

void handshake(benchmark::State& state, const char* name) {
  for (auto _ : state) benchmark::DoNotOptimize(make_ends(name));
}

BENCHMARK_CAPTURE(cipher, aes_128_gcm_seal, "AES-128-GCM", 16384, false)->Arg(65536);
BENCHMARK_CAPTURE(layer, tls_seal, "tls", false)->Arg(65536);
BENCHMARK_CAPTURE(cipher, aes_128_gcm_seal_open, "AES-128-GCM", 16384, true)->Arg(65536)->Arg(1024);
BENCHMARK_CAPTURE(layer, tls_seal_open, "tls", true)->Arg(65536)->Arg(1024);
BENCHMARK_CAPTURE(cipher, chacha20_poly1305_seal, "ChaCha20-Poly1305", 65519, false)->Arg(65519);
BENCHMARK_CAPTURE(layer, chacha20_seal, "chacha20", false)->Arg(65519);
BENCHMARK_CAPTURE(cipher, chacha20_poly1305_seal_open, "ChaCha20-Poly1305", 65519, true)->Arg(65519)->Arg(1024);
BENCHMARK_CAPTURE(layer, chacha20_seal_open, "chacha20", true)->Arg(65519)->Arg(1024);
BENCHMARK_CAPTURE(layer, none_seal_open, "none", true)->Arg(65536);
BENCHMARK_CAPTURE(handshake, tls_handshake, "tls");
BENCHMARK_CAPTURE(handshake, chacha20_handshake, "chacha20");

}  // namespace

BENCHMARK_MAIN();
