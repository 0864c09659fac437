// A QUIC server's port and strangers' datagrams: version negotiation, Retry, tokens, stateless reset, refusals, and the
// first steps of a handshake. Whatever comes, the server stands, and what it sends to an address that has proved
// nothing is at most three times what came from there (RFC 9000, section 8.1). Input: an option byte, then runs of
// (length, 2 bytes little-endian; the datagram).
#include <sys/socket.h>

#include <cstdlib>

#include "qtrp/identity/identity.h"
#include "qtrp/quic/endpoint.h"

using namespace qtrp;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const identity::Certificate certificate = *identity::keep_certificate(std::nullopt);
  if (size < 1) return 0;
  auto loop = io::make_epoll_loop();
  quic::ServerOptions options;
  options.identity = certificate;
  options.secret = "a fixed one: inputs can hold tokens that are right";
  if (data[0] & 1) options.retry_above = 0;
  auto server = quic::Server::listen(*loop, *io::Endpoint::from_literal("127.0.0.1", 0), options, [](auto) {});
  if (!server) std::abort();
  if (data[0] & 2) (*server)->stop_accepting();
  const io::Endpoint at = (*server)->local();
  const io::Fd stranger(::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (::connect(stranger.get(), at.data(), at.size()) != 0) std::abort();

  Bytes input = std::as_bytes(std::span(data, size)).subspan(1);
  std::size_t sent = 0, answered = 0;
  for (int count = 0; input.size() >= 2 && count < 32; ++count) {
    const std::size_t n =
        std::min(input.size() - 2, static_cast<std::size_t>(input[0]) | static_cast<std::size_t>(input[1]) << 8);
    if (::send(stranger.get(), input.data() + 2, n, 0) == static_cast<ssize_t>(n)) sent += n;
    input = input.subspan(2 + n);
  }
  // Loopback delivers at once: a few turns of the loop see everything through.
  int turns = 4;
  std::function<void()> turn = [&] {
    if (--turns == 0) return loop->stop();
    loop->post(turn);
  };
  loop->post(turn);
  loop->run();
  std::byte answer[2048];
  for (ssize_t n; (n = ::recv(stranger.get(), answer, sizeof answer, 0)) >= 0;) answered += static_cast<std::size_t>(n);
  if (answered > 3 * sent) std::abort();
  return 0;
}
