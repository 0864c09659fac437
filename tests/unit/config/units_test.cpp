#include "config/units.h"

#include <gtest/gtest.h>

#include <array>

namespace qtrp::config {
namespace {

using namespace std::chrono_literals;

TEST(Units, DurationsTakeAUnitAndAPlainNumberIsSeconds) {
  EXPECT_EQ(parse_duration("30"), 30s);
  EXPECT_EQ(parse_duration("30s"), 30s);
  EXPECT_EQ(parse_duration("500ms"), 500ms);
  EXPECT_EQ(parse_duration("2m"), 2min);
  EXPECT_EQ(parse_duration("1h"), 1h);
  EXPECT_EQ(parse_duration("1.5s"), 1500ms);
  EXPECT_EQ(parse_duration("0"), 0ms);
  for (const char* bad : {"", "s", "-1s", "+1s", "1 s", "1d", "1e3", "1.s", ".5s", "1.2.3s", "inf", "nan",
                          "99999999999999999999h", "1s "})
    EXPECT_FALSE(parse_duration(bad)) << bad;
}

TEST(Units, SizesTellPowersOf1024FromPowersOf1000) {
  EXPECT_EQ(parse_size("4MiB"), 4U << 20);
  EXPECT_EQ(parse_size("64KiB"), 65536U);
  EXPECT_EQ(parse_size("1GiB"), 1U << 30);
  EXPECT_EQ(parse_size("4MB"), 4'000'000U);
  EXPECT_EQ(parse_size("64kB"), 64'000U);
  EXPECT_EQ(parse_size("100"), 100U);
  EXPECT_EQ(parse_size("100B"), 100U);
  for (const char* bad :
       {"", "MiB", "4M", "4 MiB", "-1", "1.5MiB", "18446744073709551616", "18446744073709551615KiB", "4mib"})
    EXPECT_FALSE(parse_size(bad)) << bad;
}

TEST(Units, PortRangesAreInclusiveAndInOrder) {
  const auto one = parse_port_range("22");
  ASSERT_TRUE(one);
  EXPECT_EQ(one->first, 22);
  EXPECT_EQ(one->last, 22);
  const auto range = parse_port_range("1-65535");
  ASSERT_TRUE(range);
  EXPECT_EQ(range->first, 1);
  EXPECT_EQ(range->last, 65535);
  for (const char* bad :
       {"", "0", "65536", "8005-8000", "1-", "-1", "1--2", "1-2-3", " 1", "1 - 2", "0x10", "99999999999999999999"})
    EXPECT_FALSE(parse_port_range(bad)) << bad;
}

TEST(Units, PortSetsAllowTheirMembersAndAnEmptyOneEveryPort) {
  const PortSet set{{80, 80}, {8000, 8005}};
  EXPECT_TRUE(allows(set, 80));
  EXPECT_TRUE(allows(set, 8000));
  EXPECT_TRUE(allows(set, 8005));
  EXPECT_FALSE(allows(set, 81));
  EXPECT_FALSE(allows(set, 7999));
  EXPECT_FALSE(allows(set, 8006));
  EXPECT_TRUE(allows({}, 1));
  EXPECT_TRUE(allows({}, 65535));
}

TEST(Units, NumbersHaveNoSignExponentOrSpace) {
  EXPECT_EQ(parse_number("100"), 100.0);
  EXPECT_EQ(parse_number("2.5"), 2.5);
  for (const char* bad : {"", "-1", "1e9", "inf", "nan", "0x10", "1,5", ".5", "5."})
    EXPECT_FALSE(parse_number(bad)) << bad;
}

TEST(Units, AddressesNetworksAndPins) {
  EXPECT_TRUE(is_ip_literal("::1"));
  EXPECT_TRUE(is_ip_literal("192.0.2.1"));
  EXPECT_FALSE(is_ip_literal("localhost"));
  EXPECT_FALSE(is_ip_literal("[::1]"));
  EXPECT_TRUE(is_loopback_literal("127.8.9.1"));
  EXPECT_TRUE(is_loopback_literal("0:0:0:0:0:0:0:1"));
  EXPECT_FALSE(is_loopback_literal("0.0.0.0"));
  EXPECT_FALSE(is_loopback_literal("::"));
  EXPECT_TRUE(is_network("192.0.2.0/24"));
  EXPECT_TRUE(is_network("2001:db8::/32"));
  EXPECT_TRUE(is_network("192.0.2.7"));
  EXPECT_FALSE(is_network("192.0.2.0/33"));
  EXPECT_FALSE(is_network("192.0.2.0/"));
  EXPECT_FALSE(is_network("example.com/8"));
  const std::string hex(64, 'a');
  EXPECT_TRUE(is_pin(hex));
  EXPECT_TRUE(is_pin("sha256:" + hex));
  EXPECT_TRUE(is_pin("sha256//" + std::string(43, 'A') + "="));
  EXPECT_FALSE(is_pin("sha256:" + hex + "a"));
  EXPECT_FALSE(is_pin("sha1:" + hex));
  EXPECT_FALSE(is_pin("sha256//" + std::string(44, 'A')));
  EXPECT_TRUE(is_host("fe80::1%eth0"));
  EXPECT_TRUE(is_host("my_host-1.example.com"));
  EXPECT_FALSE(is_host("a b"));
  EXPECT_FALSE(is_host("-a"));
  EXPECT_FALSE(is_host("a..b"));
  EXPECT_FALSE(is_host("http://a"));
}

TEST(Units, EditDistanceCountsSwappedNeighboursOnce) {
  EXPECT_EQ(edit_distance("", ""), 0U);
  EXPECT_EQ(edit_distance("abc", ""), 3U);
  EXPECT_EQ(edit_distance("protocl", "protocol"), 1U);
  EXPECT_EQ(edit_distance("tokne", "token"), 1U);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3U);
}

TEST(Units, SuggestionsAreNearOrNone) {
  static constexpr std::array<std::string_view, 3> words{"token", "server", "tls"};
  EXPECT_EQ(nearest("tokn", words), "token");
  EXPECT_EQ(nearest("sever", words), "server");
  EXPECT_EQ(nearest("frobnicate", words), "");
  EXPECT_EQ(nearest("x", words), "");
  EXPECT_EQ(nearest(std::string(10'000, 't'), words), "");
}

}  // namespace
}  // namespace qtrp::config
