// Small secret files of the state directory: made once, atomically, never over another process's. base has reading.
#pragma once

#include <filesystem>
#include <string_view>

#include "qtrp/base/error.h"

namespace qtrp::identity {

/// Makes `path` with mode 0600 and this content: a temporary file, fsync, rename. False if a file of that name was
/// there already (it stays as it is).
Result<bool> create_file(const std::filesystem::path& path, std::string_view content);

/// The directory exists afterwards; made with mode 0700 if it was not there.
Result<void> make_directory(const std::filesystem::path& directory);

}  // namespace qtrp::identity
