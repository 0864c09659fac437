// The HTTP endpoint over Boost.Beast: one thread, one io_context, callbacks. Nothing here is on the data path.
#include "qtrp/stats/http_server.h"

#include <fmt/format.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/version.hpp>
#include <optional>
#include <thread>

#include "qtrp/base/log.h"
#include "qtrp/base/time.h"

namespace qtrp::stats {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;

bool equal_in_constant_time(std::string_view a, std::string_view b) {
  volatile std::size_t difference = a.size() ^ b.size();
  for (std::size_t i = 0; i < a.size(); ++i) {
    const auto other = b.empty() ? '\0' : b[i % b.size()];
    difference = difference | static_cast<std::size_t>(static_cast<unsigned char>(a[i] ^ other));
  }
  return difference == 0;
}

namespace {

io::Endpoint to_endpoint(const tcp::endpoint& from) {
  return {from.data(), static_cast<socklen_t>(from.size())};
}

/// At start only, so a slow resolver holds nobody up.
Result<io::Endpoint> resolve(const io::HostPort& what) {
  if (auto literal = io::Endpoint::from_literal(what.host, what.port)) return literal;
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int code = ::getaddrinfo(what.host.c_str(), nullptr, &hints, &found);
  if (code != 0 || found == nullptr)
    return fail(ErrorKind::system,
                fmt::format("stats.listen: the name '{}' does not resolve: {}", what.host, ::gai_strerror(code)));
  io::Endpoint endpoint(found->ai_addr, found->ai_addrlen);
  ::freeaddrinfo(found);
  endpoint.set_port(what.port);
  return endpoint;
}

/// "localhost" or an IP literal, with or without a port: what a page of another site can't make a browser say (DNS
/// rebinding).
bool names_an_address(std::string_view host) {
  std::string name;
  if (host.starts_with('[')) {
    const auto end = host.find(']');
    name = host.substr(1, end == std::string_view::npos ? end : end - 1);
  } else {
    name = host.substr(0, host.find(':'));
  }
  return name.empty() || name == "localhost" || io::Endpoint::from_literal(name, 0).has_value();
}

}  // namespace

class HttpServer::Loop {
 public:
  Loop(Router router, Options options) : router_(std::move(router)), options_(std::move(options)) {}
  ~Loop() {
    context_.stop();
    if (thread_.joinable()) thread_.join();
    stopping_ = true;
  }
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  Result<void> listen(const io::HostPort& where, const io::Endpoint& address) {
    const auto failed = [&](const beast::error_code& error) {
      std::string advice;
      if (error == asio::error::address_in_use)
        advice = "; another process has this port: name another in stats.listen, or write 'stats: false'";
      return fail(ErrorKind::system,
                  fmt::format("stats.listen: can't listen on {}: {}{}", where.to_string(), error.message(), advice),
                  error.value());
    };
    tcp::endpoint endpoint;
    endpoint.resize(address.size());
    std::memcpy(endpoint.data(), address.data(), address.size());
    beast::error_code error;
    acceptor_.open(endpoint.protocol(), error);
    if (error) return failed(error);
    acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error && address.family() == AF_INET6) acceptor_.set_option(asio::ip::v6_only(false), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(static_cast<int>(options_.max_connections), error);
    if (error) return failed(error);
    local_ = to_endpoint(acceptor_.local_endpoint());
    return {};
  }

