// Our end of an interoperability test: a multiplexer on a loopback TCP connection to the Go program, which it starts.
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "conversation.h"
#include "qtrp/mux/mux.h"

namespace qtrp::mux::interop {

class Connection {
 public:
  /// Starts the Go program with `arguments` on the other end. Throws std::runtime_error where the system refuses.
  Connection(const Options& options, const std::vector<std::string>& arguments);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// Opens a stream for a conversation; waits for stream credit by itself.
  session::StreamId open(std::uint64_t seed, std::uint64_t size, std::uint64_t answer);

  /// Runs the connection until `done` says so. False: 60 s passed, or the session closed before.
  bool run(const std::function<bool()>& done);
  /// As run() for several at once, for `seconds` at most.
  static bool run(const std::vector<Connection*>& connections, const std::function<bool()>& done, int seconds);

  /// Ends the connection and waits for the Go program. Its exit code, -1 where it did not end in time.
  int finish();

  pid_t peer() const { return peer_; }

  Mux mux;
  std::map<session::StreamId, std::unique_ptr<Conversation>> talks;
  std::map<session::StreamId, session::ResetCode> resets;
  std::size_t completed = 0;  ///< conversations that ended as they should
  std::size_t broken = 0;
  bool judge = true;  ///< a peer that ends before it said all breaks the conversation
  bool closed = false;
  Error error;
  std::function<void(session::StreamId)> on_opened;          ///< instead of attaching a conversation
  std::function<bool(session::StreamId, std::size_t)> keep;  ///< true: the body's credit is not given back at once

 private:
  void step(short ready);
  void drain();
  void write();
  void check(session::StreamId stream);

  int socket_ = -1;
  pid_t peer_ = -1;
  std::vector<std::byte> input_, output_;
  std::size_t output_begin_ = 0, output_end_ = 0;
};

}  // namespace qtrp::mux::interop
