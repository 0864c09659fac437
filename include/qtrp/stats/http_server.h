// A small HTTP/1.1 server on a thread of its own, for figures and health: bounded in connections, sizes and time. Beast
// stays in the source.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "qtrp/base/error.h"
#include "qtrp/io/endpoint.h"
#include "qtrp/stats/router.h"

namespace qtrp::stats {

class HttpServer {
 public:
  struct Certificate {
    std::string certificate_pem, key_pem;  ///< the first may be a chain, leaf first
  };
  struct Options {
    std::string token{};  ///< bearer token that peers beyond loopback must show; may be empty on loopback only
    std::size_t max_connections = 64;              ///< further ones wait in the kernel's queue
    std::size_t max_head = 8192, max_body = 4096;  ///< bytes of a request
    std::chrono::milliseconds timeout{10'000};     ///< for a request to arrive, and for an answer to leave
    std::chrono::milliseconds tick{1'000};         ///< between two calls of `on_tick`
    std::function<void()> on_tick{};               ///< called in start(), then on the server's thread
    std::optional<Certificate> certificate{};      ///< TLS (1.2 and later) instead of plain HTTP
  };

  /// Listens on `listen` (port 0: the kernel chooses) and serves `router` until it is destroyed; handlers run on its
  /// thread, one at a time. Fails with kind config on an address beyond loopback without a token, with kind system
  /// where the port is taken or the name does not resolve.
  static Result<std::unique_ptr<HttpServer>> start(const io::HostPort& listen, Router router, Options options);
  /// Ends at once; a handler that runs is waited for.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  io::Endpoint local() const;  ///< where it listens
  /// The next handshake shows this certificate; where there was none, the next connection is TLS. Any thread. Fails
  /// with kind config, then nothing changed.
  Result<void> use(const Certificate& certificate);

 private:
  class Loop;
  explicit HttpServer(std::unique_ptr<Loop> loop);
  std::unique_ptr<Loop> loop_;
};

/// A compared to B in a time that depends on their lengths only.
bool equal_in_constant_time(std::string_view a, std::string_view b);

}  // namespace qtrp::stats