  void run() {
    tick();
    accept();
    // Signals belong to the thread that waits for them.
    sigset_t all, before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    thread_ = std::thread([this] {
      ::pthread_setname_np(::pthread_self(), "qtrp-stats");
      context_.run();
    });
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  const io::Endpoint& local() const { return local_; }

 private:
  class Connection;

  void tick() {
    if (!options_.on_tick) return;
    ticker_.expires_after(options_.tick);
    ticker_.async_wait([this](const beast::error_code& error) {
      if (error) return;
      options_.on_tick();
      tick();
    });
  }
  void accept();
  void ended() {
    if (stopping_) return;
    --connections_;
    if (!accepting_) accept();
  }
  /// Whether the peer may have what it asks for, and if not, why.
  std::optional<HttpResponse> refuse(const io::Endpoint& peer, std::string_view host, std::string_view authorization,
                                     std::string_view target);

  Router router_;
  Options options_;
  io::Endpoint local_;
  // In this order: connections refer to what stands above, and die with the context.
  std::size_t connections_ = 0;
  bool accepting_ = false;
  bool stopping_ = false;
  TimePoint refusal_logged_{};
  asio::io_context context_{1};
  tcp::acceptor acceptor_{context_};
  asio::steady_timer ticker_{context_}, pause_{context_};
  std::thread thread_;
};

/// One TCP connection: request, answer, and again as long as both want.
class HttpServer::Loop::Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(Loop& loop, tcp::socket socket, const io::Endpoint& peer)
      : loop_(loop), stream_(std::move(socket)), peer_(peer) {}
  ~Connection() { loop_.ended(); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void read() {
    parser_.emplace();
    parser_->header_limit(static_cast<std::uint32_t>(loop_.options_.max_head));
    parser_->body_limit(loop_.options_.max_body);
    stream_.expires_after(loop_.options_.timeout);
    http::async_read(
        stream_, buffer_, *parser_,
        [self = shared_from_this()](const beast::error_code& error, std::size_t) { self->have_read(error); });
  }

 private:
  void have_read(const beast::error_code& error) {
    if (error == http::error::header_limit || error == http::error::buffer_overflow)
      return reject(431, "request header too large\n");
    if (error == http::error::body_limit) return reject(413, "request body too large\n");
    if (error.category() == http::make_error_code(http::error::bad_method).category() &&
        error != http::error::end_of_stream && error != http::error::partial_message)
      return reject(400, "not a request that this server understands\n");
    if (error) return close();
    const auto& request = parser_->get();
    const auto text = [](boost::beast::string_view view) { return std::string_view(view.data(), view.size()); };
    const auto target = text(request.target());
    auto refused =
        loop_.refuse(peer_, text(request[http::field::host]), text(request[http::field::authorization]), target);
    write(refused
              ? std::move(*refused)
              : loop_.router_.answer({std::string(text(request.method_string())), std::string(target), request.body()}),
          request.keep_alive(), request.method() == http::verb::head);
  }
  void reject(unsigned status, std::string body) { write({.status = status, .body = std::move(body)}, false, false); }

  void write(HttpResponse answer, bool keep_alive, bool head_only) {
    response_ = {};
    response_.version(11);
    response_.result(answer.status);
    response_.set(http::field::content_type, answer.content_type);
    response_.set(http::field::cache_control, "no-store");
    response_.set("X-Content-Type-Options", "nosniff");
    for (const auto& [name, value] : answer.headers) response_.set(name, value);
    response_.keep_alive(keep_alive);
    response_.content_length(answer.body.size());
    if (!head_only) response_.body() = std::move(answer.body);
    stream_.expires_after(loop_.options_.timeout);
    http::async_write(stream_, response_,
                      [self = shared_from_this(), keep_alive](const beast::error_code& error, std::size_t) {
                        if (error || !keep_alive) return self->close();
                        self->read();
                      });
  }
  void close() {
    beast::error_code ignored;
    stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
    // The destructor closes it, once this callback has returned.
  }

  Loop& loop_;
  beast::tcp_stream stream_;
  beast::flat_buffer buffer_{64 * 1024};
  std::optional<http::request_parser<http::string_body>> parser_;
  http::response<http::string_body> response_;
  io::Endpoint peer_;
};

void HttpServer::Loop::accept() {
  if (connections_ >= options_.max_connections) {
    accepting_ = false;
    return;
  }
  accepting_ = true;
  acceptor_.async_accept([this](const beast::error_code& error, tcp::socket socket) {
    if (error == asio::error::operation_aborted) return;
    if (error) {
      // Out of descriptors or memory: try again in a moment rather than spin.
      pause_.expires_after(std::chrono::milliseconds(100));
      pause_.async_wait([this](const beast::error_code& aborted) {
        if (!aborted) accept();
      });
      return;
    }
    beast::error_code gone;
    const auto peer = socket.remote_endpoint(gone);
    if (!gone) {
      ++connections_;
      std::make_shared<Connection>(*this, std::move(socket), to_endpoint(peer))->read();
    }
    accept();
  });
}

std::optional<HttpResponse> HttpServer::Loop::refuse(const io::Endpoint& peer, std::string_view host,
                                                     std::string_view authorization, std::string_view target) {
  if (router_.access(target) == Router::Access::everybody) return std::nullopt;
  constexpr std::string_view scheme = "Bearer ";
  if (!options_.token.empty() && authorization.starts_with(scheme) &&
      equal_in_constant_time(authorization.substr(scheme.size()), options_.token))
    return std::nullopt;
  const bool local_browser = peer.is_loopback() && names_an_address(host);
  if (local_browser) return std::nullopt;
  if (const TimePoint now = Clock::now(); now - refusal_logged_ > std::chrono::seconds(10)) {
    refusal_logged_ = now;
    log::warn("stats: refused a request from {}: {}", peer.to_string(),
              authorization.empty() ? "it came without the token (Authorization: Bearer <stats.token>)"
                                    : "its token is wrong");
  }
  return HttpResponse{.status = 401,
                      .body = "a token is needed: Authorization: Bearer <stats.token>\n",
                      .headers = {{"WWW-Authenticate", "Bearer realm=\"qtrp\""}}};
}

HttpServer::HttpServer(std::unique_ptr<Loop> loop) : loop_(std::move(loop)) {}
HttpServer::~HttpServer() = default;
io::Endpoint HttpServer::local() const {
  return loop_->local();
}

Result<std::unique_ptr<HttpServer>> HttpServer::start(const io::HostPort& listen, Router router, Options options) {
  const auto address = resolve(listen);
  if (!address) return std::unexpected(address.error());
  if (!address->is_loopback() && options.token.empty()) {
    return fail(ErrorKind::config,
                fmt::format("stats.listen is {} ({}), which others can reach: set stats.token, or listen on 127.0.0.1",
                            listen.to_string(), address->host()));
  }
  if (options.on_tick) options.on_tick();
  auto loop = std::make_unique<Loop>(std::move(router), std::move(options));
  if (auto listening = loop->listen(listen, *address); !listening) return std::unexpected(listening.error());
  loop->run();
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(loop)));
}

}  // namespace qtrp::stats
