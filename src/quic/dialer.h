// One connection of a client with its sockets: the one in use and, after a move, the one before.
#pragma once

#include <array>
#include <functional>
#include <memory>

#include "edge.h"

namespace qtrp::quic {

class ClientEdge final : public Edge, private io::Watcher {
 public:
  /// `on_progress` is called once, from the loop, when the handshake is done or has failed.
  static Result<std::unique_ptr<ClientEdge>> connect(io::Loop& loop, const io::Endpoint& server,
                                                     const ClientOptions& options, std::function<void()> on_progress);
  ~ClientEdge() override;
  /// A session that owns the edge.
  static std::unique_ptr<Handle> into_session(std::unique_ptr<ClientEdge> edge);
  const Connection& connection() const { return *entry_->connection; }

 private:
  ClientEdge(io::Loop& loop, const io::Endpoint& server, const ClientOptions& options, std::unique_ptr<TlsContext> tls,
             std::function<void()> on_progress);
  UdpSocket* socket_for(const Departure& departure) override;
  void on_gone(Entry& entry) override;
  void on_progress(Entry& entry) override;
  void identifier_added(Connection&, const ConnectionId&) override {}
  void identifier_removed(Connection&, const ConnectionId&) override {}
  void on_datagram(UdpSocket& socket, const Received& datagram) override;
  void on_error(UdpSocket& socket, int error) override;
  void on_ready(io::Readiness readiness) override;
  void watch_network();
  void move_soon(Duration delay);
  void move();

  io::Endpoint server_;
  std::unique_ptr<TlsContext> tls_;
  std::array<std::byte, 32> reset_secret_{};
  std::function<void()> progress_;
  Entry* entry_ = nullptr;
  io::Fd network_;  // tells of changed addresses and routes (rtnetlink(7))
  std::unique_ptr<io::Watch> network_watch_;
  io::Timer move_timer_;
  std::unique_ptr<UdpSocket> socket_, old_socket_;
};

}  // namespace qtrp::quic
