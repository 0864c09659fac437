// Files of the set-up: read whole, and written atomically with the mode and group they are to have.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "qtrp/base/error.h"

namespace qtrp::setup {

/// The file's content; nothing if there is no such file.
Result<std::optional<std::string>> read_whole(const std::filesystem::path& file);

/// Replaces or makes the file: a temporary one beside it, its mode and group, fsync, rename. `group` -1: as it comes.
Result<void> write_whole(const std::filesystem::path& file, std::string_view content, mode_t mode, gid_t group);

/// The directory and its parents exist afterwards, those that were not there with mode 0755.
Result<void> make_directories(const std::filesystem::path& directory);

}  // namespace qtrp::setup
