// The site that visitors find: answers to requests, nothing outside its directory, and a whole HTTP/3 exchange over a
// connection.
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "simulation.h"

namespace qtrp::quic::test {
namespace {

namespace fs = std::filesystem;

struct Directory {
  Directory() {
    char name[] = "/tmp/qtrp-site-XXXXXX";
    path = ::mkdtemp(name);
    fs::create_directories(path / "site" / "sub");
    write("site/index.html", "<p>home</p>");
    write("site/sub/index.html", "<p>sub</p>");
    write("site/style.css", "p {}");
    write("site/with space.txt", "space");
    write("site/.hidden", "hidden");
    write("secret.txt", "secret");
    fs::create_symlink(path / "secret.txt", path / "site" / "link.txt");
    fs::create_symlink("style.css", path / "site" / "inner.css");
    ::mkfifo((path / "site" / "pipe").c_str(), 0600);
  }
  ~Directory() { fs::remove_all(path); }
  void write(const std::string& name, const std::string& text) { std::ofstream(path / name) << text; }
  fs::path path;
};

Answer get(const Site& site, std::string path, std::string method = "GET", std::string authorization = "") {
  return answer(site, {std::move(method), std::move(path), std::move(authorization)},
                *io::Endpoint::from_literal("192.0.2.9", 5));
}

TEST(Site, NothingIsThereByDefault) {
  Site site;
  for (const char* path : {"/", "/index.html", "/stats", "", "*", "x"}) EXPECT_EQ(get(site, path).status, 404) << path;
  EXPECT_EQ(get(site, "/", "POST").status, 405);
}

TEST(Site, FilesOfTheDirectory) {
  Directory directory;
  Site site{.directory = directory.path / "site", .stats = {}};
  EXPECT_EQ(get(site, "/").body, "<p>home</p>");
  EXPECT_EQ(get(site, "/?q=1").body, "<p>home</p>");
  EXPECT_EQ(get(site, "/sub/").body, "<p>sub</p>");
  EXPECT_EQ(get(site, "/style.css").type, "text/css");
  EXPECT_EQ(get(site, "/with%20space.txt").body, "space");
  EXPECT_EQ(get(site, "/inner.css").body, "p {}");
  EXPECT_EQ(get(site, "/", "HEAD").status, 200);
}

TEST(Site, NothingOutsideTheDirectory) {
  Directory directory;
  Site site{.directory = directory.path / "site", .stats = {}};
  for (const char* path :
       {"/../secret.txt", "/sub/../../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/link.txt", "/.hidden",
        "/%2ehidden", "/pipe", "/sub", "/missing", "//etc/passwd", "/%00", "/%zz", "/a%0a", "/\\..\\secret.txt"})
    EXPECT_EQ(get(site, path).status, 404) << path;
}

TEST(Site, StatsForWhoMaySeeThem) {
  Site site;
  site.stats = [](const io::Endpoint& visitor, std::string_view token) -> std::optional<std::string> {
    if (visitor.host() == "192.0.2.9" && token == "t") return "{}";
    return {};
  };
  EXPECT_EQ(get(site, "/stats", "GET", "Bearer t").body, "{}");
  EXPECT_EQ(get(site, "/stats", "GET", "Bearer t").type, "application/json");
  EXPECT_EQ(get(site, "/stats").status, 404);
  EXPECT_EQ(get(site, "/stats", "GET", "t").status, 404);
}

/// Gives a fixed text and its end.
class TextSource final : public session::Source {
 public:
  explicit TextSource(std::string text) : text_(std::move(text)) {}
  session::Produced produce(MutableBytes into) override {
    std::size_t n = std::min(into.size(), text_.size());
    std::memcpy(into.data(), text_.data(), n);
    text_.erase(0, n);
    return {n, text_.empty() ? session::Produced::Status::end : session::Produced::Status::more, {}};
  }

 private:
  std::string text_;
};

/// A HEADERS frame (RFC 9114, 7.2.2) with QPACK's static table only (RFC 9204): GET https://qtrp<path>.
std::string request(const std::string& path) {
  std::string fields{"\x00\x00\xd1\xd7\x50\x04qtrp\x51", 11};
  fields += static_cast<char>(path.size());
  fields += path;
  return std::string("\x01") + static_cast<char>(fields.size()) + fields;
}

struct Visit : Pair {
  Visit() : Pair({}, {}, {}, {}, false) {}
  std::string text(session::StreamId id) { return client.streams[id].text; }
};

TEST(Http3, AVisitorGetsAnAnswer) {
  Visit visit;
  ASSERT_TRUE(visit.establish());
  TextSource first(request("/")), second(request("/stats"));
  visit.site.stats = [](const io::Endpoint&, std::string_view) { return std::optional<std::string>("{\"stats\":1}"); };
  auto a = visit.client.connection->open(first, nullptr);
  auto b = visit.client.connection->open(second, nullptr);
  ASSERT_TRUE(a && b);
  ASSERT_TRUE(visit.run_until([&] { return visit.client.streams[*a].finished && visit.client.streams[*b].finished; }));
  EXPECT_EQ(visit.server.connection->kind(), Connection::Kind::visitor);
  EXPECT_FALSE(visit.server.established) << "no session for a visitor";
  EXPECT_THAT(visit.text(*a), testing::HasSubstr("404 Not Found"));
  EXPECT_THAT(visit.text(*b), testing::HasSubstr("{\"stats\":1}"));
  EXPECT_EQ(visit.text(*a)[0], '\x01');  // HEADERS
}

TEST(Http3, ALargeFileArrivesWhole) {
  Directory directory;
  std::string content(3'000'000, 'x');
  for (std::size_t i = 0; i < content.size(); i += 1000) content[i] = static_cast<char>('a' + i / 1000 % 26);
  directory.write("site/big.txt", content);
  Visit visit;
  visit.site.directory = directory.path / "site";
  ASSERT_TRUE(visit.establish());
  TextSource source(request("/big.txt"));
  auto id = visit.client.connection->open(source, nullptr);
  ASSERT_TRUE(visit.run_until([&] { return visit.client.streams[*id].finished; }));
  EXPECT_TRUE(visit.text(*id).ends_with(content));
}

TEST(Http3, NonsenseEndsTheConnection) {
  Visit visit;
  ASSERT_TRUE(visit.establish());
  TextSource source(std::string("\x04\x00", 2));  // SETTINGS on a request stream
  ASSERT_TRUE(visit.client.connection->open(source, nullptr));
  ASSERT_TRUE(visit.run_until([&] { return visit.client.closed.has_value(); }));
}

TEST(Http3, TunnelsAndVisitorsAreGreetedAlike) {
  Pair tunnel;
  Visit visit;
  ASSERT_TRUE(tunnel.establish());
  ASSERT_TRUE(visit.establish());
  tunnel.run_for(200ms);
  visit.run_for(200ms);
  EXPECT_GT(tunnel.to_client, 0u);
  EXPECT_EQ(tunnel.to_client, visit.to_client);  // the same datagrams until the first byte of stream 0
}

}  // namespace
}  // namespace qtrp::quic::test
