#include "server/stats_page.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>

#include "qtrp/stats/http_server.h"

namespace qtrp::server {
namespace {

struct Address {
  std::array<unsigned char, 16> bytes{};
  unsigned bits = 0;  // 32 or 128, 0: none
};

Address parse(const std::string& text) {
  Address out;
  if (::inet_pton(AF_INET, text.c_str(), out.bytes.data()) == 1) {
    out.bits = 32;
  } else if (::inet_pton(AF_INET6, text.c_str(), out.bytes.data()) == 1) {
    out.bits = 128;
  }
  return out;
}

}  // namespace

bool holds(std::string_view network, const io::Endpoint& address) {
  const std::size_t slash = network.find('/');
  const Address base = parse(std::string(network.substr(0, slash))), own = parse(address.host());
  if (base.bits == 0 || base.bits != own.bits) return false;
  unsigned prefix = base.bits;
  if (slash != std::string_view::npos) {
    const std::string_view digits = network.substr(slash + 1);
    if (std::from_chars(digits.data(), digits.data() + digits.size(), prefix).ec != std::errc() || prefix > base.bits)
      return false;
  }
  for (unsigned bit = 0; bit < prefix; ++bit) {
    const auto mask = static_cast<unsigned char>(0x80U >> (bit % 8));
    if ((base.bytes[bit / 8] & mask) != (own.bytes[bit / 8] & mask)) return false;
  }
  return true;
}

StatsPage::StatsPage(const config::Stats& config, std::function<stats::Snapshot()> snapshot,
                     std::function<stats::Totals()> totals)
    : config_(config), snapshot_(std::move(snapshot)), totals_(std::move(totals)) {}

StatsPage::~StatsPage() {
  end();
}

void StatsPage::end() {
  {
    const std::lock_guard lock(mutex_);
    end_ = true;
  }
  ended_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void StatsPage::start() {
  thread_ = std::thread([this] { run(); });
}

void StatsPage::run() {
  std::unique_lock lock(mutex_);
  while (!end_) {
    lock.unlock();
    const TimePoint now = Clock::now();
    const stats::Totals totals = totals_();
    in_.add(now, totals.bytes_in);
    out_.add(now, totals.bytes_out);
    stats::Snapshot snapshot = snapshot_();
    snapshot.uptime = std::chrono::duration_cast<std::chrono::seconds>(now - started_);
    snapshot.in_mbps = in_.per_second() * 8 / 1e6;
    snapshot.out_mbps = out_.per_second() * 8 / 1e6;
    std::string json = stats::to_json(snapshot);
    lock.lock();
    json_ = std::move(json);
    ended_.wait_for(lock, std::chrono::seconds(1), [this] { return end_; });
  }
}

std::optional<std::string> StatsPage::show(const io::Endpoint& visitor, std::string_view token) const {
  const bool known = std::any_of(config_.allow.begin(), config_.allow.end(),
                                 [&](const std::string& network) { return holds(network, visitor); });
  const bool has_token = !config_.token.empty() && stats::equal_in_constant_time(token, config_.token);
  if (!known && !has_token) return std::nullopt;
  const std::lock_guard lock(mutex_);
  if (json_.empty()) return std::nullopt;
  return json_;
}

}  // namespace qtrp::server
