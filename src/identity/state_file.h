// Small secret files of the state directory: read whole, and made once, atomically, never over another process's.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "qtrp/base/error.h"

namespace qtrp::identity {

/// The file's content; nothing if there is no such file; an error if it cannot be read or is longer than `limit` bytes.
Result<std::optional<std::string>> read_file(const std::filesystem::path& path, std::size_t limit);

/// Makes `path` with mode 0600 and this content: a temporary file, fsync, rename. False if a file of that name was
/// there already (it stays as it is).
Result<bool> create_file(const std::filesystem::path& path, std::string_view content);

/// The directory exists afterwards; made with mode 0700 if it was not there.
Result<void> make_directory(const std::filesystem::path& directory);

}  // namespace qtrp::identity
