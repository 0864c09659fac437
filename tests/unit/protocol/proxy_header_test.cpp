// The PROXY protocol's header byte by byte, after HAProxy's text of the protocol.
#include "qtrp/protocol/proxy_header.h"

#include <gtest/gtest.h>

#include <string>

#include "qtrp/base/bytes.h"

namespace qtrp::protocol {
namespace {

using namespace std::string_literals;

std::string v1(std::string_view user, std::string_view to) {
  return std::string(as_text(encode_proxy_header(ProxyHeader::v1, user, to)));
}
std::string v2(std::string_view user, std::string_view to) {
  return std::string(as_text(encode_proxy_header(ProxyHeader::v2, user, to)));
}

const std::string kSignature = "\r\n\r\n\0\r\nQUIT\n"s;

TEST(ProxyHeaderV1, IsALineWithBothAddressesAndPorts) {
  EXPECT_EQ(v1("203.0.113.9:51234", "198.51.100.1:443"), "PROXY TCP4 203.0.113.9 198.51.100.1 51234 443\r\n");
  EXPECT_EQ(v1("[2001:db8::9]:51234", "[2001:db8::1]:443"), "PROXY TCP6 2001:db8::9 2001:db8::1 51234 443\r\n");
}

TEST(ProxyHeaderV1, TheLongestOneFitsInto107Bytes) {
  const std::string longest = "[fe80:1111:2222:3333:4444:5555:6666:7777]:65535";
  EXPECT_LE(v1(longest, longest).size(), 107U);
  EXPECT_EQ(v1("255.255.255.255:65535", "255.255.255.255:65535").size(), 56U);
}

TEST(ProxyHeaderV2, IPv4IsTwelveBytesBehindTheHead) {
  EXPECT_EQ(v2("203.0.113.9:51234", "198.51.100.1:443"),
            kSignature + "\x21\x11\x00\x0c\xcb\x00\x71\x09\xc6\x33\x64\x01\xc8\x22\x01\xbb"s);
}

TEST(ProxyHeaderV2, IPv6IsThirtySixBytesBehindTheHead) {
  EXPECT_EQ(v2("[2001:db8::9]:51234", "[::1]:443"),
            kSignature + "\x21\x21\x00\x24"s + "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x09"s +
                "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"s + "\xc8\x22\x01\xbb"s);
}

TEST(ProxyHeader, IPv4InIPv6IsIPv4) {
  EXPECT_EQ(v1("[::ffff:203.0.113.9]:1", "[::ffff:198.51.100.1]:2"), "PROXY TCP4 203.0.113.9 198.51.100.1 1 2\r\n");
  EXPECT_EQ(v2("[::ffff:203.0.113.9]:1", "198.51.100.1:2"), v2("203.0.113.9:1", "198.51.100.1:2"));
}

TEST(ProxyHeader, OfTwoFamiliesIPv4IsWrittenAsIPv6) {
  EXPECT_EQ(v1("203.0.113.9:1", "[2001:db8::1]:2"), "PROXY TCP6 ::ffff:203.0.113.9 2001:db8::1 1 2\r\n");
  EXPECT_EQ(v2("203.0.113.9:1", "[::1]:2").substr(12, 20),
            "\x21\x21\x00\x24\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xcb\x00\x71\x09"s);
}

TEST(ProxyHeader, AZoneIsLeftOut) {
  EXPECT_EQ(v1("[fe80::1%eth0]:1", "[fe80::2%eth0]:2"), "PROXY TCP6 fe80::1 fe80::2 1 2\r\n");
}

TEST(ProxyHeader, WhatIsNoAddressIsUnknown) {
  for (const char* odd :
       {"", "?", "?:0", "203.0.113.9", "203.0.113.9:", "203.0.113.9:65536", "203.0.113.9:1x", "name.example:1",
        "2001:db8::1:1", "[203.0.113.9]:1", "[::1", "[]:1", "1.1.1.1 2.2.2.2\r\n:1"}) {
    EXPECT_EQ(v1(odd, "198.51.100.1:443"), "PROXY UNKNOWN\r\n") << odd;
    EXPECT_EQ(v1("198.51.100.1:443", odd), "PROXY UNKNOWN\r\n") << odd;
    EXPECT_EQ(v2(odd, "198.51.100.1:443"), kSignature + "\x21\x00\x00\x00"s) << odd;
  }
}

}  // namespace
}  // namespace qtrp::protocol
