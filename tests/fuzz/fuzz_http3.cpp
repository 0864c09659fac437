// A visitor's HTTP/3: any bytes on any of his streams, answers drained as a connection would. Input: runs of (stream,
// length, bytes).
#include "quic/http3.h"

using namespace qtrp;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const quic::Site site{.directory = "/usr/share/doc/libc6",
                               .stats = [](const io::Endpoint&, std::string_view token) -> std::optional<std::string> {
                                 if (token == "t") return "{}";
                                 return {};
                               }};
  static const io::Endpoint visitor = *io::Endpoint::from_literal("192.0.2.1", 9);
  quic::Http3 http3(site, visitor);
  if (!http3.start(3, 7, 11)) return 0;
  constexpr std::int64_t kStreams[] = {0, 4, 8, 2, 6, 10, 14, 18};
  bool ended[8] = {};
  Bytes input = std::as_bytes(std::span(data, size));
  while (input.size() >= 2) {
    const auto which = static_cast<std::size_t>(input[0]) & 7;
    const bool fin = (input[0] & std::byte{0x80}) != std::byte{0};
    const std::size_t n = std::min<std::size_t>(static_cast<std::size_t>(input[1]), input.size() - 2);
    if (!ended[which]) {
      ended[which] = fin;
      if (!http3.receive(kStreams[which], input.subspan(2, n), fin)) return 0;
    }
    input = input.subspan(2 + n);
    for (int rounds = 0; rounds < 64; ++rounds) {
      quic::Http3::Outgoing out;
      auto more = http3.next(out);
      if (!more || !*more) break;
      std::size_t bytes = 0;
      for (std::size_t i = 0; i < out.count; ++i) bytes += out.pieces[i].len;
      http3.sent(out.stream, bytes);
      http3.acknowledged(out.stream, bytes);
    }
  }
  // And the request alone, since few inputs get that far through QPACK.
  const auto text = std::string(reinterpret_cast<const char*>(data), size);
  quic::answer(site, {"GET", "/" + text, text}, visitor);
  return 0;
}
