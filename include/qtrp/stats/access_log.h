// The access log: one JSON line for each user connection that ended. Lines are handed to a thread of its own, which
// writes the file; whoever adds one never waits for a disk. What the file can't take in time is dropped and counted.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "qtrp/base/error.h"
#include "qtrp/base/time.h"

namespace qtrp::stats {

/// Why a user's connection ended, by the word that the log has for it.
enum class EndReason : std::uint8_t {
  closed,               ///< both directions ended cleanly
  user_reset,           ///< the user's connection was reset or failed
  service_reset,        ///< the local service's connection was reset or failed
  service_refused,      ///< the local service refused the connection
  service_unreachable,  ///< it did not answer, or its name does not resolve
  tunnel_lost,          ///< the tunnel went, or none was there
  limit,                ///< a bound was reached: max_connections, streams, users waiting for a stream
  closed_by_operator,   ///< from the dashboard
  shutdown,             ///< server or client is going away
  protocol_error,       ///< the other end of the tunnel broke a rule
};
std::string_view to_string(EndReason reason);

struct AccessRecord {
  std::string_view user;   ///< "address:port"
  std::uint16_t port = 0;  ///< the server's, that he came to
  std::string_view client, proxy;
  std::string_view local_addr;   ///< client only
  std::uint64_t connection = 0;  ///< its number at the server; 0: it got none
  std::uint64_t bytes_in = 0, bytes_out = 0;
  Duration duration{};
  EndReason end = EndReason::closed;
};
/// The line, with its '\n'; `wall_ms` (since 1970, UTC) is when it ended. Texts that are no UTF-8 have their wrong
/// bytes replaced.
std::string to_json_line(const AccessRecord& record, std::int64_t wall_ms);

class AccessLog {
 public:
  /// Bytes of lines that wait for the file; beyond it lines are dropped.
  static constexpr std::size_t kMostWaiting = 8 << 20;

  AccessLog();
  /// What waits is written, for a second at most.
  ~AccessLog();
  AccessLog(const AccessLog&) = delete;
  AccessLog& operator=(const AccessLog&) = delete;

  /// A file that is appended to (made with mode 0640 if it is not there), "-" for standard output, or "" for none. On
  /// an error everything stays as it was. Control thread.
  Result<void> open(const std::string& path);
  /// Opens the same file anew (after logrotate has renamed it). Control thread.
  Result<void> reopen();
  const std::string& path() const;

  /// False while there is no file: then spare the trouble of making a record. Any thread.
  bool enabled() const;
  /// Any thread, at once.
  void add(const AccessRecord& record);
  std::uint64_t dropped() const;  ///< lines that the file did not take, since the start

 private:
  struct State;
  std::shared_ptr<State> state_;  // the writer's too, which a file that hangs may keep beyond the log's end
};

}  // namespace qtrp::stats
