// The endpoint over real sockets on free loopback ports. Beyond loopback is 127.0.0.1 as seen through a name, since
// that is what can be had without touching another machine: the rule for names is the one that stands in for it.
#include "qtrp/stats/http_server.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <ifaddrs.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "qtrp/base/time.h"
#include "qtrp/stats/endpoint.h"
#include "sample.h"

namespace qtrp::stats {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::StartsWith;

/// A plain TCP client with a deadline on everything.
class Client {
 public:
  explicit Client(const io::Endpoint& to) : fd_(::socket(to.family(), SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    if (fd_ < 0 || ::connect(fd_, to.data(), to.size()) != 0)
      ADD_FAILURE() << "connect " << to.to_string() << ": " << std::strerror(errno);
  }
  ~Client() { ::close(fd_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  void send(std::string_view text) {
    while (!text.empty()) {
      const auto n = ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
      if (n <= 0) return;  // the server has had enough; what it said is read next
      text.remove_prefix(static_cast<std::size_t>(n));
    }
  }
  /// Whether anything (bytes or the end) comes within `limit`.
  bool comes(std::chrono::milliseconds limit) {
    pollfd p{fd_, POLLIN, 0};
    return ::poll(&p, 1, static_cast<int>(limit.count())) == 1;
  }
  /// Appends to `text` until `done` says so or the server closes; false when it closed.
  template <typename Done>
  bool read(std::string& text, Done done) {
    while (!done(text)) {
      char buffer[4096];
      if (!comes(10s)) {
        ADD_FAILURE() << "nothing came in 10 s after: " << text;
        return false;
      }
      const auto n = ::recv(fd_, buffer, sizeof buffer, 0);
      if (n <= 0) return false;
      text.append(buffer, static_cast<std::size_t>(n));
    }
    return true;
  }
  /// One whole answer, by its Content-Length; `head`: without a body.
  std::string answer(bool head = false) {
    std::string text;
    read(text, [head](const std::string& t) {
      const auto end = t.find("\r\n\r\n");
      if (end == std::string::npos) return false;
      const auto length = t.find("Content-Length: ");
      return head || length == std::string::npos || t.size() >= end + 4 + std::stoul(t.substr(length + 16));
    });
    return text;
  }
  std::string all() {
    std::string text;
    read(text, [](const std::string&) { return false; });
    return text;
  }

 private:
  int fd_;
};

Router router() {
  Router r;
  r.get("/stats", [](const HttpRequest&) { return HttpResponse{.body = "{}", .content_type = "application/json"}; });
  r.get("/healthz", [](const HttpRequest&) { return HttpResponse{.body = "ok"}; }, Router::Access::everybody);
  return r;
}

std::unique_ptr<HttpServer> serve(HttpServer::Options options = {}) {
  auto server = HttpServer::start({"127.0.0.1", 0}, router(), std::move(options));
  if (!server) ADD_FAILURE() << server.error().message;
  return server ? std::move(*server) : nullptr;
}

std::string ask(const HttpServer& server, std::string_view request) {
  Client client(server.local());
  client.send(request);
  return client.answer(request.starts_with("HEAD"));
}

constexpr std::string_view kGet = "GET /stats HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

TEST(HttpServer, AnswersGetAndHeadAlikeButForTheBody) {
  const auto server = serve();
  const std::string get = ask(*server, kGet);
  EXPECT_THAT(get, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(get, HasSubstr("Content-Type: application/json\r\n"));
  EXPECT_THAT(get, HasSubstr("Cache-Control: no-store\r\n"));
  EXPECT_TRUE(get.ends_with("\r\n\r\n{}")) << get;
  const std::string head = ask(*server, "HEAD /stats HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
  EXPECT_EQ(head + "{}", get);
}

TEST(HttpServer, UnknownPathsAre404AndOtherMethods405) {
  const auto server = serve();
  EXPECT_THAT(ask(*server, "GET /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"), StartsWith("HTTP/1.1 404 "));
  const std::string post = ask(*server, "POST /stats HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\nhi");
  EXPECT_THAT(post, StartsWith("HTTP/1.1 405 "));
  EXPECT_THAT(post, HasSubstr("Allow: GET, HEAD\r\n"));
}

TEST(HttpServer, KeepsTheConnectionForFurtherRequests) {
  const auto server = serve();
  Client client(server->local());
  for (int i = 0; i < 100; ++i) {
    client.send(kGet);
    ASSERT_THAT(client.answer(), StartsWith("HTTP/1.1 200 "));
  }
  client.send("GET /stats HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(client.all(), HasSubstr("Connection: close"));
  Client pipelining(server->local());
  pipelining.send(std::string(kGet) + "HEAD /stats HTTP/1.0\r\n\r\n");
  const std::string both = pipelining.all();
  EXPECT_EQ(both.find("HTTP/1.1 200"), 0U);
  EXPECT_NE(both.find("HTTP/1.1 200", 1), std::string::npos);
}

TEST(HttpServer, BoundsWhatARequestMayBe) {
  const auto server = serve();
  EXPECT_THAT(ask(*server, "GET /" + std::string(20'000, 'a') + " HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 431 "));
  EXPECT_THAT(ask(*server, "GET /stats HTTP/1.1\r\nHost: a\r\nX: " + std::string(20'000, 'a') + "\r\n\r\n"),
              StartsWith("HTTP/1.1 431 "));
  EXPECT_THAT(ask(*server, "POST /stats HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n\r\n"),
              StartsWith("HTTP/1.1 413 "));
  EXPECT_THAT(ask(*server, "\x16\x03\x01\x02\x00\x01\xfc\r\n\r\n"), StartsWith("HTTP/1.1 400 "));
  EXPECT_THAT(ask(*server, "SSH-2.0-OpenSSH_9\r\n\r\n"), StartsWith("HTTP/1.1 400 "));
  EXPECT_THAT(ask(*server, "GET /stats HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
              StartsWith("HTTP/1.1 400 "));
  EXPECT_THAT(ask(*server, kGet), StartsWith("HTTP/1.1 200 ")) << "and goes on with others";
}

TEST(HttpServer, ClosesASilentConnectionInTime) {
  const auto server = serve({.timeout = 200ms});
  Client silent(server->local()), slow(server->local()), idle(server->local());
  slow.send("GET /stats HT");
  idle.send(kGet);
  EXPECT_THAT(idle.answer(), StartsWith("HTTP/1.1 200 "));
  EXPECT_EQ(silent.all(), "");
  EXPECT_EQ(slow.all(), "");
  EXPECT_EQ(idle.all(), "");
}

TEST(HttpServer, ServesABoundedNumberAtATimeAndTheRestInTurn) {
  const auto server = serve({.max_connections = 2});
  auto first = std::make_unique<Client>(server->local());
  Client second(server->local());
  first->send(kGet);
  EXPECT_THAT(first->answer(), StartsWith("HTTP/1.1 200 "));
  second.send(kGet);
  EXPECT_THAT(second.answer(), StartsWith("HTTP/1.1 200 "));
  Client third(server->local());
  third.send(kGet);
  EXPECT_FALSE(third.comes(100ms)) << "a third connection was served beside two";
  first.reset();
  EXPECT_THAT(third.answer(), StartsWith("HTTP/1.1 200 "));
}

TEST(HttpServer, ASiteThatPosesAsLoopbackInABrowserGetsNothing) {
  const auto server = serve();
  EXPECT_THAT(ask(*server, "GET /stats HTTP/1.1\r\nHost: rebound.example.com\r\n\r\n"), StartsWith("HTTP/1.1 401 "));
  for (const char* host : {"localhost", "localhost:7500", "127.0.0.1:7500", "[::1]:7500", "[::1]"})
    EXPECT_THAT(ask(*server, fmt::format("GET /stats HTTP/1.1\r\nHost: {}\r\n\r\n", host)), StartsWith("HTTP/1.1 200 "))
        << host;
  EXPECT_THAT(ask(*server, "GET /stats HTTP/1.0\r\n\r\n"), StartsWith("HTTP/1.1 200 "));
}

TEST(HttpServer, TheTokenOpensWhatIsClosedOtherwise) {
  const auto server = serve({.token = "the-right-token"});
  const auto with = [&](std::string_view target, std::string_view authorization) {
    return ask(*server, fmt::format("GET {} HTTP/1.1\r\nHost: stats.example.com\r\n{}\r\n", target, authorization));
  };
  const std::string refused = with("/stats", "");
  EXPECT_THAT(refused, StartsWith("HTTP/1.1 401 "));
  EXPECT_THAT(refused, HasSubstr("WWW-Authenticate: Bearer"));
  EXPECT_THAT(with("/stats", "Authorization: Bearer the-wrong-token\r\n"), StartsWith("HTTP/1.1 401 "));
  EXPECT_THAT(with("/stats", "Authorization: Bearer \r\n"), StartsWith("HTTP/1.1 401 "));
  EXPECT_THAT(with("/stats", "Authorization: Basic the-right-token\r\n"), StartsWith("HTTP/1.1 401 "));
  EXPECT_THAT(with("/nowhere", ""), StartsWith("HTTP/1.1 401 ")) << "without the token nobody learns what is there";
  EXPECT_THAT(with("/stats", "Authorization: Bearer the-right-token\r\n"), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(with("/healthz", ""), StartsWith("HTTP/1.1 200 "));
}

TEST(HttpServer, OperatorsNeedTheTokenFromLoopbackToo) {
  const auto with_post = [](std::string token) {
    Router r = router();
    r.post("/close", [](const HttpRequest& request) { return HttpResponse{.body = "closed " + request.body}; });
    return HttpServer::start({"127.0.0.1", 0}, std::move(r), {.token = std::move(token)}).value();
  };
  const auto post = [](const HttpServer& server, std::string_view authorization) {
    return ask(server,
               fmt::format("POST /close HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n{}\r\nit", authorization));
  };
  const auto server = with_post("the-right-token");
  EXPECT_THAT(post(*server, ""), StartsWith("HTTP/1.1 401 "));
  EXPECT_THAT(post(*server, "Authorization: Bearer the-wrong-token\r\n"), StartsWith("HTTP/1.1 401 "));
  EXPECT_THAT(post(*server, "Authorization: Bearer the-right-token\r\n"), HasSubstr("\r\n\r\nclosed it"));
  const auto without = with_post("");
  EXPECT_THAT(post(*without, ""), StartsWith("HTTP/1.1 403 "));
  EXPECT_THAT(post(*without, "Authorization: Bearer \r\n"), StartsWith("HTTP/1.1 403 "));
}

TEST(HttpServer, StreamsAnEventAtEachTick) {
  Router r = router();
  std::atomic<int> made{0};
  r.events("/events", [&made] { return fmt::format("data: {}\n\n", ++made); });
  auto server = HttpServer::start({"127.0.0.1", 0}, std::move(r), {.tick = 20ms}).value();
  Client client(server->local());
  client.send("GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n");
  std::string text;
  EXPECT_TRUE(client.read(text, [](const std::string& t) { return t.find("data: 5\n\n") != std::string::npos; }));
  EXPECT_THAT(text, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(text, HasSubstr("Content-Type: text/event-stream\r\n"));
  EXPECT_THAT(text, HasSubstr("\r\n\r\ndata: 1\n\ndata: 2\n\n"));
  EXPECT_THAT(ask(*server, kGet), StartsWith("HTTP/1.1 200 ")) << "beside it others are served";
  server.reset();
  client.all();  // its end is the stream's
}

TEST(HttpServer, ABadCertificateIsAClearErrorAndChangesNothing) {
  const auto refused =
      HttpServer::start({"127.0.0.1", 0}, router(), {.certificate = HttpServer::Certificate{"no", "PEM"}});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, ErrorKind::config);
  EXPECT_THAT(refused.error().message, HasSubstr("stats.tls: the certificate or its key can't be used"));
  const auto server = serve();
  EXPECT_FALSE(server->use({"no", "PEM"}));
  EXPECT_THAT(ask(*server, kGet), StartsWith("HTTP/1.1 200 "));
}

TEST(HttpServer, BeyondLoopbackItAsksForTheToken) {
  ASSERT_FALSE(HttpServer::start({"0.0.0.0", 0}, router(), {}));
  ASSERT_FALSE(HttpServer::start({"::", 0}, router(), {}));
  EXPECT_THAT(HttpServer::start({"0.0.0.0", 0}, router(), {}).error().message,
              HasSubstr("stats.listen is 0.0.0.0:0 (0.0.0.0), which others can reach: set stats.token"));
  EXPECT_EQ(HttpServer::start({"0.0.0.0", 0}, router(), {}).error().kind, ErrorKind::config);
  auto server = HttpServer::start({"0.0.0.0", 0}, router(), {.token = "the-right-token"});
  ASSERT_TRUE(server) << server.error().message;
  // An address of this machine that is not loopback: to the server such a peer is a stranger.
  ifaddrs* list = nullptr;
  ASSERT_EQ(::getifaddrs(&list), 0);
  std::optional<io::Endpoint> own;
  for (const ifaddrs* i = list; i != nullptr; i = i->ifa_next) {
    if (i->ifa_addr == nullptr || i->ifa_addr->sa_family != AF_INET) continue;
    io::Endpoint address(i->ifa_addr, sizeof(sockaddr_in));
    if (address.is_loopback()) continue;
    address.set_port((*server)->local().port());
    own = address;
  }
  ::freeifaddrs(list);
  if (!own) return;  // a machine with loopback alone: the refusals above and the name rule are what can be proved
  const auto ask_there = [&](std::string_view request) {
    Client client(*own);
    client.send(request);
    return client.answer();
  };
  EXPECT_THAT(ask_there(kGet), StartsWith("HTTP/1.1 401 "));
  EXPECT_THAT(ask_there("GET /stats HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer the-right-token\r\n\r\n"),
              StartsWith("HTTP/1.1 200 "));
}

TEST(HttpServer, ATakenPortIsAClearError) {
  const auto server = serve();
  const auto second = HttpServer::start({"127.0.0.1", server->local().port()}, router(), {});
  ASSERT_FALSE(second);
  EXPECT_THAT(second.error().message,
              HasSubstr(fmt::format("stats.listen: can't listen on 127.0.0.1:{}: Address already in use",
                                    server->local().port())));
  EXPECT_THAT(second.error().message, HasSubstr("name another in stats.listen"));
  EXPECT_EQ(second.error().code, EADDRINUSE);
}

TEST(HttpServer, ItsPortIsFreeAgainWhenItIsGone) {
  auto server = serve();
  const auto port = server->local().port();
  Client open(server->local());
  open.send(kGet);
  EXPECT_THAT(open.answer(), StartsWith("HTTP/1.1 200 "));
  server.reset();
  EXPECT_EQ(open.all(), "");
  EXPECT_TRUE(HttpServer::start({"127.0.0.1", port}, router(), {}));
}

TEST(HttpServer, ListensOnIpv6AndOnNames) {
  const auto v6 = HttpServer::start({"::1", 0}, router(), {});
  ASSERT_TRUE(v6) << v6.error().message;
  EXPECT_THAT(ask(**v6, "GET /stats HTTP/1.1\r\nHost: [::1]\r\n\r\n"), StartsWith("HTTP/1.1 200 "));
  const auto named = HttpServer::start({"localhost", 0}, router(), {});
  ASSERT_TRUE(named) << named.error().message;
  EXPECT_TRUE((*named)->local().is_loopback());
}

TEST(StatsEndpoint, ServesTheFiguresOfItsSources) {
  config::Stats config;
  config.listen = {"127.0.0.1", 0};
  std::atomic<bool> ready{false};
  auto endpoint = start_endpoint(
      config, {.snapshot = sample, .totals = [] { return Totals{}; }, .ready = [&] { return ready.load(); }});
  ASSERT_TRUE(endpoint) << endpoint.error().message;
  const auto get = [&](std::string_view path) {
    return ask(**endpoint, fmt::format("GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", path));
  };
  const std::string stats = get("/stats");
  const auto json = nlohmann::json::parse(stats.substr(stats.find("\r\n\r\n")));
  EXPECT_EQ(json["total_connections"], 4);
  EXPECT_LT(json["uptime_seconds"], 60);
  EXPECT_EQ(json["bandwidth"]["out_mbps"], 0) << "the meters' figure, not the source's";
  EXPECT_THAT(get("/metrics"), HasSubstr("application/openmetrics-text; version=1.0.0"));
  EXPECT_THAT(get("/api/proxies"), HasSubstr("\"port_in_use\""));
  EXPECT_THAT(get("/healthz"), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(get("/readyz"), StartsWith("HTTP/1.1 503 "));
  ready = true;
  EXPECT_THAT(get("/readyz"), StartsWith("HTTP/1.1 200 "));
}

TEST(StatsEndpoint, ServesADashboardThatNeedsNothingFromOutside) {
  config::Stats config;
  config.listen = {"127.0.0.1", 0};
  config.token = "the-right-token";
  auto endpoint = start_endpoint(config, {.snapshot = sample, .totals = [] { return Totals{}; }, .ready = {}});
  ASSERT_TRUE(endpoint) << endpoint.error().message;
  const auto get = [&](std::string_view path) {
    return ask(**endpoint, fmt::format("GET {} HTTP/1.1\r\nHost: stats.example.com\r\n\r\n", path));
  };
  const std::string page = get("/");
  EXPECT_THAT(page, StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(page, HasSubstr("Content-Type: text/html; charset=utf-8\r\n"));
  EXPECT_THAT(page, HasSubstr("Content-Security-Policy: default-src 'none'; script-src 'self'"));
  EXPECT_TRUE(page.ends_with("</html>\n"));
  for (const char* path : {"/", "/dashboard.css", "/dashboard.js"}) {
    const std::string file = get(path);
    EXPECT_THAT(file, StartsWith("HTTP/1.1 200 ")) << path;
    EXPECT_EQ(file.find("//", file.find("\r\n\r\n")) != std::string::npos && file.find("://") != std::string::npos,
              false)
        << path;
    EXPECT_EQ(file.find("innerHTML"), std::string::npos) << "names of peers must only become text";
  }
  for (const char* path : {"/stats", "/api/history", "/metrics", "/api/clients"})
    EXPECT_THAT(get(path), StartsWith("HTTP/1.1 401 ")) << path << ": the figures still need the token";
}

TEST(StatsEndpoint, IsNotThereWhenTurnedOff) {
  config::Stats config;
  config.enabled = false;
  const auto endpoint = start_endpoint(config, {.snapshot = sample, .totals = [] { return Totals{}; }, .ready = {}});
  ASSERT_TRUE(endpoint);
  EXPECT_EQ(*endpoint, nullptr);
}

TEST(StatsEndpoint, BandwidthFollowsTheTotals) {
  config::Stats config;
  config.listen = {"127.0.0.1", 0};
  // 125,000 bytes a call: the first call is at once, the next a second later, so 1 Mbit/s.
  std::atomic<std::uint64_t> calls{0};
  auto endpoint = start_endpoint(
      config, {.snapshot = sample, .totals = [&] { return Totals{.bytes_in = 125'000 * calls++}; }, .ready = {}});
  ASSERT_TRUE(endpoint) << endpoint.error().message;
  const TimePoint deadline = Clock::now() + 20s;
  double rate = 0;
  while (rate == 0 && Clock::now() < deadline) {
    const std::string stats = ask(**endpoint, kGet);
    rate = nlohmann::json::parse(stats.substr(stats.find("\r\n\r\n")))["bandwidth"]["in_mbps"];
    Client wait((*endpoint)->local());
    wait.comes(50ms);
  }
  EXPECT_GT(rate, 0.05);
  EXPECT_LT(rate, 1.1);
}

}  // namespace
}  // namespace qtrp::stats
