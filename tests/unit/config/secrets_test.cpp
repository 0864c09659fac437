#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "texts.h"

namespace qtrp::config {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

/// A directory of this test's own, gone with it.
class Directory {
 public:
  Directory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "qtrp-config-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~Directory() { std::filesystem::remove_all(path_); }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;

  std::filesystem::path write(const std::string& name, std::string_view text, mode_t mode = 0600) const {
    const auto file = path_ / name;
    std::ofstream(file) << text;
    ::chmod(file.c_str(), mode);
    return file;
  }
  std::string path(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

/// A variable of the environment for the time of one test.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) { ::setenv(name, value, 1); }
  ~Variable() { ::unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
};

TEST(Secrets, NeverAppearInMistakesWhereverTheyWereMisplaced) {
  for (const std::string yaml : {"auth: hunter2hunter2\n",
                                 "auth: [hunter2hunter2]\n",
                                 "auth: {tokens: hunter2hunter2}\n",
                                 "auth: {hunter2hunter2: 1}\n",
                                 "auth: {tokens: {hunter2hunter2: x}}\n",
                                 "auth: {tokens: [{hunter2hunter2: x}]}\n",
                                 "auth: {tokens: [{token: [hunter2hunter2]}]}\n",
                                 "auth: {tokens: [[hunter2hunter2]]}\n",
                                 "auth: {tokens: *hunter2hunter2}\n",
                                 "auth: {tokens: [@hunter2hunter2]}\n",
                                 "auth: {tokens: [hunter2hunter2, hunter2hunter2]}\n",
                                 "auth: {tokens: ['hunter2hunter2 ']}\n",
                                 "auth: {tokens: [\"hunter2hunter2\\n\"]}\n",
                                 "auth: {tokens: [\"hunter2hunter2\\q\"]}\n",
                                 "auth: {tokens: [hunter2hunter2${]}\n",
                                 "auth: {tokens: ['hunter2hunter2${-}']}\n",
                                 "auth: {tokens: [%hunter2hunter2]}\n",
                                 "auth: {tokens: [hunter2hunter2\n",
                                 "auth: {tokens: [!hunter2hunter2\n",
                                 "chacha20: hunter2hunter2\n",
                                 "chacha20: {psk: [hunter2hunter2]}\n",
                                 "chacha20: {hunter2hunter2: ''}\n",
                                 "stats: {token: [hunter2hunter2]}\n"}) {
    const std::string mistakes = server_mistakes(yaml);
    EXPECT_NE(mistakes, "") << yaml;
    EXPECT_THAT(mistakes, Not(HasSubstr("hunter2"))) << yaml;
  }
  for (const std::string yaml :
       {"token: [hunter2hunter2]\n", "token: {hunter2hunter2: x}\n", "token: ' hunter2hunter2'\n"}) {
    EXPECT_THAT(client_mistakes(yaml), Not(HasSubstr("hunter2"))) << yaml;
  }
}

TEST(Secrets, ComeFromTheEnvironmentInAnyScalar) {
  const Variable token("QTRP_TEST_TOKEN", "from-the-environment");
  const Variable port("QTRP_TEST_PORT", "2222");
  const ClientConfig c = client(
      "server: vps:6000\ntoken: ${QTRP_TEST_TOKEN}\nproxies: [{remote_port: '${QTRP_TEST_PORT}', local_addr: "
      "'h:${QTRP_TEST_PORT}', name: 'a${QTRP_TEST_PORT}b$${c}'}]\n");
  EXPECT_EQ(c.token, "from-the-environment");
  ASSERT_EQ(c.proxies.size(), 1U);
  EXPECT_EQ(c.proxies[0].remote_port, 2222);
  EXPECT_EQ(c.proxies[0].local.port, 2222);
  EXPECT_EQ(c.proxies[0].name, "a2222b${c}");
}

TEST(Secrets, AMissingVariableIsAMistakeAndAWrongOneIsNotShown) {
  ::unsetenv("QTRP_TEST_ABSENT");
  EXPECT_EQ(server_mistakes("auth: {tokens: ['${QTRP_TEST_ABSENT}']}\n").substr(0, 94),
            "server.yaml:1:17: found ${QTRP_TEST_ABSENT} in 'auth.tokens', but the environment has no varia");
  const Variable secret("QTRP_TEST_TOKEN", "hunter2hunter2");
  const std::string mistakes = server_mistakes(least_server + "bind: ${QTRP_TEST_TOKEN}\n");
  EXPECT_THAT(mistakes, HasSubstr("found '${QTRP_TEST_TOKEN}' for 'bind'"));
  EXPECT_THAT(mistakes, Not(HasSubstr("hunter2")));
  EXPECT_THAT(server_mistakes(least_server + "bind: '${}'\n"), HasSubstr("expected ${NAME}"));
  EXPECT_THAT(server_mistakes(least_server + "bind: '${A'\n"), HasSubstr("expected ${NAME}"));
}

TEST(Secrets, ComeFromFilesBesideTheConfiguration) {
  const Directory directory;
  directory.write("token", "the-client's-token-in-a-file\n");
  directory.write("tokens", "first-token-of-the-file\n\n  second-token-of-the-file  \n");
  const auto c = load_client(directory.write(
      "client.yaml", "server: vps:6000\ntoken_file: token\nproxies: [{remote_port: 1, local_addr: 'h:1'}]\n"));
  ASSERT_TRUE(c) << joined(c.error());
  EXPECT_EQ(c->token, "the-client's-token-in-a-file");
  EXPECT_THAT(c->warnings, IsEmpty());
  const auto s = load_server(directory.write(
      "server.yaml", "auth: {tokens: [the-inline-token-here, {token_file: token, name: box}], token_file: tokens}\n"));
  ASSERT_TRUE(s) << joined(s.error());
  ASSERT_EQ(s->tokens.size(), 4U);
  EXPECT_EQ(s->tokens[1].token, "the-client's-token-in-a-file");
  EXPECT_EQ(s->tokens[1].name, "box");
  EXPECT_EQ(s->tokens[2].token, "first-token-of-the-file");
  EXPECT_EQ(s->tokens[3].token, "second-token-of-the-file");
  EXPECT_EQ(s->tokens[3].name, "token-4");
}

TEST(Secrets, WrongTokenFilesAreMistakes) {
  const Directory directory;
  directory.write("empty", "\n\n");
  directory.write("two", "one-token-of-length\ntwo-token-of-length\n");
  directory.write("binary", std::string("\x01\x02\x03", 3));
  directory.write("huge", std::string(100'000, '\n'));
  const auto with_file = [&](const std::string& name) {
    return client_mistakes(
        "server: vps:6000\nproxies: [{remote_port: 1, local_addr: 'h:1'}]\ntoken_file: " + directory.path(name) + "\n");
  };
  EXPECT_THAT(with_file("absent"), HasSubstr("No such file"));
  EXPECT_THAT(with_file("empty"), HasSubstr("is empty"));
  EXPECT_THAT(with_file("two"), HasSubstr("several lines"));
  EXPECT_THAT(with_file("binary"), HasSubstr("holds a line that is no secret"));
  EXPECT_THAT(with_file("huge"), HasSubstr("larger than 64 KiB"));
  EXPECT_THAT(with_file(""), HasSubstr("is not a file"));
  directory.write("good", "a-good-token-of-length\n");
  EXPECT_THAT(client_mistakes(least_client + "token_file: " + directory.path("good") + "\n"),
              HasSubstr("both 'token' and 'token_file'"));
  EXPECT_THAT(client_mistakes("token_file: " + directory.path("good") + "\n" + least_client),
              HasSubstr("both 'token' and 'token_file'"));
}

TEST(Secrets, InAFileThatOthersMayReadGetAWarning) {
  const Directory directory;
  const Variable token("QTRP_TEST_TOKEN", "from-the-environment");
  const auto readable = load_server(directory.write("a.yaml", least_server, 0644));
  ASSERT_TRUE(readable);
  EXPECT_THAT(readable->warnings,
              ElementsAre(HasSubstr("other users of this machine can read it (mode 0644): chmod 600")));
  const auto group = load_server(directory.write("b.yaml", least_server, 0640));
  ASSERT_TRUE(group);
  EXPECT_EQ(group->warnings.size(), 1U);
  const auto closed = load_server(directory.write("c.yaml", least_server, 0600));
  ASSERT_TRUE(closed);
  EXPECT_THAT(closed->warnings, IsEmpty());
  const auto elsewhere = load_server(directory.write("d.yaml", "auth: {tokens: ['${QTRP_TEST_TOKEN}']}\n", 0644));
  ASSERT_TRUE(elsewhere);
  EXPECT_THAT(elsewhere->warnings, IsEmpty());
  directory.write("token", "a-token-of-16-or-more\n", 0644);
  const auto file = load_server(directory.write("e.yaml", "auth: {token_file: token}\n", 0644));
  ASSERT_TRUE(file);
  EXPECT_THAT(file->warnings, ElementsAre(HasSubstr("token holds a secret")));
}

TEST(Secrets, APrivateKeyThatEverybodyMayReadIsRefused) {
  const Directory directory;
  directory.write("server.crt", "not looked into here\n", 0644);
  const std::string yaml = "tls: {cert: server.crt, key: server.key}\n" + least_server;
  directory.write("server.key", "not looked into here\n", 0644);
  const auto open = load_server(directory.write("a.yaml", yaml));
  ASSERT_FALSE(open);
  EXPECT_THAT(joined(open.error()), HasSubstr("a.yaml:1:30: "));
  EXPECT_THAT(joined(open.error()), HasSubstr("every user of this machine can read it (mode 0644)"));
  directory.write("server.key", "not looked into here\n", 0640);
  const auto group = load_server(directory.write("b.yaml", yaml));
  ASSERT_TRUE(group);
  EXPECT_THAT(group->warnings, ElementsAre(HasSubstr("(mode 0640): chmod 600")));
  directory.write("server.key", "not looked into here\n", 0600);
  const auto closed = load_server(directory.write("c.yaml", yaml));
  ASSERT_TRUE(closed);
  EXPECT_THAT(closed->warnings, IsEmpty());
}

}  // namespace
}  // namespace qtrp::config
