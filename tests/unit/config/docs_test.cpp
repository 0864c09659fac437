// docs/configuration.md is the full truth: every key that is accepted stands in it, and every example in it loads.
#include <fmt/format.h>

#include <fstream>
#include <iterator>
#include <regex>
#include <set>

#include "texts.h"

namespace qtrp::config {
namespace {

using testing::HasSubstr;

std::string document() {
  std::ifstream file(QTRP_DOCS "/configuration.md");
  return {std::istreambuf_iterator<char>(file), {}};
}

/// The keys that a mistake lists behind "expected one of".
std::set<std::string> keys_in(const std::string& mistakes) {
  static const std::string before = "expected one of ";
  const auto at = mistakes.find(before);
  if (at == std::string::npos) return {};
  const std::string list = mistakes.substr(at + before.size(), mistakes.find('\n', at) - at - before.size());
  std::set<std::string> keys;
  static const std::regex word("[a-z0-9_]+");
  for (auto i = std::sregex_iterator(list.begin(), list.end(), word); i != std::sregex_iterator(); ++i)
    keys.insert(i->str());
  return keys;
}

TEST(ConfigurationDocument, NamesEveryKey) {
  const std::string text = document();
  const std::string unknown = "frobnicate_the_widget";
  const auto expect = [&](const std::set<std::string>& keys, const std::string& prefix, std::size_t least) {
    EXPECT_GE(keys.size(), least) << prefix;
    for (const std::string& key : keys) {
      // A section is there by its keys: `brutal` by `brutal.enabled`.
      const bool there = text.find("`" + prefix + key + "`") != std::string::npos ||
                         text.find("`" + prefix + key + ".") != std::string::npos;
      EXPECT_TRUE(there) << prefix << key;
    }
  };
  expect(keys_in(server_mistakes(unknown + ": 1\n")), "", 17);
  expect(keys_in(client_mistakes(unknown + ": 1\n")), "", 20);
  for (const char* section :
       {"brutal", "tls", "quic", "tcp", "stats", "log", "keepalive", "shutdown", "auth", "chacha20"}) {
    const std::string wrong = fmt::format("{}: {{{}: 1}}\n", section, unknown);
    expect(keys_in(server_mistakes(wrong)), fmt::format("{}.", section), 1);
    if (std::string_view(section) != "auth") expect(keys_in(client_mistakes(wrong)), fmt::format("{}.", section), 1);
  }
  expect(keys_in(server_mistakes("auth: {tokens: [{" + unknown + ": 1}]}\n")), "", 7);
  expect(keys_in(client_mistakes("proxies: [{" + unknown + ": 1}]\n")), "", 6);
}

TEST(ConfigurationDocument, ItsExamplesLoadWithoutWarnings) {
  const std::string text = document();
  static const std::regex block("```yaml (server|client)\n([^`]*)```");
  std::size_t found = 0;
  for (auto i = std::sregex_iterator(text.begin(), text.end(), block); i != std::sregex_iterator(); ++i, ++found) {
    const std::string yaml = (*i)[2];
    EXPECT_THAT((*i)[1] == "server" ? server(yaml).warnings : client(yaml).warnings, testing::IsEmpty()) << yaml;
  }
  EXPECT_EQ(found, 4U);
}

}  // namespace
}  // namespace qtrp::config
