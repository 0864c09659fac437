// The statistics for visitors of the QUIC port (quic.masquerade: stats): a page made every second on a thread of its
// own, since the figures are gathered from the loops that answer the visitors.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "qtrp/config/config.h"
#include "qtrp/io/endpoint.h"
#include "qtrp/stats/rate_meter.h"
#include "qtrp/stats/snapshot.h"

namespace qtrp::server {

/// True if `network` ("192.0.2.0/24", "2001:db8::/32", or one address) holds the address.
bool holds(std::string_view network, const io::Endpoint& address);

class StatsPage {
 public:
  /// The sources are called on the page's thread, after start(), until it is destroyed.
  StatsPage(const config::Stats& config, std::function<stats::Snapshot()> snapshot,
            std::function<stats::Totals()> totals);
  ~StatsPage();
  void start();
  /// Asks the sources no more; what is there is still shown.
  void end();
  /// The page's JSON, for a visitor from stats.allow or with the token; nothing for others. Any thread, at once.
  std::optional<std::string> show(const io::Endpoint& visitor, std::string_view token) const;

 private:
  void run();

  const config::Stats& config_;
  std::function<stats::Snapshot()> snapshot_;
  std::function<stats::Totals()> totals_;
  const TimePoint started_ = Clock::now();
  mutable std::mutex mutex_;
  std::condition_variable ended_;
  std::string json_;
  bool end_ = false;
  stats::RateMeter in_, out_;
  std::thread thread_;
};

}  // namespace qtrp::server
