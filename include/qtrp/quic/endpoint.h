// QUIC ends (RFC 9000) whose connections are tunnels: a Server that accepts them on a UDP port, a Dialer that makes
// one. Each stream of the session is a native bidirectional QUIC stream; TLS 1.3 is built in. Who connects without our
// protocol finds an ordinary HTTP/3 site.
//
// Everything belongs to one loop. Callbacks are called from the loop, never from within a call to the object that makes
// them.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "qtrp/base/error.h"
#include "qtrp/base/time.h"
#include "qtrp/identity/identity.h"
#include "qtrp/io/endpoint.h"
#include "qtrp/io/loop.h"
#include "qtrp/io/socket.h"
#include "qtrp/session/session.h"

namespace qtrp::quic {

/// A tunnel over one QUIC connection. preface() is empty; channel_binding() is the TLS exporter (RFC 9266), there from
/// `established` on. The client's first open() is its control stream, QUIC stream 0. Destroying it closes the
/// connection at once, with no further event.
class QuicSession : public session::Session {
 public:
  /// Who is told about events; may be set at any time, nullptr for nobody. Events that are there already are told in
  /// the next turn.
  virtual void set_listener(session::SessionListener* listener) = 0;
};

/// What both ends can set; the defaults suit most.
struct Options {
  std::string congestion = "bbr";                    ///< bbr, cubic, reno; ignored while brutal_target is not 0
  std::uint64_t brutal_target = 0;                   ///< Brutal: the rate to send at, bits per second; 0: no Brutal
  Duration idle_timeout = std::chrono::seconds(30);  ///< silence after which the session is lost
  Duration keepalive = std::chrono::seconds(10);     ///< client: a PING after so much silence
  Duration handshake_timeout = std::chrono::seconds(10);
  std::uint64_t stream_window = 256 << 10;  ///< bytes the peer may send on a new stream; grows with the link
  std::uint64_t max_stream_window =
      64 << 20;                           ///< ... up to this, while all have grown by less than half of max_buffered
  std::uint64_t max_buffered = 64 << 20;  ///< bytes received and not yet moved(), all streams of a session
  std::uint64_t max_streams = 65536;      ///< streams the peer may have open at once (the server grants a visitor 128)
  int socket_buffer = 8 << 20;            ///< SO_RCVBUF and SO_SNDBUF of the UDP socket, bytes
};

/// What a visitor finds who speaks HTTP/3 but not our protocol.
struct Site {
  std::optional<std::filesystem::path> directory;  ///< files under it, GET and HEAD; nothing: 404 for everything
  /// Answers GET /stats: the JSON text, or nothing for "not for you" (shown as 404). Empty function: no such page.
  std::function<std::optional<std::string>(const io::Endpoint& visitor, std::string_view bearer_token)> stats;
};

struct ServerOptions : Options {
  identity::Certificate identity;
  Site site;
  unsigned retry_above = 64;  ///< unfinished handshakes at once from which on addresses are validated first (Retry)
  unsigned max_unauthenticated = 1024;  ///< connections that are not authenticated(); beyond it the oldest goes
  Duration authentication_timeout =
      std::chrono::seconds(10);  ///< for a tunnel to be authenticated(); visitors have idle_timeout
  /// Keys retry tokens and stateless resets: equal for all workers of a server. Kept across restarts, old sessions
  /// learn of the restart at once instead of after idle_timeout. Derived from the certificate's key when empty.
  std::string secret;
};

/// UDP sockets for the workers of a server, one each, sharing one port (0: the kernel chooses): the kernel hands each
/// connection's datagrams to the same worker, also when the peer's address changes. Give socket i to worker i. Fails
/// with errno in `code`.
Result<std::vector<io::Fd>> bind_workers(const io::Endpoint& at, unsigned workers,
                                         int socket_buffer = Options{}.socket_buffer);

/// Accepts tunnels on one UDP socket.
class Server {
 public:
  /// `session` is a tunnel: its control stream's first byte has come. Set its listener at once.
  using OnSession = std::function<void(std::unique_ptr<QuicSession> session)>;

  /// On a socket of bind_workers(); `worker` counts from 0. Fails with kind config for an unusable certificate.
  static Result<std::unique_ptr<Server>> listen(io::Loop& loop, io::Fd socket, unsigned worker, unsigned workers,
                                                ServerOptions options, OnSession on_session);
  /// The same with a socket of its own, bound to `at`.
  static Result<std::unique_ptr<Server>> listen(io::Loop& loop, const io::Endpoint& at, ServerOptions options,
                                                OnSession on_session);

  /// Closes what is still open. Sessions that outlive it are over: their next event is `closed`.
  virtual ~Server() = default;
  virtual io::Endpoint local() const = 0;
  /// New connections are shown this certificate. Fails with kind config for one that is unusable; then the old one
  /// stays.
  virtual Result<void> use(const identity::Certificate& certificate) = 0;
  /// Refuses new connections (and answers visitors no more); running sessions go on.
  virtual void stop_accepting() = 0;
};

struct ClientOptions : Options {
  identity::ServerChecks checks;
};

/// Makes one connection. Destroying it before the callback cancels; after it does nothing to the session.
class Dialer {
 public:
  /// The session, established, or why not: kind timeout (nobody answered), crypto (the server failed the checks or is
  /// no TLS peer of ours), system (errno in `code`). Called once; the dialer may be destroyed within.
  using OnConnected = std::function<void(Result<std::unique_ptr<QuicSession>>)>;

  Dialer(io::Loop& loop, std::vector<io::Endpoint> addresses, ClientOptions options, OnConnected on_connected);
  ~Dialer();
  Dialer(const Dialer&) = delete;
  Dialer& operator=(const Dialer&) = delete;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Which congestion controller Options give in this build, for the log: "brutal", "bbr", "bbr (ngtcp2)", "cubic",
/// "reno".
std::string congestion_name(const Options& options);
/// False when Brutal and our BBR can't be put into this build's ngtcp2 (another version than 1.11.0); then ngtcp2's BBR
/// stands in.
bool has_own_congestion();

}  // namespace qtrp::quic
