// Flushing, deadlines, and handles.
#include "edge.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace qtrp::quic {
namespace {

constexpr int kRoundsPerFlush = 4;  // of the loop's scratch, 256 KiB each; more waits for the next turn

}  // namespace

Edge::Edge(io::Loop& loop, const Options& options)
    : loop_(loop), common_(options), turn_end_([this] { flush_now(); }), alarm_(loop, [this] { on_alarm(); }) {}

Edge::~Edge() {
  *alive_ = false;
}

void Edge::close_all() {
  for (auto& entry : entries_) {
    entry->connection->abandon();
    flush(*entry, Clock::now());
    if (entry->handle) entry->handle->orphan();
  }
  entries_.clear();
  by_connection_.clear();
  deadlines_.clear();
  dirty_.clear();
  touched_.clear();
}

Entry* Edge::entry_of(Connection& connection) {
  auto at = by_connection_.find(&connection);
  return at == by_connection_.end() ? nullptr : at->second;
}

void Edge::add(std::unique_ptr<Entry> entry) {
  by_connection_[entry->connection.get()] = entry.get();
  mark(*entry);
  entries_.push_back(std::move(entry));
}

void Edge::mark(Entry& entry) {
  if (std::exchange(entry.dirty, true)) return;
  dirty_.push_back(&entry);
  loop_.at_turn_end(turn_end_);
}

void Edge::wants_flush(Connection& connection) {
  if (Entry* entry = entry_of(connection)) mark(*entry);
}

void Edge::touched(Entry& entry) {
  mark(entry);
  if (!std::exchange(entry.touched, true)) touched_.push_back(&entry);
}

void Edge::settle() {
  std::shared_ptr<bool> alive = alive_;
  ++telling_;
  for (std::size_t i = 0; *alive && i < touched_.size(); ++i) {
    Entry& entry = *touched_[i];
    entry.touched = false;
    on_progress(entry);
    if (!*alive) return;
    if (entry.handle && entry.handle->listener() && entry.connection->has_events())
      entry.handle->listener()->on_events();
  }
  if (!*alive) return;
  touched_.clear();
  --telling_;
}

void Edge::dispose(std::unique_ptr<Edge> edge) {
  if (edge->telling_ == 0) return;
  io::Loop& loop = edge->loop_;
  loop.destroy_later(std::move(edge));
}

void Edge::tell_later(Entry& entry) {
  if (!std::exchange(entry.touched, true)) touched_.push_back(&entry);
  loop_.post([this, alive = std::weak_ptr<bool>(alive_)] {
    if (auto lives = alive.lock(); lives && *lives) settle();
  });
}

void Edge::flush_now() {
  TimePoint now = Clock::now();
  if (!held_.empty()) return;  // on_writable() goes on
  std::vector<Entry*> dirty;
  dirty.swap(dirty_);
  for (Entry* entry : dirty) {
    entry->dirty = false;
    if (held_.empty()) {
      flush(*entry, now);
    } else {
      mark(*entry);
    }
  }
  // Events of the flush itself: a failure, the end of close().
  for (Entry* entry : dirty)
    if (entry->connection->has_events() && !entry->touched) touched_.push_back(entry), entry->touched = true;
  std::shared_ptr<bool> alive = alive_;
  settle();
  if (!*alive) return;
  for (auto at = entries_.begin(); at != entries_.end();) {
    Entry& entry = **at;
    if (entry.connection->state() != Connection::State::dead || entry.handle || entry.dirty || entry.touched) {
      ++at;
      continue;
    }
    on_gone(entry);
    deadlines_.erase({entry.due, &entry});
    by_connection_.erase(entry.connection.get());
    at = entries_.erase(at);
  }
  alarm_.set(deadlines_.empty() ? TimePoint::max() : deadlines_.begin()->first);
}

void Edge::flush(Entry& entry, TimePoint now) {
  Connection& connection = *entry.connection;
  bool more = false;
  for (int round = 0; round < kRoundsPerFlush; ++round) {
    departures_.clear();
    connection.write(loop_.scratch(), departures_, now);
    more = connection.more_to_write();
    if (!departures_.empty() && !send(departures_)) break;
    if (!more) break;
  }
  schedule(entry, now);
  if (more && held_.empty()) {
    deadlines_.erase({entry.due, &entry});
    entry.due = now;
    deadlines_.insert({entry.due, &entry});
  }
}

