#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "sample.h"

namespace qtrp::stats {
namespace {

using testing::HasSubstr;

TEST(OpenMetrics, HasTheFiguresUnderTheirNames) {
  const std::string text = to_openmetrics(sample());
  EXPECT_THAT(text, HasSubstr("\nqtrp_uptime_seconds 90\n"));
  EXPECT_THAT(text, HasSubstr("\nqtrp_clients 1\n"));
  EXPECT_THAT(text, HasSubstr("\nqtrp_accepted_connections_total 4\n"));
  EXPECT_THAT(text, HasSubstr("\nqtrp_transferred_bytes_total{direction=\"in\"} 18446744073709551615\n"));
  EXPECT_THAT(text, HasSubstr("\nqtrp_proxy_open{proxy=\"web\",client=\"kitchen\",bind=\"\",port=\"80\"} 0\n"));
  EXPECT_THAT(
      text,
      HasSubstr(
          "\nqtrp_proxy_received_bytes_total{proxy=\"ssh\",client=\"kitchen\",bind=\"0.0.0.0\",port=\"2222\"} 9\n"));
  EXPECT_THAT(text, HasSubstr("\nqtrp_tunnel_rtt_seconds{client=\"kitchen\",address=\"203.0.113.7:50312\"} 0.0205\n"));
  EXPECT_THAT(text, HasSubstr("congestion=\"brutal (bpf)\""));
}

// The grammar of the specification as far as this text uses it, and its rules on families.
TEST(OpenMetrics, FollowsTheFormatsRules) {
  Snapshot s = sample();
  s.clients[0].name = "a\"b\\c\n\xff";
  const std::string text = to_openmetrics(s);
  ASSERT_TRUE(text.ends_with("\n# EOF\n"));
  EXPECT_THAT(text, HasSubstr("client=\"a\\\"b\\\\c\\n\xef\xbf\xbd\""));
  const std::regex sample_line(
      R"(([a-z_]+)(\{[a-z_]+="([^"\\]|\\["\\n])*"(,[a-z_]+="([^"\\]|\\["\\n])*")*\})? [0-9.e+-]+)");
  std::istringstream lines(text);
  std::string family, type;
  std::set<std::string> families, series;
  for (std::string line; std::getline(lines, line);) {
    if (line == "# EOF") break;
    if (line.starts_with("# TYPE ")) {
      std::istringstream(line.substr(7)) >> family >> type;
      EXPECT_TRUE(families.insert(family).second) << "family twice: " << family;
      continue;
    }
    if (line.starts_with("# UNIT ")) {
      const std::string unit = line.substr(line.rfind(' ') + 1);
      EXPECT_TRUE(family.ends_with("_" + unit)) << line;
      continue;
    }
    if (line.starts_with("# HELP ")) {
      EXPECT_TRUE(line.starts_with("# HELP " + family + " ")) << line;
      continue;
    }
    std::smatch match;
    ASSERT_TRUE(std::regex_match(line, match, sample_line)) << line;
    EXPECT_EQ(match[1], family + (type == "counter" ? "_total" : type == "info" ? "_info" : "")) << line;
    EXPECT_TRUE(series.insert(line.substr(0, line.rfind(' '))).second) << "series twice: " << line;
  }
  EXPECT_GT(families.size(), 20U);
}

}  // namespace
}  // namespace qtrp::stats
