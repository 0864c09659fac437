// The routes of the statistics endpoint, and the meters behind "bandwidth".
#include "qtrp/stats/endpoint.h"

#include <fmt/format.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "qtrp/base/log.h"
#include "qtrp/stats/history.h"
#include "qtrp/stats/rate_meter.h"
#include "stats/dashboard.h"

namespace qtrp::stats {
namespace {

/// Everything that the routes share; lives on the endpoint's thread.
class Figures {
 public:
  explicit Figures(Sources sources) : sources_(std::move(sources)) {}

  void sample() {
    const Totals totals = sources_.totals();
    const TimePoint now = Clock::now();
    in_.add(now, totals.bytes_in);
    out_.add(now, totals.bytes_out);
    history_.add(now, totals);
  }
  Snapshot snapshot() const {
    Snapshot snapshot = sources_.snapshot();
    snapshot.uptime = std::chrono::duration_cast<std::chrono::seconds>(Clock::now() - started_);
    snapshot.in_mbps = in_.per_second() * 8 / 1e6;
    snapshot.out_mbps = out_.per_second() * 8 / 1e6;
    return snapshot;
  }
  std::string history() const { return history_.to_json(); }
  bool ready() const { return !sources_.ready || sources_.ready(); }
  Connections connections() const { return sources_.connections ? sources_.connections() : Connections(); }
  std::string event() const { return fmt::format("data: {}\n\n", event_json(snapshot(), connections())); }
  const Sources& sources() const { return sources_; }

 private:
  Sources sources_;
  RateMeter in_, out_;
  History history_;
  TimePoint started_ = Clock::now();
};

/// A file of the dashboard. It holds no figures, so it needs no token: the page asks for one where the figures do.
void add_page(Router& router, std::string path, std::string_view text, std::string type) {
  router.get(
      std::move(path),
      [text, type](const HttpRequest&) {
        return HttpResponse{
            .body = std::string(text),
            .content_type = type + "; charset=utf-8",
            .headers = {
                {"Content-Security-Policy",
                 "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
                 "form-action 'none'; frame-ancestors 'none'"},
                {"Referrer-Policy", "no-referrer"}}};
      },
      Router::Access::everybody);
}

HttpResponse json_answer(std::string body) {
  return {.body = std::move(body), .content_type = "application/json"};
}

/// The operators' requests: JSON with one key, `key`, for which `act` says whether there was such a thing.
template <typename T, typename Act>
Router::Handler closes(const char* key, Act act) {
  return [key, act](const HttpRequest& request) -> HttpResponse {
    const auto json = nlohmann::json::parse(request.body, nullptr, false);
    const bool right = json.is_object() && json.contains(key) &&
                       (std::is_same_v<T, std::string> ? json[key].is_string() : json[key].is_number_unsigned());
    if (!right) return {.status = 400, .body = fmt::format("found no JSON object with the key '{}'\n", key)};
    if (!act(json[key].template get<T>())) return {.status = 404, .body = "it is gone already\n"};
    return json_answer("{\"closed\": true}\n");
  };
}

Result<std::string> read_pem(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (!file.is_open() || file.bad()) return fail(ErrorKind::config, fmt::format("stats.tls: can't read {}", path));
  return text;
}

}  // namespace

Result<std::optional<HttpServer::Certificate>> read_certificate(const config::Stats& config) {
  if (config.cert.empty()) return std::nullopt;
  auto certificate = read_pem(config.cert), key = read_pem(config.key);
  if (!certificate) return std::unexpected(certificate.error());
  if (!key) return std::unexpected(key.error());
  return HttpServer::Certificate{std::move(*certificate), std::move(*key)};
}

Result<std::unique_ptr<HttpServer>> start_endpoint(const config::Stats& config, Sources sources) {
  if (!config.enabled) return nullptr;
  // Shared by the routes and the ticker, which live and die together in the server.
  const auto figures = std::make_shared<Figures>(std::move(sources));
  Router router;
  const auto json = [&](std::string path, std::string (*form)(const Snapshot&)) {
    router.get(std::move(path), [figures, form](const HttpRequest&) { return json_answer(form(figures->snapshot())); });
  };
  json("/stats", to_json);
  json("/api/clients", clients_json);
  json("/api/proxies", proxies_json);
  json("/api/tunnels", tunnels_json);
  router.get("/api/history", [figures](const HttpRequest&) { return json_answer(figures->history()); });
  router.get("/api/connections",
             [figures](const HttpRequest&) { return json_answer(connections_json(figures->connections())); });
  router.get("/api/troubles", [](const HttpRequest&) { return json_answer(troubles_json()); });
  router.events("/api/events", [figures] { return figures->event(); });
  if (figures->sources().close_connection) {
    router.post("/api/connections/close", closes<std::uint64_t>("connection", [figures](std::uint64_t number) {
                  log::info("stats: an operator closes connection {}", number);
                  return figures->sources().close_connection(number);
                }));
  }
  if (figures->sources().close_client) {
    router.post("/api/clients/close", closes<std::string>("instance", [figures](const std::string& instance) {
                  log::info("stats: an operator closes the client with instance {}", instance);
                  return figures->sources().close_client(instance);
                }));
  }
  add_page(router, "/", dashboard::page, "text/html");
  add_page(router, "/dashboard.css", dashboard::style, "text/css");
  add_page(router, "/dashboard.js", dashboard::script, "text/javascript");
  router.get("/metrics", [figures](const HttpRequest&) {
    return HttpResponse{.body = to_openmetrics(figures->snapshot()),
                        .content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8"};
  });
  router.get("/healthz", [](const HttpRequest&) { return HttpResponse{.body = "ok\n"}; }, Router::Access::everybody);
  router.get(
      "/readyz",
      [figures](const HttpRequest&) {
        return figures->ready() ? HttpResponse{.body = "ready\n"} : HttpResponse{.status = 503, .body = "not ready\n"};
      },
      Router::Access::everybody);

  HttpServer::Options options;
  options.token = config.token;
  auto certificate = read_certificate(config);
  if (!certificate) return std::unexpected(certificate.error());
  options.certificate = std::move(*certificate);
  options.on_tick = [figures] { figures->sample(); };
  auto server = HttpServer::start(config.listen, std::move(router), std::move(options));
  if (server)
    log::info("statistics on {}://{}/stats, dashboard on /", config.cert.empty() ? "http" : "https",
              (*server)->local().to_string());
  return server;
}

}  // namespace qtrp::stats
