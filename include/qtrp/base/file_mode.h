// Who besides the owner can read a file that holds a secret.
#pragma once

#include <sys/types.h>

#include <filesystem>

namespace qtrp {

enum class Exposure {
  none,       ///< the owner alone, or a group on purpose
  group,      ///< other users that are in the file's group
  everybody,  ///< every user of this machine
};
struct FileMode {
  Exposure exposure = Exposure::none;
  mode_t mode = 0;  ///< permission bits
};

/// By the file's permission bits. A group is on purpose if this process is not the owner and reads the file as a member
/// of that group, or if its name is qtrp (the group of the system service: root's file, mode 0640). A file that cannot
/// be looked at exposes nothing.
FileMode file_mode(const std::filesystem::path& file);

}  // namespace qtrp
