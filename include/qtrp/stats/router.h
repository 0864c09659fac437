// From a path and a method to an answer, without sockets: what the HTTP endpoint asks for every request.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace qtrp::stats {

struct HttpRequest {
  std::string method;  ///< "GET", ...
  std::string target;  ///< as it came, with the query
  std::string body{};
};

struct HttpResponse {
  unsigned status = 200;
  std::string body{};
  std::string content_type = "text/plain; charset=utf-8";
  std::vector<std::pair<std::string, std::string>> headers{};
  bool stream = false;  ///< the body is the first event of a stream; see Router::events()
};

class Router {
 public:
  using Handler = std::function<HttpResponse(const HttpRequest&)>;
  enum class Access {
    everybody,   ///< no token is asked for
    with_token,  ///< beyond loopback only with the token
    operators,   ///< with the token from everywhere, so that no page of another site can make a browser do it
  };

  /// `path` exactly, without a query. HEAD is answered like GET; the endpoint leaves the body out.
  void get(std::string path, Handler handler, Access access = Access::with_token);
  /// A request that changes something: POST, for operators alone.
  void post(std::string path, Handler handler);
  /// Server-sent events (text/event-stream, WHATWG HTML section 9.2): `next` gives the event, as it goes out, at once
  /// and then at every tick of the server.
  void events(std::string path, std::function<std::string()> next);
  /// The answer: the route's, 404 for a path that is not there, 405 with Allow for another method. A handler that
  /// throws makes a 500.
  HttpResponse answer(const HttpRequest& request) const;
  /// The next event of the stream; empty if that failed.
  std::string next_event(std::string_view target) const;
  /// Who may ask for this target; with_token for a path that is not there, so that nobody finds out what is.
  Access access(std::string_view target) const;

 private:
  struct Route {
    Handler handler;
    Access access;
    bool post = false;
  };
  std::map<std::string, Route, std::less<>> routes_;
};

}  // namespace qtrp::stats
