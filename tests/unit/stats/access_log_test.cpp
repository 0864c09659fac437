// The access log against files that are renamed, full, slow, or gone.
#include "qtrp/stats/access_log.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

namespace qtrp::stats {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

AccessRecord record(std::uint64_t number = 7) {
  AccessRecord r;
  r.user = "203.0.113.9:51234";
  r.port = 2222;
  r.client = "kitchen";
  r.proxy = "ssh";
  r.connection = number;
  r.bytes_in = 10;
  r.bytes_out = 20;
  r.duration = 1234567us;
  r.end = EndReason::user_reset;
  return r;
}

class AccessLogTest : public testing::Test {
 protected:
  AccessLogTest() {
    char name[] = "/tmp/qtrp-access-XXXXXX";
    directory = ::mkdtemp(name);
  }
  ~AccessLogTest() override { std::filesystem::remove_all(directory); }

  std::string path(const char* name) const { return directory / name; }
  static std::string text(const std::string& file) {
    std::ifstream stream(file);
    return {std::istreambuf_iterator<char>(stream), {}};
  }
  static bool await(const std::function<bool()>& condition) {
    const auto until = Clock::now() + 20s;
    while (!condition()) {
      if (Clock::now() > until) return false;
      std::this_thread::sleep_for(1ms);
    }
    return true;
  }
  static bool await_lines(const std::string& file, std::ptrdiff_t lines) {
    return await([&] { return std::ranges::count(text(file), '\n') == lines; });
  }

