// Reading a file anew: what a restart only can change, and that a bad file changes nothing.
#include "qtrp/config/reload.h"

#include <signal.h>

#include "texts.h"

namespace qtrp::config {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

const std::string kServer = "bind: 127.0.0.1:6000\nauth: {tokens: [a-token-of-16-or-more]}\n";

TEST(KeepFixed, NamesWhatNeedsARestartAndPutsItBack) {
  const ServerConfig running = server(kServer);
  ServerConfig wanted = server(
      "bind: 127.0.0.1:7000\ntransport: epoll\ncrypto: none\nmux: yamux\nworkers: 3\nbrutal: {mode: pacer}\n"
      "stats: {listen: '127.0.0.1:1'}\nauth: {tokens: [another-token-of-16]}\nkeepalive: {interval: 7s}\n");
  EXPECT_THAT(keep_fixed(running, wanted),
              ElementsAre("bind", "transport", "crypto", "mux", "brutal.mode", "stats.listen", "workers"));
  EXPECT_EQ(wanted.bind, running.bind);
  EXPECT_EQ(wanted.transport, Transport::net);
  EXPECT_EQ(wanted.workers, 0U);
  // What may change has changed.
  EXPECT_EQ(wanted.tokens[0].token, "another-token-of-16");
  EXPECT_EQ(wanted.keepalive_interval, std::chrono::seconds(7));
}

TEST(KeepFixed, TlsOfTheEndpointIsTurnedOnAndOffByARestart) {
  ServerConfig with = server(kServer), without = with;
  with.stats.cert = "a.crt";
  with.stats.key = "a.key";
  ServerConfig wanted = without;
  EXPECT_THAT(keep_fixed(with, wanted), ElementsAre("stats.tls"));
  EXPECT_EQ(wanted.stats.key, "a.key");
  wanted = with;
  EXPECT_THAT(keep_fixed(without, wanted), ElementsAre("stats.tls"));
  EXPECT_EQ(wanted.stats.key, "");
  wanted = with;
  wanted.stats.cert = "b.crt";  // another file: at once
  EXPECT_THAT(keep_fixed(with, wanted), IsEmpty());
}

TEST(KeepFixed, SaysNothingOfWhatMayChange) {
  const ServerConfig running = server(kServer);
  ServerConfig wanted = server(kServer +
                               "ports: 1024-2000\nbrutal: {enabled: true, target_mbps: 5}\nlog: {level: debug}\n"
                               "shutdown: {grace: 1s}\nconnect_timeout: 1s\n");
  EXPECT_THAT(keep_fixed(running, wanted), IsEmpty());
  const std::string yaml =
      "server: a:1\ntoken: a-token-of-16-or-more\nproxies: [{remote_port: 1, local_addr: 'h:1'}]\n";
  const ClientConfig before = client(yaml);
  ClientConfig after = client(
      "server: a:2\ntoken: another-token-of-16\nproxies: [{remote_port: 2, local_addr: 'h:1'}]\n"
      "tunnels: 3\npool: 2\n");
  EXPECT_THAT(keep_fixed(before, after), ElementsAre("server", "tunnels"));
  after = client(yaml + "brutal: {enabled: true, target_mbps: 5}\n");  // a second tunnel comes with the next start
  EXPECT_THAT(keep_fixed(before, after), IsEmpty());
}

class ReloaderTest : public testing::Test {
 protected:
  Reloader<ServerConfig> reloader{{.file = "/etc/qtrp/server.yaml",
                                   .load = [this] { return parse_server(text, "server.yaml"); },
                                   .set_log_level = [this](const Log& log) { level = log.level; }},
                                  server(kServer),
                                  [this](const ServerConfig& wanted) -> Result<void> {
                                    if (!refusal.empty()) return fail(ErrorKind::config, refusal);
                                    applied.push_back(wanted);
                                    return {};
                                  }};
  std::string text = kServer, refusal, level;
  std::vector<ServerConfig> applied;
};

TEST_F(ReloaderTest, AppliesAGoodFileAndRemembersIt) {
  text += "log: {level: debug}\nworkers: 2\n";
  EXPECT_EQ(reloader.reload(), "done\n'workers' changes with a restart only, it stays as it was\n");
  ASSERT_EQ(applied.size(), 1U);
  EXPECT_EQ(applied[0].workers, 0U);
  EXPECT_EQ(level, "debug");
  EXPECT_EQ(reloader.running().log.level, "debug");
}

TEST_F(ReloaderTest, ABadFileChangesNothing) {
  text += "prots: 1\nlog: {level: loud}\n";
  EXPECT_THAT(reloader.reload(), StartsWith("mistakes\nserver.yaml:3:1: unknown key 'prots', did you mean 'ports'?\n"));
  EXPECT_THAT(applied, IsEmpty());
  EXPECT_EQ(level, "");
  EXPECT_EQ(reloader.running().log.level, "info");
}

TEST_F(ReloaderTest, WhatCantBeAppliedChangesNothing) {
  text += "log: {level: debug}\n";
  refusal = "the certificate is no good";
  EXPECT_EQ(reloader.reload(), "failed\nthe certificate is no good\n");
  EXPECT_EQ(level, "");
  EXPECT_EQ(reloader.running().log.level, "info");
}

TEST_F(ReloaderTest, ActsOnSighupAndLeavesOtherSignalsAlone) {
  EXPECT_TRUE(reloader.handle(SIGHUP));
  EXPECT_EQ(applied.size(), 1U);
  EXPECT_FALSE(reloader.handle(SIGTERM));
  EXPECT_FALSE(reloader.handle(Signals::kNotified));
  EXPECT_FALSE(reloader.handle(Signals::kReadable));  // there is no control socket
  EXPECT_EQ(applied.size(), 1U);
}

TEST(Reloader, WithoutAFileThereIsNothingToRead) {
  Reloader<ClientConfig> reloader({}, ClientConfig(), [](const ClientConfig&) -> Result<void> {
    ADD_FAILURE() << "nothing to apply";
    return {};
  });
  EXPECT_THAT(reloader.reload(), StartsWith("failed\n"));
  EXPECT_FALSE(reloader.handle(SIGHUP));  // ends the daemon
}

}  // namespace
}  // namespace qtrp::config
