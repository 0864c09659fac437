// Makes the files of the state directory.
#include "identity/state_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "qtrp/base/bytes.h"
#include "qtrp/base/file.h"
#include "qtrp/identity/identity.h"

namespace qtrp::identity {
namespace {

/// Like rename(2), but an existing `to` is left alone and errno is EEXIST.
int rename_to_new(const char* from, const char* to) {
  if (::renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0) return 0;
  if (errno != EINVAL && errno != ENOSYS) return -1;
  // A file system without RENAME_NOREPLACE: a hard link refuses an existing name as well.
  if (::link(from, to) != 0) return -1;
  return ::unlink(from);
}

}  // namespace

Result<bool> create_file(const std::filesystem::path& path, std::string_view content) {
  std::array<std::byte, 8> suffix;
  random_bytes(suffix);
  const std::filesystem::path temporary =
      path.parent_path() / fmt::format(".{}.{}", path.filename().string(), to_hex(suffix));
  {
    const Descriptor file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!file) return fail_errno("making " + temporary.string(), errno);
    // The umask may have taken the owner's bits as well.
    Result<void> written;
    if (::fchmod(file.get(), 0600) != 0) written = fail_errno("chmod of " + temporary.string(), errno);
    if (written) written = write_and_sync(file.get(), content, temporary.string());
    if (!written) {
      ::unlink(temporary.c_str());
      return std::unexpected(std::move(written.error()));
    }
  }
  if (rename_to_new(temporary.c_str(), path.c_str()) != 0) {
    const int code = errno;
    ::unlink(temporary.c_str());
    if (code == EEXIST) return false;
    return fail_errno("renaming to " + path.string(), code);
  }
  const Descriptor directory(::open(path.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory) ::fsync(directory.get());  // Best effort: some file systems refuse fsync on a directory.
  return true;
}

Result<void> make_directory(const std::filesystem::path& directory) {
  std::error_code error;
  if (std::filesystem::is_directory(directory, error)) return {};
  if (directory.has_parent_path()) {
    std::filesystem::create_directories(directory.parent_path(), error);
    if (error) return fail_errno("making " + directory.parent_path().string(), error.value());
  }
  if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST)
    return fail_errno("making " + directory.string(), errno);
  if (!std::filesystem::is_directory(directory, error)) return fail_errno(directory.string(), ENOTDIR);
  return {};
}

}  // namespace qtrp::identity
