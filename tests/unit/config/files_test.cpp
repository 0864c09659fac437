#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "texts.h"

namespace qtrp::config {
namespace {

using testing::HasSubstr;

TEST(Files, TheExamplesLoad) {
  const auto s = load_server(QTRP_EXAMPLES "/server.yaml");
  ASSERT_TRUE(s) << joined(s.error());
  EXPECT_EQ(s->bind, (io::HostPort{"0.0.0.0", 6000}));
  EXPECT_EQ(s->tokens.size(), 1U);
  const auto c = load_client(QTRP_EXAMPLES "/client.yaml");
  ASSERT_TRUE(c) << joined(c.error());
  EXPECT_EQ(c->proxies.size(), 7U);
  EXPECT_EQ(c->token, s->tokens[0].token);
}

/// The example with every key that is off turned on: what the comments promise is accepted.
std::string all_on(const std::string& file, const std::function<bool(const std::string&)>& skip) {
  std::ifstream stream(file);
  std::string out;
  for (std::string line; std::getline(stream, line);) {
    const auto hash = line.find_first_not_of(' ');
    if (hash != std::string::npos && line[hash] == '#' && line.size() > hash + 2 && line[hash + 1] == ' ') {
      const std::string rest = line.substr(hash + 2);
      const auto start = rest.find_first_not_of(" -");
      const auto colon = rest.find(':');
      // A key is one word in small letters with a colon and a space or the end behind it.
      const bool key = start != std::string::npos && colon != std::string::npos && colon > start &&
                       rest.substr(start, colon - start).find_first_not_of("abcdefghijklmnopqrstuvwxyz_0123456789{") ==
                           std::string::npos &&
                       (colon + 1 == rest.size() || rest[colon + 1] == ' ');
      if (key && !skip(rest)) line = line.substr(0, hash) + rest;
    }
    out += line + "\n";
  }
  return out;
}

TEST(Files, TheExamplesKeysThatAreCommentedOutAreRealOnes) {
  for (const char* name : {"QTRP_OFFICE_TOKEN", "QTRP_STATS_TOKEN", "QTRP_PSK"})
    ::setenv(name, (std::string("some-long-secret-") + name).c_str(), 1);
  const auto file_on_disk = [](const std::string& rest) {
    return rest.find("/etc/") != std::string::npos || rest == "tls:" || rest.starts_with("name: \"\"") ||
           rest.find("target_mbps:") == 0;
  };
  const std::string server_text = all_on(QTRP_EXAMPLES "/server.yaml", file_on_disk);
  const auto s = parse_server(server_text, "server.yaml");
  ASSERT_TRUE(s) << joined(s.error()) << "\n" << server_text;
  ASSERT_EQ(s->tokens.size(), 2U);
  EXPECT_EQ(s->tokens[1].name, "office");
  EXPECT_EQ(s->stats.token, "some-long-secret-QTRP_STATS_TOKEN");
  const std::string client_text = all_on(QTRP_EXAMPLES "/client.yaml", [](const std::string& rest) {
    return rest.find("/etc/") != std::string::npos || rest.starts_with("name: \"\"");
  });
  const auto c = parse_client(client_text, "client.yaml");
  ASSERT_TRUE(c) << joined(c.error()) << "\n" << client_text;
  EXPECT_EQ(c->tls.pins.size(), 1U);
  EXPECT_EQ(c->proxies[0].name, "ssh");
  for (const char* name : {"QTRP_OFFICE_TOKEN", "QTRP_STATS_TOKEN", "QTRP_PSK"}) ::unsetenv(name);
}

TEST(Files, ThatCannotBeReadSayWhy) {
  const auto why = [](const std::string& file) {
    const auto loaded = load_server(file);
    return loaded ? std::string("loaded") : joined(loaded.error());
  };
  EXPECT_THAT(why("/no/such/server.yaml"), HasSubstr("/no/such/server.yaml: found no such file"));
  EXPECT_THAT(why("/tmp"), HasSubstr("/tmp: found a directory, expected a file"));
  EXPECT_THAT(why("/dev/null"), HasSubstr("/dev/null: found a device or pipe, expected a regular file"));
  std::string pattern = (std::filesystem::temp_directory_path() / "qtrp-config-XXXXXX").string();
  const int fd = ::mkstemp(pattern.data());
  ASSERT_GE(fd, 0);
  EXPECT_THAT(why(pattern), HasSubstr("found an empty file"));
  std::ofstream(pattern) << std::string(1'200'000, '#');
  EXPECT_THAT(why(pattern), HasSubstr("at most 1048576 bytes"));
  if (::geteuid() != 0) {
    ::chmod(pattern.c_str(), 0);
    EXPECT_THAT(why(pattern), HasSubstr("Permission denied"));
  }
  ::close(fd);
  std::filesystem::remove(pattern);
}

}  // namespace
}  // namespace qtrp::config
