// Lines wait in one string under a lock that is held for an append or a swap; the writer polls the file with short
// writes where it is no regular file, so that a reader that has stopped holds up the writer only.
#include "qtrp/stats/access_log.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>
#include <system_error>
#include <thread>
#include <utility>

#include "qtrp/base/log.h"

namespace qtrp::stats {
namespace {

constexpr auto kMostWait = std::chrono::seconds(1);     // for the last lines, at the end
constexpr auto kComplaints = std::chrono::seconds(30);  // between two of them
constexpr int kPollMs = 100;

/// An open log file.
struct File {
  File() = default;
  explicit File(int descriptor) : fd(descriptor) {}
  File(File&& other) noexcept : fd(std::exchange(other.fd, -1)), regular(other.regular) {}
  File& operator=(File&& other) noexcept {
    std::swap(fd, other.fd);
    std::swap(regular, other.regular);
    return *this;
  }
  ~File() {
    if (fd >= 0) ::close(fd);
  }
  int fd = -1;
  bool regular = false;
};

Result<File> open_file(const std::string& path) {
  if (path.empty()) return File();
  // Non-blocking matters for a FIFO only: without a reader it can't be opened, instead of hanging.
  File file(path == "-"
                ? ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3)
                : ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0640));
  if (file.fd < 0) {
    const int code = errno;
    return fail(
        ErrorKind::system,
        fmt::format("log.access: can't write to {}: {}{}", path == "-" ? "standard output" : path,
                    std::generic_category().message(code), code == ENXIO ? " (nobody reads from this FIFO)" : ""),
        code);
  }
  struct stat status{};
  file.regular = ::fstat(file.fd, &status) == 0 && S_ISREG(status.st_mode);
  return file;
}

}  // namespace

std::string_view to_string(EndReason reason) {
  switch (reason) {
    case EndReason::closed: return "closed";
    case EndReason::user_reset: return "user_reset";
    case EndReason::service_reset: return "service_reset";
    case EndReason::service_refused: return "service_refused";
    case EndReason::service_unreachable: return "service_unreachable";
    case EndReason::tunnel_lost: return "tunnel_lost";
    case EndReason::limit: return "limit";
    case EndReason::closed_by_operator: return "closed_by_operator";
    case EndReason::shutdown: return "shutdown";
    case EndReason::protocol_error: return "protocol_error";
  }
  return "?";
}

