#include "qtrp/base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <string.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace qtrp {

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

Result<std::optional<std::string>> read_file(const std::filesystem::path& path, std::size_t limit) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!file) {
    if (errno == ENOENT) return std::optional<std::string>();
    return fail_errno("opening " + path.string(), errno);
  }
  std::string content;
  std::array<char, 4096> piece;
  for (;;) {
    const ssize_t got = ::read(file.get(), piece.data(), piece.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno("reading " + path.string(), errno);
    if (got == 0) break;
    content.append(piece.data(), static_cast<std::size_t>(got));
    if (content.size() > limit) {
      return fail(ErrorKind::config,
                  fmt::format("{} is longer than {} bytes, the most that is read", path.string(), limit));
    }
  }
  ::explicit_bzero(piece.data(), piece.size());
  return std::optional<std::string>(std::move(content));
}

Result<void> write_and_sync(int fd, std::string_view content, const std::string& name) {
  while (!content.empty()) {
    const ssize_t written = ::write(fd, content.data(), content.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return fail_errno("writing " + name, errno);
    content.remove_prefix(static_cast<std::size_t>(written));
  }
  if (::fsync(fd) != 0) return fail_errno("fsync of " + name, errno);
  return {};
}

}  // namespace qtrp
