#include "qtrp/base/file_mode.h"

#include <grp.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

namespace qtrp {
namespace {

class Modes : public testing::Test {
 protected:
  Modes() {
    std::string pattern = (std::filesystem::temp_directory_path() / "qtrp-mode-XXXXXX").string();
    directory_ = ::mkdtemp(pattern.data());
    ::chmod(directory_.c_str(), 0755);
    file_ = directory_ / "secret";
    std::ofstream(file_) << "secret";
  }
  ~Modes() override { std::filesystem::remove_all(directory_); }
  Exposure with(mode_t mode) const {
    ::chmod(file_.c_str(), mode);
    const FileMode found = file_mode(file_);
    EXPECT_EQ(found.mode, mode);
    return found.exposure;
  }
  std::filesystem::path directory_, file_;
};

TEST_F(Modes, OnlyTheOwnerIsNoExposure) {
  EXPECT_EQ(with(0600), Exposure::none);
  EXPECT_EQ(with(0400), Exposure::none);
  EXPECT_EQ(with(0700), Exposure::none);
  EXPECT_EQ(file_mode(directory_ / "absent").exposure, Exposure::none);
}

TEST_F(Modes, OthersAreEverybodyAndTheGroupIsAGroup) {
  EXPECT_EQ(with(0640), Exposure::group);
  EXPECT_EQ(with(0620), Exposure::group);
  EXPECT_EQ(with(0604), Exposure::everybody);
  EXPECT_EQ(with(0602), Exposure::everybody);
  EXPECT_EQ(with(0644), Exposure::everybody);
}

TEST_F(Modes, AGroupThatThisProcessReadsThroughIsOnPurpose) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become somebody else";
  constexpr gid_t group = 12345;
  ASSERT_EQ(::chown(file_.c_str(), 0, group), 0);
  const auto as_service = [&](mode_t mode) {
    ::chmod(file_.c_str(), mode);
    const pid_t child = ::fork();
    if (child == 0) {
      const gid_t groups[] = {group};
      if (::setgroups(1, groups) != 0 || ::setgid(54321) != 0 || ::setuid(54321) != 0) ::_exit(99);
      ::_exit(static_cast<int>(file_mode(file_).exposure));
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return static_cast<Exposure>(WEXITSTATUS(status));
  };
  EXPECT_EQ(as_service(0640), Exposure::none);
  EXPECT_EQ(as_service(0660), Exposure::group);
  EXPECT_EQ(as_service(0644), Exposure::everybody);
}

}  // namespace
}  // namespace qtrp
