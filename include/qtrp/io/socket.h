// Non-blocking sockets on a Loop: stream sockets, listeners, connecting. Reads go into the caller's memory, writes
// gather from it.
#pragma once

#include <sys/uio.h>

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "qtrp/base/bytes.h"
#include "qtrp/base/error.h"
#include "qtrp/io/endpoint.h"
#include "qtrp/io/loop.h"

namespace qtrp::io {

/// Owner of a descriptor.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept;
  ~Fd() { reset(); }
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset();

 private:
  int fd_ = -1;
};

struct IoResult {
  enum class Status : std::uint8_t { ok, would_block, end, error };
  std::size_t n = 0;  ///< bytes moved (ok)
  Status status = Status::ok;
  int error = 0;  ///< errno (error)
  bool ok() const { return status == Status::ok; }
};

/// Told about a socket's readiness; only after await_readable() or await_writable(), but for on_broken().
class SocketListener {
 public:
  virtual void on_readable() {}
  virtual void on_writable() {}
  /// The connection was reset or closed both ways while nobody was reading or writing. At most once.
  virtual void on_broken() {}

 protected:
  ~SocketListener() = default;
};

/// A connected stream socket. Handlers are called from the loop, never from within a call of a member function. TCP's
/// urgent data is read where it stands in the stream, like any other byte (RFC 6093).
class Socket final : private Watcher {
 public:
  Socket(Loop& loop, Fd fd, SocketListener& listener);
  ~Socket();
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  IoResult read(MutableBytes into);
  IoResult write(Bytes from, bool more_follows = false);
  IoResult writev(std::span<const iovec> from);
  /// Moves up to `max` bytes between this socket and a pipe without copying (splice). would_block means this socket
  /// would; a full or empty pipe is the caller's to know.
  IoResult splice_to(int pipe_write_end, std::size_t max);
  IoResult splice_from(int pipe_read_end, std::size_t max, bool more_follows);

  /// One on_readable() when bytes, the end or an error may be there: at the next turn if the last read did not drain
  /// the socket.
  void await_readable();
  void await_writable();
  void pause_reading() { want_read_ = false; }
  /// Somebody who spliced from fd() directly was told it would block. False if it only stopped at urgent data, which
  /// has to be read.
  bool drained();
  /// Whether the kernel would call the socket writable: true while less than half of TCP_NOTSENT_LOWAT waits unsent.
  /// write() takes more than that, since it fills the last packet buffer up to 64 KB whatever the limit. After false
  /// await_writable() waits.
  bool wants_more();
  /// False since a write or wants_more() found no room, until the kernel tells of some.
  bool writable() const { return writable_; }

  void shutdown_write();  ///< FIN
  void abort();           ///< closes with RST
  void close();           ///< closes; the kernel sends what it has
  bool open() const { return bool(fd_); }
  int fd() const { return fd_.get(); }
  Loop& loop() { return loop_; }
  Endpoint peer() const;
  Endpoint local() const;

 private:
  void on_ready(Readiness readiness) override;
  IoResult finish(ssize_t n, std::size_t asked, bool reading);
  bool at_urgent_data() const;

  Loop& loop_;
  SocketListener& listener_;
  Fd fd_;
  std::unique_ptr<Watch> watch_;
  TurnEnd again_;  // delivers readiness that is known already
  bool readable_ = true, writable_ = true;
  bool want_read_ = false, want_write_ = false;
  bool peer_closed_ = false, broken_told_ = false, broken_ = false;
  bool urgent_ = false;  // urgent data has come at least once
};

/// Options set on every accepted or connected TCP socket.
void set_no_delay(int fd);
void set_keep_alive(int fd, int idle_seconds, int interval_seconds, int count);
/// For a TCP socket that listens on `at` or is about to connect to it: if that is loopback, a congestion controller
/// that doesn't pace. BBR, the default of many systems, paces by timers; on loopback there is no queue to spare, and
/// they cost a good part of the throughput (docs/performance.md). Later is too late: a socket that was BBR's once stays
/// paced.
void set_loopback_congestion(int fd, const Endpoint& at);

/// Accepts in batches. When descriptors run out it pauses for 100 ms instead of spinning and says so once.
class Listener final : private Watcher {
 public:
  using OnAccept = std::function<void(Fd, const Endpoint& peer)>;
  /// Binds and listens. Fails with errno in `code` (EADDRINUSE, EACCES...). `reuse_port` shares the port between loops.
  static Result<std::unique_ptr<Listener>> listen(Loop& loop, const Endpoint& at, OnAccept on_accept,
                                                  int receive_buffer = 0);
  ~Listener();
  Endpoint local() const;

 private:
  Listener(Loop& loop, Fd fd, OnAccept on_accept);
  void on_ready(Readiness readiness) override;
  void accept_some();

  Loop& loop_;
  Fd fd_;
  OnAccept on_accept_;
  std::unique_ptr<Watch> watch_;
  TurnEnd again_;
  Timer pause_;
  bool warned_ = false;
  std::shared_ptr<bool> alive_;
};

/// Resolves names on a thread of its own (getaddrinfo), so that no loop ever waits. Literals are answered in the same
/// turn's end.
class Resolver {
 public:
  Resolver();
  ~Resolver();
  using OnResolved = std::function<void(Result<std::vector<Endpoint>>)>;
  /// Calls back on `loop`. Any loop's thread. `still_wanted` is checked before the call: expired means dropped.
  void resolve(Loop& loop, const HostPort& what, std::weak_ptr<void> still_wanted, OnResolved on_resolved);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

/// Connects to the first address that answers, trying them in order (a quarter of a second apart, as RFC 8305 does).
/// Destroying it cancels.
class Connector {
 public:
  using OnConnected = std::function<void(Result<Fd>)>;
  struct Options {
    Duration timeout = std::chrono::seconds(10);
    int receive_buffer = 0;  ///< SO_RCVBUF(FORCE) before connect, bytes; 0 leaves the kernel's tuning on
    std::function<void(int fd)> before_connect;
  };
  Connector(Loop& loop, std::vector<Endpoint> addresses, Options options, OnConnected on_connected);
  ~Connector();

 private:
  struct Attempt;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace qtrp::io
