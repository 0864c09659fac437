#include <fmt/format.h>
#include <netdb.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "qtrp/io/socket.h"

namespace qtrp::io {
namespace {

Result<std::vector<Endpoint>> look_up(const HostPort& what) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_ADDRCONFIG;
  addrinfo* list = nullptr;
  int code = ::getaddrinfo(what.host.c_str(), nullptr, &hints, &list);
  if (code == EAI_NONAME || code == EAI_ADDRFAMILY || code == EAI_NODATA) {
    // AI_ADDRCONFIG does not count loopback: a machine without any other address still knows localhost.
    hints.ai_flags = 0;
    code = ::getaddrinfo(what.host.c_str(), nullptr, &hints, &list);
  }
  if (code != 0) {
    return fail(ErrorKind::system,
                fmt::format("name '{}' does not resolve: {}", what.host,
                            code == EAI_SYSTEM ? fail_errno("resolver", errno).error().message : ::gai_strerror(code)),
                code);
  }
  std::vector<Endpoint> found;
  for (const addrinfo* a = list; a; a = a->ai_next) {
    if (a->ai_family != AF_INET && a->ai_family != AF_INET6) continue;
    Endpoint endpoint(a->ai_addr, a->ai_addrlen);
    endpoint.set_port(what.port);
    found.push_back(endpoint);
  }
  ::freeaddrinfo(list);
  if (found.empty()) return fail(ErrorKind::system, fmt::format("name '{}' has no address", what.host));
  return found;
}

}  // namespace

// The thread shares this state and is detached: getaddrinfo may hang for half a minute, and the end of the process does
// not wait for it.
struct Resolver::State {
  struct Job {
    HostPort what;
    std::function<void(Result<std::vector<Endpoint>>)> answer;
  };
  std::mutex mutex;
  std::condition_variable wake;
  std::deque<Job> jobs;
  bool stopped = false, running = false;

  static void work(const std::shared_ptr<State>& state) {
    std::unique_lock lock(state->mutex);
    for (;;) {
      state->wake.wait(lock, [&] { return state->stopped || !state->jobs.empty(); });
      if (state->stopped) return;
      Job job = std::move(state->jobs.front());
      state->jobs.pop_front();
      lock.unlock();
      auto found = look_up(job.what);
      lock.lock();
      if (state->stopped) return;  // the loops may be gone: ~Resolver comes before theirs
      job.answer(std::move(found));
    }
  }
};

Resolver::Resolver() : state_(std::make_shared<State>()) {}

Resolver::~Resolver() {
  const std::lock_guard lock(state_->mutex);
  state_->stopped = true;
  state_->jobs.clear();
  state_->wake.notify_all();
}

void Resolver::resolve(Loop& loop, const HostPort& what, std::weak_ptr<void> still_wanted, OnResolved on_resolved) {
  auto deliver = [&loop, wanted = std::move(still_wanted),
                  call = std::move(on_resolved)](Result<std::vector<Endpoint>> found) {
    loop.post([wanted, call, result = std::move(found)]() mutable {
      if (const auto hold = wanted.lock()) call(std::move(result));
    });
  };
  if (auto literal = Endpoint::from_literal(what.host, what.port)) {
    deliver(std::vector{*literal});
    return;
  }
  const std::lock_guard lock(state_->mutex);
  state_->jobs.push_back({what, std::move(deliver)});
  if (!std::exchange(state_->running, true)) std::thread([state = state_] { State::work(state); }).detach();
  state_->wake.notify_one();
}

}  // namespace qtrp::io
