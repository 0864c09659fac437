#include "qtrp/stats/history.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace qtrp::stats {

void History::add(TimePoint now, const Totals& totals) {
  if (!begun_) {
    begun_ = true;
    last_ = now;
    before_ = totals;
    return;
  }
  if (now - last_ < step) return;
  const auto steps = static_cast<std::size_t>((now - last_) / step);
  const double seconds = std::chrono::duration<double>(now - last_).count();
  const auto mbps = [seconds](std::uint64_t from, std::uint64_t to) {
    return to > from ? std::round(static_cast<double>(to - from) * 8 / 1e3 / seconds) / 1e3 : 0;
  };
  const Point average{mbps(before_.bytes_in, totals.bytes_in), mbps(before_.bytes_out, totals.bytes_out)};
  for (std::size_t i = 0; i < std::min(steps, points_.size()); ++i) {
    points_[next_] = average;
    next_ = (next_ + 1) % points_.size();
    count_ = std::min(count_ + 1, points_.size());
  }
  last_ = now;
  before_ = totals;
}

std::string History::to_json() const {
  nlohmann::ordered_json in = nlohmann::ordered_json::array(), out = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < count_; ++i) {
    const Point& point = points_[(next_ + points_.size() - count_ + i) % points_.size()];
    in.push_back(point.in_mbps);
    out.push_back(point.out_mbps);
  }
  nlohmann::ordered_json json{{"step_seconds", step.count()}, {"span_seconds", span.count()}};
  json["in_mbps"] = std::move(in);
  json["out_mbps"] = std::move(out);
  return json.dump() + "\n";
}

}  // namespace qtrp::stats
