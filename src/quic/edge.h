// The thin edge between connections and the loop: sockets, one alarm for all deadlines, flushing at the end of the
// turn, and the session handles that owners hold. server.cpp and dialer.cpp say which datagram belongs to which
// connection.
#pragma once

#include <deque>
#include <list>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "alarm.h"
#include "connection.h"
#include "udp.h"

namespace qtrp::quic {

class Edge;
class Handle;

/// A connection of an edge.
struct Entry {
  std::unique_ptr<Connection> connection;
  Handle* handle = nullptr;  ///< the owner's, while it lives
  TimePoint due = TimePoint::max();
  TimePoint deadline = TimePoint::max();  ///< to be authenticated by
  std::vector<ConnectionId> ids;
  bool dirty = false, touched = false, surfaced = false;
  bool greeted = false;  ///< server: no longer counted as a handshake
  std::list<Entry*>::iterator place;
};

class Edge : public Host, public UdpSocket::Owner {
 public:
  Edge(io::Loop& loop, const Options& options);
  virtual ~Edge();
  Edge(const Edge&) = delete;
  Edge& operator=(const Edge&) = delete;

  void mark(Entry& entry);        ///< to be flushed at the end of this turn
  void let_go(Entry& entry);      ///< its handle is gone
  void tell_later(Entry& entry);  ///< its listener, in a later turn, of events that are there
  io::Loop& loop() { return loop_; }
  /// Deletes `edge` now, or at the end of the turn when owners are being told by it just now.
  static void dispose(std::unique_ptr<Edge> edge);

 protected:
  virtual UdpSocket* socket_for(const Departure& departure) = 0;
  virtual void on_gone(Entry& entry) = 0;      ///< a dead connection without a handle: forget it
  virtual void on_progress(Entry& entry) = 0;  ///< after a batch or a timer, before the listener is told
  Entry* entry_of(Connection& connection);
  void add(std::unique_ptr<Entry> entry);
  void touched(Entry& entry);
  void settle();  ///< tells owners about events of the touched entries
  void flush_now();
  void close_all();  ///< in destructors of the classes above: CONNECTION_CLOSE for everybody

  void wants_flush(Connection& connection) override;
  void on_batch_end(UdpSocket&) override { settle(); }
  void on_writable(UdpSocket& socket) override;

  io::Loop& loop_;
  Options common_;
  std::list<std::unique_ptr<Entry>> entries_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);

 private:
  struct Held {  // did not fit into the kernel's buffer
    Departure departure;
    std::vector<std::byte> bytes;
  };
  void flush(Entry& entry, TimePoint now);
  bool send(std::span<const Departure> departures);
  void schedule(Entry& entry, TimePoint now);
  void on_alarm();

  std::unordered_map<const Connection*, Entry*> by_connection_;
  std::set<std::pair<TimePoint, Entry*>> deadlines_;
  std::vector<Entry*> dirty_, touched_;
  std::vector<Departure> departures_;
  std::deque<Held> held_;
  int telling_ = 0;
  io::TurnEnd turn_end_;
  Alarm alarm_;
};

/// What an owner holds: forwards to the connection while there is one.
class Handle final : public QuicSession {
 public:
  Handle(Edge& edge, Entry& entry) : edge_(&edge), entry_(&entry) { entry.handle = this; }
  ~Handle() override;
  /// The client's edge lives and dies with its only session.
  void own(std::unique_ptr<Edge> edge) { owned_ = std::move(edge); }
  /// The edge goes away: from now on the session is over.
  void orphan();
  session::SessionListener* listener() { return listener_; }

  void set_listener(session::SessionListener* listener) override;
  Result<session::StreamId> open(session::Source& source, void* owner) override;
  void attach(session::StreamId stream, session::Source& source, void* owner) override;
  void ready(session::StreamId stream) override;
  void reset(session::StreamId stream, session::ResetCode code) override;
  void moved(session::StreamId stream, std::size_t n) override;
  std::optional<session::Event> next_event() override;
  void close(Error reason) override;
  Bytes channel_binding() const override;
  Bytes preface(bool) const override { return {}; }
  std::string peer() const override;
  bool heard() override;
  session::SessionStats stats() override;
  void set_target(std::uint64_t bits_per_second, bool alone) override;
  void authenticated() override;

 private:
  Connection* connection() const { return entry_ ? entry_->connection.get() : nullptr; }
  Edge* edge_;
  Entry* entry_;
  std::unique_ptr<Edge> owned_;
  session::SessionListener* listener_ = nullptr;
  std::optional<Error> over_;  // why, once orphaned
  bool closed_told_ = false;
};

}  // namespace qtrp::quic