  std::filesystem::path directory;
};

TEST(AccessLine, IsOneJsonObjectInALine) {
  const std::string line = to_json_line(record(), 1'700'000'000'123);
  EXPECT_EQ(line,
            R"({"time":"2023-11-14T22:13:20.123Z","user":"203.0.113.9:51234","port":2222,"client":"kitchen",)"
            R"("proxy":"ssh","connection":7,"bytes_in":10,"bytes_out":20,"duration_seconds":1.235,"end":"user_reset"})"
            "\n");
}

TEST(AccessLine, LeavesOutWhatThereIsNotAndEscapesWhatPeersSay) {
  AccessRecord r = record(0);
  r.proxy = "a\"b\nc\xff";
  r.local_addr = "127.0.0.1:22";
  const std::string line = to_json_line(r, 0);
  EXPECT_EQ(std::ranges::count(line, '\n'), 1);
  const auto json = nlohmann::json::parse(line);
  EXPECT_FALSE(json.contains("connection"));
  EXPECT_EQ(json["local_addr"], "127.0.0.1:22");
  EXPECT_EQ(json["proxy"], "a\"b\nc\uFFFD");
  EXPECT_EQ(json["time"], "1970-01-01T00:00:00.000Z");
}

TEST(AccessLine, HasAWordForEachEnd) {
  std::vector<std::string_view> words;
  for (int i = 0; i <= static_cast<int>(EndReason::protocol_error); ++i) {
    words.push_back(to_string(static_cast<EndReason>(i)));
    EXPECT_NE(words.back(), "?");
  }
  std::ranges::sort(words);
  EXPECT_EQ(std::ranges::adjacent_find(words), words.end());
}

TEST_F(AccessLogTest, WithoutAFileItCostsNothingAndSaysSo) {
  AccessLog log;
  EXPECT_FALSE(log.enabled());
  EXPECT_TRUE(log.open(""));
  EXPECT_FALSE(log.enabled());
  log.add(record());
}

TEST_F(AccessLogTest, AppendsAndWritesAllThatWaitsAtItsEnd) {
  const std::string file = path("log");
  std::ofstream(file) << "earlier\n";
  {
    AccessLog log;
    ASSERT_TRUE(log.open(file));
    EXPECT_TRUE(log.enabled());
    for (std::uint64_t i = 1; i <= 5000; ++i) log.add(record(i));
  }
  std::istringstream lines(text(file));
  std::string line;
  std::getline(lines, line);
  EXPECT_EQ(line, "earlier");
  std::uint64_t count = 0;
  while (std::getline(lines, line)) EXPECT_EQ(nlohmann::json::parse(line)["connection"], ++count);
  EXPECT_EQ(count, 5000U);
}

TEST_F(AccessLogTest, AFreshFileIsNotForEverybodysEyes) {
  AccessLog log;
  ASSERT_TRUE(log.open(path("log")));
  struct stat status{};
  ASSERT_EQ(::stat(path("log").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07U, 0U);
}

TEST_F(AccessLogTest, ReopensAfterLogrotate) {
  const std::string file = path("log"), rotated = path("log.1");
  AccessLog log;
  ASSERT_TRUE(log.open(file));
  log.add(record(1));
  ASSERT_TRUE(await_lines(file, 1));
  std::filesystem::rename(file, rotated);
  log.add(record(2));
  ASSERT_TRUE(await_lines(rotated, 2));  // until it is told
  ASSERT_TRUE(log.reopen());
  log.add(record(3));
  ASSERT_TRUE(await_lines(file, 1));
  EXPECT_THAT(text(file), HasSubstr("\"connection\":3"));
  EXPECT_EQ(std::ranges::count(text(rotated), '\n'), 2);
}

TEST_F(AccessLogTest, AFileThatCantBeOpenedLeavesTheOldOneInUse) {
  AccessLog log;
  ASSERT_TRUE(log.open(path("log")));
  const auto failed = log.open(path("no/such/directory"));
  ASSERT_FALSE(failed);
  EXPECT_THAT(failed.error().message, HasSubstr("log.access: can't write to"));
  EXPECT_EQ(log.path(), path("log"));
  log.add(record());
  EXPECT_TRUE(await_lines(path("log"), 1));
}

TEST_F(AccessLogTest, AFullDiskCostsLinesAndNothingElse) {
  AccessLog log;
  ASSERT_TRUE(log.open("/dev/full"));  // every write fails with ENOSPC
  for (std::uint64_t i = 1; i <= 100; ++i) log.add(record(i));
  EXPECT_TRUE(await([&] { return log.dropped() == 100; })) << log.dropped();
  ASSERT_TRUE(log.open(path("log")));  // room again
  log.add(record());
  EXPECT_TRUE(await_lines(path("log"), 1));
}

TEST_F(AccessLogTest, AReaderThatStopsNeverHoldsUpWhoAdds) {
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  const int reader = ::open(path("pipe").c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  ASSERT_GE(reader, 0);
  const auto begun = Clock::now();
  std::uint64_t dropped = 0;
  {
    AccessLog log;
    ASSERT_TRUE(log.open(path("pipe")));
    AccessRecord r = record();
    const std::string name(1000, 'n');
    r.proxy = name;
    for (int i = 0; i < 12'000; ++i) log.add(r);  // 14 MB: more than may wait
    EXPECT_TRUE(await([&] { return log.dropped() > 0; }));
    dropped = log.dropped();
    // Read again, it goes on.
    std::size_t seen = 0;
    EXPECT_TRUE(await([&] {
      char buffer[65536];
      const ssize_t n = ::read(reader, buffer, sizeof buffer);
      if (n > 0) seen += static_cast<std::size_t>(n);
      return seen > 1 << 20;
    }));
  }  // ... and the end does not wait for ever for a reader that stopped again
  EXPECT_LT(Clock::now() - begun, 30s);
  EXPECT_LT(dropped, 12'000U);
  ::close(reader);
}

TEST_F(AccessLogTest, AFifoWithoutAReaderIsAnErrorRatherThanAHang) {
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  AccessLog log;
  const auto opened = log.open(path("pipe"));
  ASSERT_FALSE(opened);
  EXPECT_THAT(opened.error().message, HasSubstr("nobody reads"));
}

TEST_F(AccessLogTest, ManyThreadsAddWholeLines) {
  {
    AccessLog log;
    ASSERT_TRUE(log.open(path("log")));
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&log] {
        for (std::uint64_t i = 1; i <= 1000; ++i) log.add(record(i));
      });
    }
  }
  std::istringstream lines(text(path("log")));
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) EXPECT_TRUE(nlohmann::json::accept(line)) << line;
  EXPECT_EQ(count, 4000);
}

}  // namespace
}  // namespace qtrp::stats
