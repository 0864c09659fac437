// Which proxies a reload keeps, and under which ids.
#include "client/settings.h"

#include <gtest/gtest.h>

namespace qtrp::client {
namespace {

config::Proxy proxy(std::string name, std::uint16_t port, std::uint16_t local = 80) {
  config::Proxy p;
  p.name = std::move(name);
  p.remote_port = port;
  p.local = {"127.0.0.1", local};
  return p;
}

class Reload : public testing::Test {
 protected:
  void load(std::vector<config::Proxy> wanted) {
    before = table;
    table = renew(table, wanted, next);
  }
  std::vector<std::uint32_t> ids() const {
    std::vector<std::uint32_t> all;
    for (const auto& [id, p] : table) all.push_back(id);
    return all;
  }
  using Ids = std::vector<std::uint32_t>;
  ProxyTable before, table;
  std::uint32_t next = 1;
};

TEST_F(Reload, IdsBeginAtOneInTheOrderOfTheFile) {
  load({proxy("b", 2), proxy("a", 1)});
  EXPECT_EQ(ids(), (Ids{1, 2}));
  EXPECT_EQ(table.at(1)->name, "b");
}

TEST_F(Reload, WhatDoesNotChangeIsTheSameObject) {
  load({proxy("a", 1), proxy("b", 2)});
  load({proxy("b", 2), proxy("a", 1)});
  EXPECT_EQ(table, before);
}

TEST_F(Reload, AnIdIsNeverUsedAgain) {
  load({proxy("a", 1), proxy("b", 2)});
  load({proxy("a", 1)});
  EXPECT_EQ(ids(), (Ids{1}));
  load({proxy("a", 1), proxy("b", 2)});
  EXPECT_EQ(ids(), (Ids{1, 3}));
}

TEST_F(Reload, AnotherLocalServiceKeepsThePortOpen) {
  load({proxy("a", 1, 80)});
  load({proxy("a", 1, 81)});
  EXPECT_EQ(ids(), (Ids{1}));
  EXPECT_NE(table.at(1), before.at(1));
  EXPECT_EQ(table.at(1)->local.port, 81);
  config::Proxy with_header = proxy("a", 1, 81);
  with_header.proxy_protocol = "v2";
  load({with_header});
  EXPECT_EQ(ids(), (Ids{1}));
  EXPECT_EQ(table.at(1)->proxy_protocol, "v2");
}

TEST_F(Reload, WhatTheServerSeesMakesItAnotherProxy) {
  load({proxy("a", 1)});
  load({proxy("a", 2)});
  EXPECT_EQ(ids(), (Ids{2}));
  load({proxy("renamed", 2)});
  EXPECT_EQ(ids(), (Ids{3}));
  config::Proxy bound = proxy("renamed", 2);
  bound.bind = "127.0.0.1";
  load({bound});
  EXPECT_EQ(ids(), (Ids{4}));
}

TEST_F(Reload, SeveralPortsOfTheServersChoiceAreToldByTheirNames) {
  load({proxy("auto-1", 0, 1), proxy("auto-2", 0, 2)});
  load({proxy("auto-2", 0, 2), proxy("auto-3", 0, 3)});
  EXPECT_EQ(ids(), (Ids{2, 3}));
}

TEST(Settings, CarryTheTableOnAndReadTheChecksAnew) {
  config::ClientConfig config;
  config.server = {"vps.example.com", 6000};
  config.proxies = {proxy("a", 1), proxy("b", 2)};
  const auto first = make_settings(config, nullptr).value();
  EXPECT_EQ(first->checks.server_name, "vps.example.com");
  EXPECT_TRUE(first->checks.pins.empty());
  config.proxies = {proxy("b", 2), proxy("c", 3)};
  config.tls.pins = {std::string(64, 'a')};
  const auto second = make_settings(config, first.get()).value();
  EXPECT_EQ(second->checks.pins.size(), 1U);
  EXPECT_EQ(second->proxies.size(), 2U);
  EXPECT_EQ(second->proxies.at(2), first->proxies.at(2));
  EXPECT_EQ(second->proxies.at(3)->name, "c");
  config.tls.ca = "/nowhere/ca.pem";
  EXPECT_FALSE(make_settings(config, second.get()));
}

}  // namespace
}  // namespace qtrp::client
