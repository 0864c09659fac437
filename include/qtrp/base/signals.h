// Signals as events for the control thread: blocked everywhere, taken one by one where wait() is called.
#pragma once

#include <initializer_list>
#include <optional>

#include "qtrp/base/time.h"

namespace qtrp {

/// Make one before any thread is started, on the main thread: threads inherit the blocked signals. SIGPIPE is ignored
/// from then on.
class Signals {
 public:
  explicit Signals(std::initializer_list<int> signals);
  ~Signals();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  static constexpr int kNotified = 0;
  static constexpr int kTimeout = -1;
  static constexpr int kReadable = -2;
  /// The number of the next signal, kNotified after notify(), kReadable while the descriptor of watch() is, or
  /// kTimeout. No limit: waits for ever.
  int wait(std::optional<Duration> limit = std::nullopt);
  /// wait() looks at this descriptor as well; -1: at none.
  void watch(int fd) { watched_ = fd; }
  /// Wakes wait(). Any thread.
  void notify();

 private:
  int signal_fd_, event_fd_, watched_ = -1;
};

}  // namespace qtrp
