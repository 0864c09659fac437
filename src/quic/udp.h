// A UDP socket made for QUIC: batches (recvmmsg, sendmmsg), segmentation by the kernel (GSO, GRO) with a fall-back,
// ECN, and the local address of each datagram.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "connection.h"
#include "qtrp/io/endpoint.h"
#include "qtrp/io/loop.h"
#include "qtrp/io/socket.h"

namespace qtrp::quic {

/// One datagram as it arrived.
struct Received {
  Path path;
  std::uint8_t ecn = 0;
  Bytes bytes;  ///< valid during the call
};

class UdpSocket final : private io::Watcher {
 public:
  /// Called from the loop.
  class Owner {
   public:
    virtual void on_datagram(UdpSocket& socket, const Received& datagram) = 0;
    /// A batch of on_datagram() is over.
    virtual void on_batch_end(UdpSocket& socket) = 0;
    virtual void on_writable(UdpSocket& socket) = 0;
    /// A send or receive failed with `error` (errno) in a way that may concern the whole path, such as ENETUNREACH.
    virtual void on_error(UdpSocket& socket, int error) = 0;

   protected:
    ~Owner() = default;
  };

  /// Bound to `at`, not connected. Fails with errno in `code`.
  static Result<io::Fd> bind(const io::Endpoint& at, int buffer, bool share_port);
  /// Connected to `peer` from whatever address the kernel picks now.
  static Result<io::Fd> connect(const io::Endpoint& peer, int buffer);
  /// The largest UDP payload that fits the path to `peer` as far as the kernel knows, 1200 to 65507.
  static std::size_t largest_payload(const io::Endpoint& peer);

  UdpSocket(io::Loop& loop, io::Fd fd, Owner& owner);
  ~UdpSocket();

  /// Sends as many as the kernel takes now; gives how many. Less than all means would-block: on_writable() follows.
  std::size_t send(std::span<const Departure> departures);
  const io::Endpoint& local() const { return local_; }
  int fd() const { return fd_.get(); }
  bool segments() const { return gso_; }

 private:
  void on_ready(io::Readiness readiness) override;
  void read_some();
  bool send_one_by_one(const Departure& departure);

  io::Loop& loop_;
  io::Fd fd_;
  Owner& owner_;
  std::unique_ptr<io::Watch> watch_;
  io::Timer again_;
  io::Endpoint local_;
  bool connected_ = false, wildcard_ = false, gso_ = true;
  std::size_t skip_ = 0;  // datagrams of the first departure that left already, one by one
};

}  // namespace qtrp::quic
