// The routes of the statistics endpoint, and the meters behind "bandwidth".
#include "qtrp/stats/endpoint.h"

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

}  // namespace

Result<std::unique_ptr<HttpServer>> start_endpoint(const config::Stats& config, Sources sources) {
  if (!config.enabled) return nullptr;
  // Shared by the routes and the ticker, which live and die together in the server.
  const auto figures = std::make_shared<Figures>(std::move(sources));
  Router router;
  const auto json = [&](std::string path, std::string (*form)(const Snapshot&)) {
    router.get(std::move(path), [figures, form](const HttpRequest&) {
      return HttpResponse{.body = form(figures->snapshot()), .content_type = "application/json"};
    });
  };
  json("/stats", to_json);
  json("/api/clients", clients_json);
  json("/api/proxies", proxies_json);
  json("/api/tunnels", tunnels_json);
  router.get("/api/history", [figures](const HttpRequest&) {
    return HttpResponse{.body = figures->history(), .content_type = "application/json"};
  });
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
  options.on_tick = [figures] { figures->sample(); };
  auto server = HttpServer::start(config.listen, std::move(router), std::move(options));
  if (server) log::info("statistics on http://{}/stats, dashboard on /", (*server)->local().to_string());
  return server;
}

}  // namespace qtrp::stats
