// The TLS layer, handshake and records, both roles, with a man in the middle.
#include "layer_pair.h"
#include "qtrp/crypto/tls.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace qtrp;
  static const auto server = crypto::TlsContext::server(identity::keep_certificate(std::nullopt).value()).value();
  static const auto client = crypto::TlsContext::client({}).value();
  fuzz::Link link(client->make().value(), server->make().value());
  link.run(fuzz::Input(std::as_bytes(std::span(data, size))));
  return 0;
}
