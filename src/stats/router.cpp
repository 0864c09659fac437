#include "qtrp/stats/router.h"

#include <exception>

#include "qtrp/base/log.h"

namespace qtrp::stats {
namespace {

std::string_view path_of(std::string_view target) {
  return target.substr(0, target.find('?'));
}

}  // namespace

void Router::get(std::string path, Handler handler, Access access) {
  routes_.insert_or_assign(std::move(path), Route{std::move(handler), access, false});
}

void Router::post(std::string path, Handler handler) {
  routes_.insert_or_assign(std::move(path), Route{std::move(handler), Access::operators, true});
}

void Router::events(std::string path, std::function<std::string()> next) {
  get(std::move(path), [next = std::move(next)](const HttpRequest&) {
    return HttpResponse{.body = next(), .content_type = "text/event-stream", .stream = true};
  });
}

std::string Router::next_event(std::string_view target) const {
  HttpResponse response = answer({"GET", std::string(target)});
  return response.stream ? std::move(response.body) : "";
}

HttpResponse Router::answer(const HttpRequest& request) const {
  const auto route = routes_.find(path_of(request.target));
  if (route == routes_.end()) {
    HttpResponse response{.status = 404, .body = "not found; there are:\n"};
    for (const auto& [path, unused] : routes_) response.body += "  " + path + "\n";
    return response;
  }
  const bool post = route->second.post;
  if (post ? request.method != "POST" : request.method != "GET" && request.method != "HEAD")
    return {.status = 405, .body = "method not allowed\n", .headers = {{"Allow", post ? "POST" : "GET, HEAD"}}};
  try {
    return route->second.handler(request);
  } catch (const std::exception& error) {
    log::error("stats: {} failed: {}", route->first, error.what());
    return {.status = 500, .body = "internal error, the log has more\n"};
  }
}

Router::Access Router::access(std::string_view target) const {
  const auto route = routes_.find(path_of(target));
  return route == routes_.end() ? Access::with_token : route->second.access;
}

}  // namespace qtrp::stats
