#include "setup/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <limits>

#include "qtrp/base/file.h"
#include "qtrp/identity/identity.h"

namespace qtrp::setup {
namespace {

Result<void> fill(int fd, std::string_view content, mode_t mode, gid_t group, const std::string& name) {
  // The group before the mode: chown(2) may clear bits of it.
  if (group != static_cast<gid_t>(-1) && ::fchown(fd, static_cast<uid_t>(-1), group) != 0)
    return fail_errno("giving the group to " + name, errno);
  if (::fchmod(fd, mode) != 0) return fail_errno("chmod of " + name, errno);
  return write_and_sync(fd, content, name);
}

}  // namespace

Result<std::optional<std::string>> read_whole(const std::filesystem::path& file) {
  return read_file(file, std::numeric_limits<std::size_t>::max());
}

Result<void> write_whole(const std::filesystem::path& file, std::string_view content, mode_t mode, gid_t group) {
  std::array<std::byte, 8> suffix;
  identity::random_bytes(suffix);
  const std::filesystem::path temporary =
      file.parent_path() / fmt::format(".{}.{}", file.filename().string(), identity::to_hex(suffix));
  {
    const Descriptor to(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!to) return fail_errno("making " + file.string(), errno);
    if (auto filled = fill(to.get(), content, mode, group, file.string()); !filled) {
      ::unlink(temporary.c_str());
      return filled;
    }
  }
  if (::rename(temporary.c_str(), file.c_str()) != 0) {
    const int code = errno;
    ::unlink(temporary.c_str());
    return fail_errno("making " + file.string(), code);
  }
  return {};
}

Result<void> make_directories(const std::filesystem::path& directory) {
  std::error_code error;
  if (directory.empty() || std::filesystem::is_directory(directory, error)) return {};
  if (auto made = make_directories(directory.parent_path()); !made) return made;
  if (::mkdir(directory.c_str(), 0755) == 0) {
    if (::chmod(directory.c_str(), 0755) == 0) return {};  // whatever the umask is
    return fail_errno("chmod of " + directory.string(), errno);
  }
  if (errno != EEXIST) return fail_errno("making the directory " + directory.string(), errno);
  if (!std::filesystem::is_directory(directory, error)) return fail_errno(directory.string(), ENOTDIR);
  return {};
}

}  // namespace qtrp::setup
