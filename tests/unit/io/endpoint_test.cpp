#include "qtrp/io/endpoint.h"

#include <gtest/gtest.h>

namespace qtrp::io {
namespace {

TEST(HostPort, TakesNamesLiteralsAndBrackets) {
  EXPECT_EQ(*parse_host_port("vps.example.com:6000"), (HostPort{"vps.example.com", 6000}));
  EXPECT_EQ(*parse_host_port("127.0.0.1:22"), (HostPort{"127.0.0.1", 22}));
  EXPECT_EQ(*parse_host_port("[::1]:6000"), (HostPort{"::1", 6000}));
  EXPECT_EQ(*parse_host_port(":8080"), (HostPort{"::", 8080}));
}

TEST(HostPort, SaysWhatIsWrong) {
  for (const char* bad :
       {"", "host", "host:", "host:65536", "host:8x", "::1:6000", "[::1]", "[::1]6000", "[nonsense]:1", "a b:1"}) {
    EXPECT_FALSE(parse_host_port(bad)) << bad;
  }
  EXPECT_NE(parse_host_port("::1:6000").error().message.find("brackets"), std::string::npos);
}

TEST(Endpoint, ShowsWhatItWasMadeFrom) {
  EXPECT_EQ(Endpoint::from_literal("192.0.2.1", 80)->to_string(), "192.0.2.1:80");
  EXPECT_EQ(Endpoint::from_literal("::1", 80)->to_string(), "[::1]:80");
  EXPECT_EQ(Endpoint::from_literal("::ffff:192.0.2.1", 80)->host(), "192.0.2.1");
  EXPECT_TRUE(Endpoint::from_literal("127.9.9.9", 1)->is_loopback());
  EXPECT_TRUE(Endpoint::from_literal("::1", 1)->is_loopback());
  EXPECT_FALSE(Endpoint::from_literal("192.0.2.1", 1)->is_loopback());
  EXPECT_FALSE(Endpoint::from_literal("example.com", 1));
}

TEST(Endpoint, ItsSourceIsWhoeverHasTheAddress) {
  const auto source = [](const char* host) { return Endpoint::from_literal(host, 443)->source(); };
  EXPECT_EQ(source("192.0.2.7"), "192.0.2.7");
  EXPECT_EQ(source("::ffff:192.0.2.7"), "192.0.2.7");
  EXPECT_EQ(source("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
  EXPECT_EQ(source("2001:db8:1:2:ffff::1"), "2001:db8:1:2::/64");
  EXPECT_NE(source("2001:db8:1:3::1"), source("2001:db8:1:2::1"));
  EXPECT_EQ(source("::1"), "::/64");
}

}  // namespace
}  // namespace qtrp::io
