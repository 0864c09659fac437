#include "qtrp/base/file_mode.h"

#include <grp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

namespace qtrp {
namespace {

bool is_member(gid_t group) {
  if (::getegid() == group) return true;
  const int count = ::getgroups(0, nullptr);
  if (count <= 0) return false;
  std::vector<gid_t> groups(static_cast<std::size_t>(count));
  const int got = ::getgroups(count, groups.data());
  return got > 0 && std::find(groups.begin(), groups.begin() + got, group) != groups.begin() + got;
}

bool is_services_group(gid_t id) {
  group entry{};
  group* found = nullptr;
  std::array<char, 4096> room;
  return ::getgrgid_r(id, &entry, room.data(), room.size(), &found) == 0 && found != nullptr &&
         std::string_view(found->gr_name) == "qtrp";
}

}  // namespace

FileMode file_mode(const std::filesystem::path& file) {
  struct stat status{};
  if (::stat(file.c_str(), &status) != 0) return {};
  FileMode found{Exposure::none, status.st_mode & 07777U};
  if ((status.st_mode & (S_IROTH | S_IWOTH)) != 0) {
    found.exposure = Exposure::everybody;
  } else if ((status.st_mode & (S_IRGRP | S_IWGRP)) != 0) {
    const bool by_group = (status.st_mode & S_IWGRP) == 0 && status.st_uid != ::geteuid() && is_member(status.st_gid);
    if (!by_group && !is_services_group(status.st_gid)) found.exposure = Exposure::group;
  }
  return found;
}

}  // namespace qtrp
