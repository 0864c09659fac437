// The executables' command line as a user meets it: exit codes, what goes to which stream. Nothing is opened by these.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "qtrp/stats/version.h"

namespace qtrp {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

struct Outcome {
  int code = -1;
  std::string out, err;
};

std::string slurp(const std::filesystem::path& file) {
  std::ifstream stream(file);
  return {std::istreambuf_iterator<char>(stream), {}};
}

class CommandLine : public testing::Test {
 protected:
  CommandLine() {
    std::string pattern = (std::filesystem::temp_directory_path() / "qtrp-apps-XXXXXX").string();
    directory_ = ::mkdtemp(pattern.data());
  }
  ~CommandLine() override { std::filesystem::remove_all(directory_); }

  std::string write(const std::string& name, std::string_view text) const {
    const auto file = directory_ / name;
    std::ofstream(file) << text;
    std::filesystem::permissions(file, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
    return file.string();
  }
  Outcome run(const std::string& program, const std::string& arguments) const {
    const auto out = directory_ / "out", err = directory_ / "err";
    const int status = std::system(fmt::format("cd {} && exec timeout 60 {} {} >{} 2>{} </dev/null",
                                               directory_.string(), program, arguments, out.string(), err.string())
                                       .c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, slurp(out), slurp(err)};
  }

  std::filesystem::path directory_;
};

const std::string kServer = QTRP_SERVER, kClient = QTRP_CLIENT;

TEST_F(CommandLine, HelpAndVersionSucceedOnStandardOutput) {
  for (const std::string& program : {kServer, kClient}) {
    const Outcome help = run(program, "--help");
    EXPECT_EQ(help.code, 0);
    for (const char* word : {"--config", "--check", "--version", "--verbose", "--quiet", "Exit codes", "FILE"})
      EXPECT_THAT(help.out, HasSubstr(word));
    const Outcome shown = run(program, "--version");
    EXPECT_EQ(shown.code, 0);
    EXPECT_EQ(shown.out, fmt::format("{} {}\n", std::filesystem::path(program).filename().string(), version()));
  }
}

TEST_F(CommandLine, MistakesOfUsageAre2) {
  for (const char* arguments : {"--frob", "extra", "-c", "-q -v --check"}) {
    const Outcome o = run(kServer, arguments);
    EXPECT_EQ(o.code, 2) << arguments;
    EXPECT_THAT(o.err, Not(IsEmpty())) << arguments;
  }
}

TEST_F(CommandLine, CheckPrintsTheEffectiveConfigurationWithoutSecrets) {
  const std::string server =
      write("s.yaml",
            "bind: 0.0.0.0:6000\nauth:\n  tokens: [your-secret-token]\nbrutal: {enabled: true, target_mbps: 100}\n");
  const Outcome s = run(kServer, "--check -c " + server);
  EXPECT_EQ(s.code, 0) << s.err;
  EXPECT_THAT(s.out, HasSubstr("bind: 0.0.0.0:6000\n"));
  EXPECT_THAT(s.out, HasSubstr("grace: 5s\n"));
  EXPECT_THAT(s.out + s.err, Not(HasSubstr("your-secret")));
  EXPECT_THAT(s.err, IsEmpty());
  const std::string client = write("c.yaml",
                                   "server: vps.example.com:6000\ntoken: short-secret\nproxies:\n  - {remote_port: "
                                   "8000-8005, local_addr: 127.0.0.1:8000}\n");
  const Outcome c = run(kClient, "-c " + client + " --check");
  EXPECT_EQ(c.code, 0) << c.err;
  EXPECT_THAT(c.out, HasSubstr("local_addr: 127.0.0.1:8005\n"));
  EXPECT_THAT(c.err, StartsWith("warning: the token has fewer than 16 characters"));
  EXPECT_THAT(c.out + c.err, Not(HasSubstr("short-secret")));
  const std::string again = write("again.yaml", c.out);
  EXPECT_EQ(run(kClient, "--check -c " + again).out, c.out);
}

TEST_F(CommandLine, MistakesInTheFileAre2OneALineWithTheirPlace) {
  const std::string file = write("s.yaml", "bind: nowhere\ncrypto: tsl\nauth: {tokens: [your-secret-token]}\n");
  for (const char* check : {"", "--check "}) {
    const Outcome o = run(kServer, fmt::format("{}-c {}", check, file));
    EXPECT_EQ(o.code, 2);
    EXPECT_THAT(o.out, IsEmpty());
    EXPECT_EQ(
        o.err,
        fmt::format(
            "{0}:1:7: found 'nowhere' for 'bind', expected host:port such as 0.0.0.0:6000, '[::1]:6000' or :6000\n"
            "{0}:2:9: found 'tsl' for 'crypto', expected one of tls, chacha20, none; did you mean 'tls'?\n",
            file));
  }
  EXPECT_EQ(run(kClient, "-c /no/such/file").code, 2);
  const Outcome without = run(kClient, "");
  EXPECT_EQ(without.code, 2);
  EXPECT_THAT(without.err, HasSubstr("client.yaml: found no such file"));
}

TEST_F(CommandLine, AFullDiskIsNotASuccess) {
  const std::string file = write("s.yaml", "auth: {tokens: [your-secret-token]}\n");
  const int status = std::system(fmt::format("{} --check -c {} >/dev/full 2>/dev/null", kServer, file).c_str());
  EXPECT_EQ(WEXITSTATUS(status), 1);
}

}  // namespace
}  // namespace qtrp
