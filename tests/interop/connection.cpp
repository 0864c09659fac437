#include "connection.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace qtrp::mux::interop {

using session::EventKind;

namespace {

[[noreturn]] void refuse(const char* what) {
  throw std::runtime_error(std::string(what) + ": " + std::strerror(errno));
}

}  // namespace

Connection::Connection(const Options& options, const std::vector<std::string>& arguments)
    : mux(options, Clock::now()), input_(262144), output_(262144) {
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0) refuse("socket");
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (::bind(listener, reinterpret_cast<sockaddr*>(&address), size) != 0 || ::listen(listener, 1) != 0)
    refuse("listen");
  ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);

  std::vector<std::string> words{QTRP_INTEROP_PEER, "-connect", "127.0.0.1:" + std::to_string(ntohs(address.sin_port))};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (auto& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  errno = ::posix_spawn(&peer_, QTRP_INTEROP_PEER, nullptr, nullptr, argv.data(), environ);
  if (errno != 0) refuse("start " QTRP_INTEROP_PEER);
  pollfd wait{.fd = listener, .events = POLLIN, .revents = 0};
  if (::poll(&wait, 1, 20000) != 1) refuse("the Go program did not connect");
  socket_ = ::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (socket_ < 0) refuse("accept");
  ::close(listener);
}

Connection::~Connection() {
  if (socket_ >= 0) ::close(socket_);
  if (peer_ > 0) {
    ::kill(peer_, SIGKILL);
    ::waitpid(peer_, nullptr, 0);
  }
}

int Connection::finish() {
  ::shutdown(socket_, SHUT_RDWR);
  const int handle = static_cast<int>(::syscall(SYS_pidfd_open, peer_, 0));
  pollfd wait{.fd = handle, .events = POLLIN, .revents = 0};
  const bool ended = ::poll(&wait, 1, 30000) == 1;
  ::close(handle);
  if (!ended) return -1;
  int status = 0;
  ::waitpid(peer_, &status, 0);
  peer_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

session::StreamId Connection::open(std::uint64_t seed, std::uint64_t size, std::uint64_t answer) {
  auto talk = std::make_unique<Conversation>(seed, size, answer);
  for (;;) {
    const auto id = mux.open(*talk, talk.get());
    if (id) {
      talks[*id] = std::move(talk);
      return *id;
    }
    if (id.error().kind != ErrorKind::limit) throw std::runtime_error(id.error().message);
    bool can_open = false;
    run([&] { return std::exchange(can_open, true); });  // one step
  }
}

void Connection::check(session::StreamId stream) {
  const auto& talk = talks.at(stream);
  if (talk->complete()) {
    ++completed;
  } else if (!talk->correct()) {
    ++broken;
    mux.reset(stream, session::ResetCode::protocol);  // its source goes
  } else {
    return;
  }
  talks.erase(stream);
}

void Connection::drain() {
  while (const auto event = mux.next_event()) {
    const auto stream = event->stream;
    const auto talk = talks.find(stream);
    switch (event->kind) {
      case EventKind::opened:
        if (on_opened) {
          on_opened(stream);
        } else {
          auto& fresh = talks[stream] = std::make_unique<Conversation>();
          mux.attach(stream, *fresh, fresh.get());
        }
        break;
      case EventKind::body:
        if (!keep || !keep(stream, event->body.size())) mux.moved(stream, event->body.size());
        if (talk != talks.end() && talk->second->receive(event->body)) mux.ready(stream);
        break;
      case EventKind::finished:
        if (talk == talks.end()) break;
        talk->second->finish();
        mux.ready(stream);
        if (judge) check(stream);
        break;
      case EventKind::reset:
        resets[stream] = event->code;
        talks.erase(stream);
        break;
      case EventKind::closed:
        closed = true;
        error = *event->error;
        break;
      default: break;
    }
  }
}

void Connection::write() {
  for (int chunks = 0; chunks < 16; ++chunks) {
    if (output_begin_ == output_end_) {
      output_begin_ = 0;
      output_end_ = mux.produce(output_, Clock::now());
      if (output_end_ == 0) return;
    }
    const auto n = ::send(socket_, output_.data() + output_begin_, output_end_ - output_begin_, MSG_NOSIGNAL);
    if (n <= 0) return;
    output_begin_ += static_cast<std::size_t>(n);
  }
}

void Connection::step(short ready) {
  if (closed) return;
  if ((ready & (POLLIN | POLLHUP | POLLERR)) != 0 && mux.wants_read()) {
    const auto n = ::recv(socket_, input_.data(), input_.size(), 0);
    if (n == 0 || (n < 0 && errno != EAGAIN)) {
      closed = true;
      error = Error{ErrorKind::closed, "the connection ended"};
      return;
    }
    if (n > 0) mux.receive({input_.data(), static_cast<std::size_t>(n)}, Clock::now());
  }
  if (Clock::now() >= mux.next_deadline()) mux.tick(Clock::now());
  drain();
  write();
  // A conversation ends with its last word, which only writing shows.
  std::vector<session::StreamId> done;
  for (const auto& [stream, talk] : talks) {
    if (talk->complete()) done.push_back(stream);
  }
  for (const auto stream : done) check(stream);
}

bool Connection::run(const std::vector<Connection*>& connections, const std::function<bool()>& done, int seconds) {
  const TimePoint end = Clock::now() + std::chrono::seconds(seconds);
  while (!done()) {
    std::vector<pollfd> waits;
    TimePoint until = end;
    for (Connection* connection : connections) {
      if (connection->closed) return done();
      const bool writing = connection->output_begin_ < connection->output_end_;
      const int events =
          (connection->mux.wants_read() ? POLLIN : 0) | (writing || connection->mux.wants_write() ? POLLOUT : 0);
      waits.push_back({.fd = connection->socket_, .events = static_cast<short>(events), .revents = 0});
      until = std::min(until, connection->mux.next_deadline());
    }
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now()).count() + 1;
    ::poll(waits.data(), waits.size(), static_cast<int>(std::max<std::int64_t>(left, 0)));
    if (Clock::now() >= end) return done();
    for (std::size_t i = 0; i < connections.size(); ++i) connections[i]->step(waits[i].revents);
  }
  return true;
}

bool Connection::run(const std::function<bool()>& done) {
  return run({this}, done, 60);
}

}  // namespace qtrp::mux::interop
