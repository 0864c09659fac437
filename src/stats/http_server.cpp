// The HTTP endpoint over Boost.Beast, plain or inside TLS: one thread, one io_context, callbacks. Nothing here is on
// the data path.
#include "qtrp/stats/http_server.h"

#include <fmt/format.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl.hpp>
#include <boost/beast/version.hpp>
#include <map>
#include <optional>
#include <sstream>
#include <thread>
#include <type_traits>
#include <vector>

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

constexpr std::size_t kMostSubscribers = 16;

Result<std::shared_ptr<asio::ssl::context>> make_tls(const HttpServer::Certificate& certificate) {
  auto context = std::make_shared<asio::ssl::context>(asio::ssl::context::tls_server);
  beast::error_code error;
  context->set_options(
      asio::ssl::context::default_workarounds | asio::ssl::context::no_tlsv1 | asio::ssl::context::no_tlsv1_1, error);
  if (!error) context->use_certificate_chain(asio::buffer(certificate.certificate_pem), error);
  if (!error) context->use_private_key(asio::buffer(certificate.key_pem), asio::ssl::context::pem, error);
  if (error) {
    return fail(ErrorKind::config,
                fmt::format("stats.tls: the certificate or its key can't be used: {}", error.message()));
  }
  return context;
}

/// A connection that was turned into a stream of events.
class Subscriber {
 public:
  virtual ~Subscriber() = default;
  /// Sends the event, unless the last one is still on its way.
  virtual void push(std::shared_ptr<const std::string> event) = 0;
  std::string target;
  bool gone = false;
};

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

  Result<void> use(const Certificate& certificate) {
    auto made = make_tls(certificate);
    if (!made) return std::unexpected(made.error());
    asio::post(context_, [this, tls = std::move(*made)] { tls_ = tls; });
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
  template <typename Stream>
  class Connection;
  using Plain = beast::tcp_stream;
  using Secure = asio::ssl::stream<beast::tcp_stream>;

  void tick() {
    ticker_.expires_after(options_.tick);
    ticker_.async_wait([this](const beast::error_code& error) {
      if (error) return;
      if (options_.on_tick) options_.on_tick();
      push_events();
      tick();
    });
  }
  // One event for all who listen to the same stream.
  void push_events() {
    std::erase_if(subscribers_, [](const auto& subscriber) { return subscriber->gone; });
    std::map<std::string, std::shared_ptr<const std::string>> events;
    for (const auto& subscriber : subscribers_) {
      auto& event = events[subscriber->target];
      if (!event) event = std::make_shared<const std::string>(router_.next_event(subscriber->target));
      if (!event->empty()) subscriber->push(event);
    }
  }
  bool subscribe(std::shared_ptr<Subscriber> subscriber) {
    std::erase_if(subscribers_, [](const auto& known) { return known->gone; });
    if (subscribers_.size() >= kMostSubscribers) return false;
    subscribers_.push_back(std::move(subscriber));
    return true;
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
  std::shared_ptr<asio::ssl::context> tls_;
  std::vector<std::shared_ptr<Subscriber>> subscribers_;
  std::thread thread_;
};

/// One connection: request, answer, and again as long as both want; or one request, and events until either end goes.
template <typename Stream>
class HttpServer::Loop::Connection final : public Subscriber, public std::enable_shared_from_this<Connection<Stream>> {
 public:
  template <typename... Layers>
  Connection(Loop& loop, const io::Endpoint& peer, Layers&&... layers)
      : loop_(loop), stream_(std::forward<Layers>(layers)...), peer_(peer) {}
  ~Connection() override { loop_.ended(); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void begin() {
    if constexpr (std::is_same_v<Stream, Secure>) {
      limit_time();
      stream_.async_handshake(asio::ssl::stream_base::server,
                              [self = this->shared_from_this()](const beast::error_code& error) {
                                if (!error) self->read();
                              });
    } else {
      read();
    }
  }

  void push(std::shared_ptr<const std::string> event) override {
    if (event_) return;  // a slow reader misses some
    event_ = std::move(event);
    limit_time();
    asio::async_write(stream_, asio::buffer(*event_),
                      [self = this->shared_from_this()](const beast::error_code& error, std::size_t) {
                        self->event_.reset();
                        if (error) self->gone = true;
                      });
  }

 private:
  void limit_time() { beast::get_lowest_layer(stream_).expires_after(loop_.options_.timeout); }

  void read() {
    parser_.emplace();
    parser_->header_limit(static_cast<std::uint32_t>(loop_.options_.max_head));
    parser_->body_limit(loop_.options_.max_body);
    limit_time();
    http::async_read(
        stream_, buffer_, *parser_,
        [self = this->shared_from_this()](const beast::error_code& error, std::size_t) { self->have_read(error); });
  }

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
    const std::string asked(text(request.target()));
    auto refused =
        loop_.refuse(peer_, text(request[http::field::host]), text(request[http::field::authorization]), asked);
    HttpResponse answer =
        refused ? std::move(*refused)
                : loop_.router_.answer({std::string(text(request.method_string())), asked, request.body()});
    const bool head_only = request.method() == http::verb::head;
    if (answer.stream && !head_only) return stream(asked, std::move(answer));
    write(std::move(answer), request.keep_alive(), head_only);
  }
  void reject(unsigned status, std::string body) { write({.status = status, .body = std::move(body)}, false, false); }

  void prepare(const HttpResponse& answer) {
    response_ = {};
    response_.version(11);
    response_.result(answer.status);
    response_.set(http::field::content_type, answer.content_type);
    response_.set(http::field::cache_control, "no-store");
    response_.set("X-Content-Type-Options", "nosniff");
    for (const auto& [name, value] : answer.headers) response_.set(name, value);
  }

  void write(HttpResponse answer, bool keep_alive, bool head_only) {
    prepare(answer);
    response_.keep_alive(keep_alive);
    response_.content_length(answer.body.size());
    if (!head_only) response_.body() = std::move(answer.body);
    limit_time();
    http::async_write(stream_, response_,
                      [self = this->shared_from_this(), keep_alive](const beast::error_code& error, std::size_t) {
                        if (error || !keep_alive) return self->close();
                        self->read();
                      });
  }

  // Without a length: the body ends with the connection.
  void stream(std::string asked, HttpResponse answer) {
    target = std::move(asked);
    if (!loop_.subscribe(this->shared_from_this()))
      return reject(503, fmt::format("{} others listen already\n", kMostSubscribers));
    prepare(answer);
    response_.keep_alive(false);
    // Who can't be made to wait for the end must not be buffered on the way (nginx).
    response_.set("X-Accel-Buffering", "no");
    std::ostringstream head;
    head << response_.base();
    push(std::make_shared<const std::string>(head.str() + answer.body));
  }

  void close() {
    beast::error_code ignored;
    if constexpr (std::is_same_v<Stream, Secure>) {
      limit_time();
      stream_.async_shutdown([self = this->shared_from_this()](const beast::error_code&) {});
    } else {
      stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
    }
    // The destructor closes it, once this callback has returned.
  }

  Loop& loop_;
  Stream stream_;
  beast::flat_buffer buffer_{64 * 1024};
  std::optional<http::request_parser<http::string_body>> parser_;
  http::response<http::string_body> response_;
  std::shared_ptr<const std::string> event_;
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
      if (tls_) {
        std::make_shared<Connection<Secure>>(*this, to_endpoint(peer), std::move(socket), *tls_)->begin();
      } else {
        std::make_shared<Connection<Plain>>(*this, to_endpoint(peer), std::move(socket))->begin();
      }
    }
    accept();
  });
}

