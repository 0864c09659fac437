// A stream that the server opened for a user: reads NewConn, connects to the local service, then relays.
#pragma once

#include <memory>
#include <optional>

#include "qtrp/config/config.h"
#include "qtrp/protocol/messages.h"
#include "qtrp/relay/relay.h"

namespace qtrp::client {

class Link;

class LocalRelay final : public relay::Relay {
 public:
  LocalRelay(Link& link, session::Session& session, io::Loop& loop, stats::Counters& loop_counters);
  ~LocalRelay() override;

  void on_body(Bytes body) override;
  void on_finished() override;
  std::uint32_t proxy() const { return proxy_; }
  std::uint64_t number() const { return number_; }
  void close_by_operator();
  bool by_operator() const { return by_operator_; }
  bool accepted() const { return config_ != nullptr; }  ///< NewConn named a proxy of ours
  /// What the access log says of it, but for the client's name and the end. `user` must live as long as the record.
  stats::AccessRecord record(std::string& user, std::string& local) const;

 private:
  struct Dial {  // only until it is connected
    protocol::MessageReader reader;
    std::unique_ptr<io::Connector> connector;
    std::shared_ptr<int> wanted = std::make_shared<int>(0);
  };
  void begin(const protocol::NewConn& conn);
  void connect_to(std::vector<io::Endpoint> addresses);
  void failed(const Error& error);
  void on_end(relay::End end, session::ResetCode code) override;

  Link& link_;
  std::unique_ptr<Dial> dial_;
  std::shared_ptr<const config::Proxy> config_;  // as it was when the user came
  std::uint32_t proxy_ = 0;
  std::uint16_t port_ = 0;  // the server's
  std::uint64_t number_ = 0;
  bool by_operator_ = false;
  io::Endpoint user_;
  TimePoint since_{};
};

}  // namespace qtrp::client