void Edge::schedule(Entry& entry, TimePoint now) {
  deadlines_.erase({entry.due, &entry});
  entry.due = std::min(entry.connection->next_time(now), entry.deadline);
  if (entry.due != TimePoint::max()) deadlines_.insert({entry.due, &entry});
}

bool Edge::send(std::span<const Departure> departures) {
  while (!departures.empty()) {
    UdpSocket* socket = socket_for(departures.front());
    std::size_t count = 1;
    while (count < departures.size() && socket_for(departures[count]) == socket) ++count;
    std::size_t sent = socket ? socket->send(departures.first(count)) : count;
    departures = departures.subspan(sent);
    if (sent < count) break;
  }
  for (const Departure& departure : departures) {
    Held& held = held_.emplace_back(Held{departure, {departure.bytes.begin(), departure.bytes.end()}});
    held.departure.bytes = held.bytes;
  }
  return departures.empty();
}

void Edge::on_writable(UdpSocket& socket) {
  while (!held_.empty()) {
    UdpSocket* own = socket_for(held_.front().departure);
    if (own == &socket && own->send({&held_.front().departure, 1}) == 0) return;
    if (own && own != &socket) return;
    held_.pop_front();
  }
  if (!dirty_.empty()) loop_.at_turn_end(turn_end_);
}

void Edge::on_alarm() {
  TimePoint now = Clock::now();
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    Entry& entry = *deadlines_.begin()->second;
    deadlines_.erase(deadlines_.begin());
    entry.due = TimePoint::max();
    entry.connection->on_time(now);
    touched(entry);
  }
  loop_.at_turn_end(turn_end_);
  settle();
}

void Edge::let_go(Entry& entry) {
  entry.handle = nullptr;
  entry.connection->abandon();
  mark(entry);
}

Handle::~Handle() {
  if (entry_) edge_->let_go(*entry_);
  if (owned_) Edge::dispose(std::move(owned_));
}

void Handle::orphan() {
  Connection* c = connection();
  over_ = c && c->failure() ? *c->failure() : Error{ErrorKind::closed, "the QUIC endpoint was closed"};
  entry_ = nullptr;
}

void Handle::set_listener(session::SessionListener* listener) {
  listener_ = listener;
  if (listener_ && entry_ && entry_->connection->has_events()) edge_->tell_later(*entry_);
}

Result<session::StreamId> Handle::open(session::Source& source, void* owner) {
  if (Connection* c = connection()) return c->open(source, owner);
  return fail(ErrorKind::closed, "the session is over");
}
void Handle::attach(session::StreamId stream, session::Source& source, void* owner) {
  if (Connection* c = connection()) c->attach(stream, source, owner);
}
void Handle::ready(session::StreamId stream) {
  if (Connection* c = connection()) c->ready(stream);
}
void Handle::reset(session::StreamId stream, session::ResetCode code) {
  if (Connection* c = connection()) c->reset(stream, code);
}
void Handle::moved(session::StreamId stream, std::size_t n) {
  if (Connection* c = connection()) c->moved(stream, n);
}
std::optional<session::Event> Handle::next_event() {
  if (Connection* c = connection()) {
    auto event = c->next_event();
    if (event && event->kind == session::EventKind::closed) closed_told_ = true;
    return event;
  }
  if (!over_ || std::exchange(closed_told_, true)) return {};
  session::Event event{.kind = session::EventKind::closed};
  event.error = &*over_;
  return event;
}
void Handle::close(Error reason) {
  if (Connection* c = connection()) c->close(std::move(reason));
}
Bytes Handle::channel_binding() const {
  return connection() ? connection()->channel_binding() : Bytes();
}
std::string Handle::peer() const {
  return connection() ? connection()->peer() : std::string();
}
bool Handle::heard() {
  return connection() && connection()->heard();
}
session::SessionStats Handle::stats() {
  return connection() ? connection()->stats() : session::SessionStats();
}
void Handle::set_target(std::uint64_t bits_per_second, bool alone) {
  if (Connection* c = connection()) c->set_target(bits_per_second, alone);
}
void Handle::authenticated() {
  Connection* c = connection();
  if (!c) return;
  c->authenticated();
  entry_->deadline = TimePoint::max();
  if (c->has_events()) edge_->tell_later(*entry_);
}

}  // namespace qtrp::quic