std::optional<HttpResponse> HttpServer::Loop::refuse(const io::Endpoint& peer, std::string_view host,
                                                     std::string_view authorization, std::string_view target) {
  const Router::Access access = router_.access(target);
  if (access == Router::Access::everybody) return std::nullopt;
  constexpr std::string_view scheme = "Bearer ";
  if (!options_.token.empty() && authorization.starts_with(scheme) &&
      equal_in_constant_time(authorization.substr(scheme.size()), options_.token))
    return std::nullopt;
  const bool local_browser = peer.is_loopback() && names_an_address(host);
  if (access == Router::Access::operators && options_.token.empty())
    return HttpResponse{.status = 403, .body = "this needs a token: set stats.token in the configuration\n"};
  if (local_browser && access != Router::Access::operators) return std::nullopt;
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

Result<void> HttpServer::use(const Certificate& certificate) {
  return loop_->use(certificate);
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
  const std::optional<Certificate> certificate = options.certificate;
  auto loop = std::make_unique<Loop>(std::move(router), std::move(options));
  if (certificate) {
    if (auto used = loop->use(*certificate); !used) return std::unexpected(used.error());
  }
  if (auto listening = loop->listen(listen, *address); !listening) return std::unexpected(listening.error());
  loop->run();
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(loop)));
}

}  // namespace qtrp::stats
