// The HTTP/3 site that a visitor finds, by nghttp3: what a request is answered with, and its streams' bytes. Every
// connection of a server starts with it (its SETTINGS go to tunnels and visitors alike); a tunnel then leaves it
// unused.
#pragma once

#include <nghttp3/nghttp3.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "qtrp/base/bytes.h"
#include "qtrp/base/error.h"
#include "qtrp/quic/endpoint.h"

namespace qtrp::quic {

/// An answer: status and body, with the type of the content.
struct Answer {
  int status = 404;
  std::string type = "text/html; charset=utf-8";
  std::string body;
};
struct Request {
  std::string method, path, authorization;
};
/// What `site` says to `request`. Never leaves site.directory: no "..", no hidden names, no links out of it.
Answer answer(const Site& site, const Request& request, const io::Endpoint& visitor);

class Http3 {
 public:
  Http3(const Site& site, const io::Endpoint& visitor) : site_(site), visitor_(visitor) {}
  ~Http3();
  Http3(const Http3&) = delete;
  Http3& operator=(const Http3&) = delete;

  /// The server's three one-way streams, once they are open.
  Result<void> start(std::int64_t control, std::int64_t encoder, std::int64_t decoder);
  /// Bytes of one of the peer's streams. All are consumed; gives how many bytes of credit to return, or an HTTP/3 error
  /// code.
  std::expected<std::size_t, std::uint64_t> receive(std::int64_t stream, Bytes data, bool fin);
  void reset(std::int64_t stream);
  void closed(std::int64_t stream, std::uint64_t code);
  void acknowledged(std::int64_t stream, std::uint64_t bytes);
  void unblocked(std::int64_t stream);
  /// The next bytes to send, if any.
  struct Outgoing {
    std::int64_t stream = -1;
    bool fin = false;
    nghttp3_vec pieces[16];
    std::size_t count = 0;
  };
  std::expected<bool, std::uint64_t> next(Outgoing& out);
  void sent(std::int64_t stream, std::size_t bytes);
  void blocked(std::int64_t stream);
  void cannot_write(std::int64_t stream);

 private:
  struct Exchange {
    Request request;
    std::string body;
  };
  friend struct Http3Callbacks;
  int respond(std::int64_t stream);

  const Site& site_;
  io::Endpoint visitor_;
  nghttp3_conn* conn_ = nullptr;
  std::unordered_map<std::int64_t, Exchange> exchanges_;
  std::size_t credit_ = 0;
};

}  // namespace qtrp::quic
