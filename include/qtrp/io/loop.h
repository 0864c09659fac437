// One event loop, one thread. Two engines implement it: Boost.Asio (transport net) and an edge-triggered epoll loop of
// our own (epoll). Nothing above this room knows which one it runs on.
//
// A turn is: wait for events, call their handlers, run posted tasks and due timers, then the tasks given to
// at_turn_end() (this is where tunnels flush, once a turn). Unless said otherwise a function must be called on the
// loop's own thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include "qtrp/base/bytes.h"
#include "qtrp/base/error.h"
#include "qtrp/base/time.h"
#include "qtrp/io/pool.h"

namespace qtrp::io {

class PipePool;
using Task = std::move_only_function<void()>;

/// Receives a descriptor's readiness from the engine. Several may be true at once.
struct Readiness {
  bool readable = false;
  bool writable = false;
  bool peer_closed = false;  ///< the peer shut its direction (EPOLLRDHUP): read until 0
  bool error = false;        ///< EPOLLERR or EPOLLHUP: the connection is broken or over both ways
  bool urgent = false;       ///< TCP urgent data is on its way: a read stops short at it
};
class Watcher {
 public:
  virtual void on_ready(Readiness readiness) = 0;

 protected:
  ~Watcher() = default;
};

/// A descriptor known to the engine. Destroying it ends the watching (not the descriptor); no call follows, also when
/// one was due.
class Watch {
 public:
  virtual ~Watch() = default;
  /// Asks for one on_ready() with the flag set, once the descriptor is (level: also if it is so already on Asio; edge:
  /// the edge since the last would-block on epoll). The edge-triggered engine may call without being asked.
  virtual void arm_read() = 0;
  virtual void arm_write() = 0;
};

/// Work to be done once at the end of the current turn; a member of its owner, queued at most once, unqueued by its
/// destructor.
class TurnEnd {
 public:
  explicit TurnEnd(std::function<void()> work) : work_(std::move(work)) {}
  ~TurnEnd() { unlink(); }
  TurnEnd(const TurnEnd&) = delete;
  TurnEnd& operator=(const TurnEnd&) = delete;

 private:
  friend class Loop;
  void unlink() {
    if (!next_) return;
    prev_->next_ = next_;
    next_->prev_ = prev_;
    next_ = prev_ = nullptr;
  }
  TurnEnd() = default;
  std::function<void()> work_;
  TurnEnd* next_ = nullptr;
  TurnEnd* prev_ = nullptr;
};

using TimerId = std::uint64_t;  ///< 0 is no timer

class Loop {
 public:
  Loop();
  virtual ~Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  /// Runs until stop(). Once.
  virtual void run() = 0;
  /// Any thread.
  virtual void stop() = 0;
  /// Runs `task` on the loop, in a later turn or this one. Any thread. After stop() it is dropped.
  virtual void post(Task task) = 0;

  virtual std::unique_ptr<Watch> watch(int fd, Watcher& watcher) = 0;

  /// Time at the beginning of this turn; good enough for everything that is not measured in microseconds.
  TimePoint now() const { return now_; }
  /// One call of `task` at `when` or up to a millisecond later. cancel() of one that has run or is unknown does
  /// nothing.
  virtual TimerId at(TimePoint when, Task task) = 0;
  TimerId after(Duration delay, Task task);
  virtual void cancel(TimerId timer) = 0;

  void at_turn_end(TurnEnd& work);
  /// Deletes at the end of the turn, so that an object may be given up within a call from itself.
  template <typename T>
  void destroy_later(std::unique_ptr<T> object) {
    graveyard_.push_back({object.release(), [](void* p) { delete static_cast<T*>(p); }});
    at_turn_end(bury_);
  }

  BufferPool& pool() { return pool_; }
  PipePool& pipes();
  /// The loop's scratch buffer for reads that are handled before the caller returns. kScratch bytes.
  MutableBytes scratch();
  static constexpr std::size_t kScratch = 256 << 10;

  virtual std::string_view engine() const = 0;  ///< "net" or "epoll"

 protected:
  void end_turn();  ///< runs the turn-end work
  /// For the engines' destructors: what is to be deleted yet may still need the engine.
  void bury_all();
  bool turn_end_pending() const { return turn_end_.next_ != &turn_end_; }
  TimePoint now_{};

 private:
  struct Dead {
    void* object;
    void (*destroy)(void*);
  };
  void bury();
  TurnEnd turn_end_;  // list head
  TurnEnd bury_;
  std::vector<Dead> graveyard_;
  BufferPool pool_;
  std::unique_ptr<std::byte[]> scratch_;
  std::unique_ptr<PipePool> pipes_;
};

std::unique_ptr<Loop> make_asio_loop();
std::unique_ptr<Loop> make_epoll_loop();

/// One timer of an owner: re-armed at will, cancelled by the destructor.
class Timer {
 public:
  explicit Timer(Loop& loop) : loop_(loop) {}
  ~Timer() { cancel(); }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  void start(Duration delay, Task task);
  void cancel();
  bool armed() const { return id_ != 0; }

 private:
  Loop& loop_;
  TimerId id_ = 0;
};

}  // namespace qtrp::io
