// What a visitor's request is answered with: a file of the masquerade directory, the stats, or 404.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <optional>
#include <string>
#include <utility>

#include "http3.h"
#include "qtrp/io/socket.h"

namespace qtrp::quic {
namespace {

constexpr off_t kMaxFile = 16 << 20;

Answer text_answer(int status, std::string_view title) {
  return {status, "text/html; charset=utf-8",
          fmt::format("<html><head><title>{0}</title></head><body><h1>{0}</h1></body></html>\n", title)};
}
Answer not_found() {
  return text_answer(404, "404 Not Found");
}

std::string_view type_of(std::string_view path) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 16> kTypes{
      {{".html", "text/html; charset=utf-8"},
       {".htm", "text/html; charset=utf-8"},
       {".css", "text/css"},
       {".js", "text/javascript"},
       {".json", "application/json"},
       {".txt", "text/plain; charset=utf-8"},
       {".xml", "application/xml"},
       {".svg", "image/svg+xml"},
       {".png", "image/png"},
       {".jpg", "image/jpeg"},
       {".jpeg", "image/jpeg"},
       {".gif", "image/gif"},
       {".webp", "image/webp"},
       {".ico", "image/x-icon"},
       {".woff2", "font/woff2"},
       {".pdf", "application/pdf"}}};
  for (auto [suffix, type] : kTypes)
    if (path.ends_with(suffix)) return type;
  return "application/octet-stream";
}

int hex(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

/// The request target's path without query, %-escapes undone; nothing if it names something hidden or upwards.
std::optional<std::string> clean_path(std::string_view target) {
  target = target.substr(0, target.find_first_of("?#"));
  if (target.empty() || target[0] != '/') return {};
  std::string path;
  for (std::size_t i = 0; i < target.size(); ++i) {
    char c = target[i];
    if (c == '%') {
      if (i + 2 >= target.size() || hex(target[i + 1]) < 0 || hex(target[i + 2]) < 0) return {};
      c = static_cast<char>(hex(target[i + 1]) * 16 + hex(target[i + 2]));
      i += 2;
    }
    if (static_cast<unsigned char>(c) < 0x20 || c == '\\') return {};
    path += c;
  }
  if (path.find("/.") != std::string::npos) return {};
  return path;
}

/// openat2 with RESOLVE_BENEATH: neither ".." nor a link leads out of the directory.
io::Fd open_beneath(const std::filesystem::path& directory, const std::string& path) {
  io::Fd root(::open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!root) return {};
  open_how how{};
  how.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  return io::Fd(static_cast<int>(::syscall(SYS_openat2, root.get(), path.c_str(), &how, sizeof how)));
}

std::optional<std::string> read_file(const std::filesystem::path& directory, const std::string& path) {
  io::Fd file = open_beneath(directory, path);
  struct stat info{};
  if (!file || ::fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode) || info.st_size > kMaxFile) return {};
  std::string content(static_cast<std::size_t>(info.st_size), '\0');
  std::size_t done = 0;
  while (done < content.size()) {
    ssize_t n = ::read(file.get(), content.data() + done, content.size() - done);
    if (n <= 0) break;
    done += static_cast<std::size_t>(n);
  }
  content.resize(done);
  return content;
}

}  // namespace

Answer answer(const Site& site, const Request& request, const io::Endpoint& visitor) {
  if (request.method != "GET" && request.method != "HEAD") return text_answer(405, "405 Method Not Allowed");
  std::optional<std::string> path = clean_path(request.path);
  if (!path) return not_found();
  if (*path == "/stats" && site.stats) {
    static constexpr std::string_view kBearer = "Bearer ";
    std::string_view token = request.authorization;
    token = token.starts_with(kBearer) ? token.substr(kBearer.size()) : std::string_view();
    if (std::optional<std::string> json = site.stats(visitor, token))
      return {200, "application/json", std::move(*json)};
    return not_found();
  }
  if (!site.directory) return not_found();
  std::string name = path->substr(1);
  if (name.empty() || name.ends_with('/')) name += "index.html";
  std::optional<std::string> content = read_file(*site.directory, name);
  if (!content) return not_found();
  return {200, std::string(type_of(name)), std::move(*content)};
}

}  // namespace qtrp::quic