std::string to_json_line(const AccessRecord& record, std::int64_t wall_ms) {
  nlohmann::ordered_json json;
  json["time"] =
      fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", fmt::gmtime(static_cast<std::time_t>(wall_ms / 1000)), wall_ms % 1000);
  json["user"] = record.user;
  json["port"] = record.port;
  json["client"] = record.client;
  json["proxy"] = record.proxy;
  if (!record.local_addr.empty()) json["local_addr"] = record.local_addr;
  if (record.connection != 0) json["connection"] = record.connection;
  json["bytes_in"] = record.bytes_in;
  json["bytes_out"] = record.bytes_out;
  const double seconds = std::chrono::duration<double>(record.duration).count();
  json["duration_seconds"] = std::round(seconds * 1000) / 1000;
  json["end"] = to_string(record.end);
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

struct AccessLog::State {
  std::atomic<bool> enabled{false};
  std::atomic<std::uint64_t> dropped{0};

  std::mutex mutex;
  std::condition_variable changed;
  std::string waiting;
  std::string before;          // waited already when `next` came: belongs into the file that it replaces
  File next;                   // for the writer to go on with
  std::size_t overflowed = 0;  // lines that found no room
  bool replaced = false, ending = false, ended = false;

  // Control thread.
  std::string path;
  std::thread thread;

  // The writer's.
  File file;
  bool torn = false;  // the file ends within a line
  TimePoint complained{};

  void lose(std::size_t lines, std::string_view why) {
    if (lines == 0) return;
    dropped.fetch_add(lines, std::memory_order_relaxed);
    const TimePoint now = Clock::now();
    if (complained != TimePoint{} && now - complained < kComplaints) return;
    complained = now;
    log::warn("access log: lines are lost, {} so far: {}", dropped.load(std::memory_order_relaxed), why);
  }

  /// Writes all of `text`, or loses the rest. Gives up a file that takes nothing when another one or the end is near.
  void write(std::string_view text) {
    if (torn) repair();
    while (!text.empty()) {
      pollfd ready{file.fd, POLLOUT, 0};
      if (!file.regular && ::poll(&ready, 1, kPollMs) == 0) {
        if (!give_up()) continue;
        return lose(lines_in(text), "its reader takes nothing");
      }
      // What poll() promises to a pipe is PIPE_BUF bytes.
      const ssize_t n =
          ::write(file.fd, text.data(), file.regular ? text.size() : std::min<std::size_t>(text.size(), PIPE_BUF));
      if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (n <= 0)
        return lose(lines_in(text),
                    n == 0 ? std::string("nothing was written") : std::generic_category().message(errno));
      torn = text[static_cast<std::size_t>(n) - 1] != '\n';
      text.remove_prefix(static_cast<std::size_t>(n));
    }
  }
  bool give_up() {
    std::unique_lock lock(mutex);
    const std::size_t lost = std::exchange(overflowed, 0);
    const bool result = ending || replaced;
    lock.unlock();
    lose(lost, "its reader is too slow");
    return result;
  }
  /// After a line that was cut off a new one begins.
  void repair() {
    if (::write(file.fd, "\n", 1) == 1) torn = false;
  }
  static std::size_t lines_in(std::string_view text) {
    return static_cast<std::size_t>(std::ranges::count(text, '\n'));
  }

  void run() {
    std::string batch, last_of_old;
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [this] { return !waiting.empty() || replaced || ending; });
      batch.clear();
      batch.swap(waiting);
      last_of_old.clear();
      last_of_old.swap(before);
      const bool swap_file = std::exchange(replaced, false), last = ending;
      const std::size_t lost = std::exchange(overflowed, 0);
      File other = std::move(next);
      next = File();
      lock.unlock();
      lose(lost, "the disk is too slow");
      if (swap_file) {
        if (file.fd >= 0) write(last_of_old);
        file = std::move(other);
        torn = false;
      }
      if (file.fd >= 0) write(batch);
      for (std::string* text : {&batch, &last_of_old})
        if (text->capacity() > 1 << 20) std::string().swap(*text);
      lock.lock();
      if (last && waiting.empty()) break;
    }
    ended = true;
    changed.notify_all();
  }
};

AccessLog::AccessLog() : state_(std::make_shared<State>()) {}

AccessLog::~AccessLog() {
  if (!state_->thread.joinable()) return;
  std::unique_lock lock(state_->mutex);
  state_->enabled = false;
  state_->ending = true;
  state_->changed.notify_all();
  const bool ended = state_->changed.wait_for(lock, kMostWait, [this] { return state_->ended; });
  lock.unlock();
  // A disk that hangs keeps its writer; the process does not wait for it.
  if (ended) {
    state_->thread.join();
  } else {
    state_->thread.detach();
  }
}

Result<void> AccessLog::open(const std::string& path) {
  auto file = open_file(path);
  if (!file) return std::unexpected(file.error());
  State& state = *state_;
  if (path.empty() && !state.thread.joinable()) return {};
  {
    const std::lock_guard lock(state.mutex);
    if (!state.replaced) state.before.swap(state.waiting);
    state.next = std::move(*file);
    state.replaced = true;
  }
  state.path = path;
  state.enabled = !path.empty();
  state.changed.notify_all();
  if (!state.thread.joinable()) {
    // Signals belong to the thread that waits for them.
    sigset_t all, before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    state.thread = std::thread([shared = state_] {
      ::pthread_setname_np(::pthread_self(), "qtrp-access");
      shared->run();
    });
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  return {};
}

Result<void> AccessLog::reopen() {
  return open(state_->path);
}

const std::string& AccessLog::path() const {
  return state_->path;
}

bool AccessLog::enabled() const {
  return state_->enabled.load(std::memory_order_relaxed);
}

void AccessLog::add(const AccessRecord& record) {
  if (!enabled()) return;
  const auto wall_ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
          .count();
  const std::string line = to_json_line(record, wall_ms);
  bool first = false;
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->waiting.size() + line.size() > kMostWaiting) {
      ++state_->overflowed;
      return;
    }
    first = state_->waiting.empty();
    state_->waiting += line;
  }
  if (first) state_->changed.notify_one();
}

std::uint64_t AccessLog::dropped() const {
  return state_->dropped.load(std::memory_order_relaxed);
}

}  // namespace qtrp::stats
