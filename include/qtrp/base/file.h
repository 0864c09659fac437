// Descriptors and whole files, for rooms that have no event loop.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "qtrp/base/error.h"

namespace qtrp {

/// Owner of a descriptor within one scope.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor();
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

/// The file's content; nothing if there is no such file; an error (kind config) if it is longer than `limit` bytes.
/// What was read may be secret: no copy of it stays behind on the stack.
Result<std::optional<std::string>> read_file(const std::filesystem::path& path, std::size_t limit);

/// All of `content`, then fsync(2). `name` is what an error calls the file.
Result<void> write_and_sync(int fd, std::string_view content, const std::string& name);

}  // namespace qtrp
