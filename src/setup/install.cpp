#include "qtrp/setup/install.h"

#include <fmt/format.h>
#include <grp.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "setup/files.h"

extern char** environ;

namespace qtrp::setup {
namespace {

namespace fs = std::filesystem;

constexpr const char* group_name = "qtrp";
constexpr gid_t any_group = static_cast<gid_t>(-1);

std::string role_name(Role role) {
  return role == Role::server ? "server" : "client";
}

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
    text.replace(at, from.size(), to);
  return text;
}

/// Runs a program and waits for it; its output goes where ours goes.
Result<void> run(const std::vector<std::string>& command) {
  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  pid_t child = 0;
  if (const int code = ::posix_spawnp(&child, arguments[0], nullptr, nullptr, arguments.data(), environ); code != 0)
    return fail_errno("starting " + command[0], code);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0)
    if (errno != EINTR) return fail_errno("waiting for " + command[0], errno);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  return fail(ErrorKind::system, fmt::format("'{}' failed, see above", fmt::join(command, " ")));
}

class Service {
 public:
  Service(const ServiceRequest& request, const Say& say)
      : request_(request),
        say_(say),
        here_(request.root == "/"),
        program_("qtrp-" + role_name(request.role)),
        unit_(program_ + ".service") {}

  Result<void> install() {
    if (auto able = check_machine(); !able) return able;
    for (const std::string& name : request_.drop_ins)
      if (drop_in_text(request_.role, name).empty())
        return fail(ErrorKind::config, fmt::format("{} has no drop-in '{}'", program_, name));
    if (auto done = config_may_be_written(); !done) return done;
    if (auto done = find_group(); !done) return done;
    if (auto done = place_config(); !done) return done;
    if (auto done = place_executable(); !done) return done;
    if (auto done = place_unit(); !done) return done;
    if (!request_.start) return systemctl({{"daemon-reload"}});
    return systemctl({{"daemon-reload"}, {"enable", unit_}, {"restart", unit_}});
  }

  Result<void> uninstall(bool purge) {
    if (auto able = check_machine(); !able) return able;
    const fs::path own = at("/etc/systemd/system") / unit_;
    std::error_code error;
    const bool packaged = fs::exists(packaged_unit(), error);
    if (!packaged && !fs::exists(own, error) && !purge)
      return fail(ErrorKind::config, fmt::format("there is no {} to uninstall", own.string()));
    if (packaged || fs::exists(own, error))
      if (auto done = systemctl({{"disable", "--now", unit_}}); !done) return done;
    if (auto done = remove(own); !done) return done;
    const fs::path drop_ins = at("/etc/systemd/system") / (unit_ + ".d");
    for (const char* name : {"brutal", "low-ports"})
      if (auto done = remove(drop_ins / (std::string(name) + ".conf")); !done) return done;
    if (fs::is_directory(drop_ins, error) && fs::is_empty(drop_ins, error))
      if (auto done = remove(drop_ins); !done) return done;
    if (auto done = systemctl({{"daemon-reload"}}); !done) return done;
    const fs::path state = "/var/lib/" + program_, hidden = "/var/lib/private/" + program_;
    if (!purge) {
      say_(fmt::format("left in place: {}, {} (--purge removes them)", config_file().string(), at(state).string()));
      return {};
    }
    std::vector<fs::path> rest{config_file(), at(state), at(hidden), at("/var/log/" + program_),
                               at("/var/log/private/" + program_)};
    if (request_.role == Role::server) {
      rest.push_back(at("/etc/qtrp/server.crt"));
      rest.push_back(at("/etc/qtrp/server.key"));
    }
    for (const fs::path& path : rest)
      if (auto done = remove(path); !done) return done;
    return {};
  }

 private:
  fs::path at(const fs::path& absolute) const { return request_.root / absolute.relative_path(); }
  fs::path config_file() const { return at("/etc/qtrp/" + role_name(request_.role) + ".yaml"); }

  Result<void> check_machine() const {
    if (!here_ || request_.dry_run) return {};
    struct stat status{};
    // sd_booted(3).
    if (::lstat("/run/systemd/system", &status) != 0) {
      return fail(
          ErrorKind::config,
          fmt::format("systemd does not run this machine (there is no /run/systemd/system), so nothing was "
                      "changed: let your init system start '{} -c FILE', or write the files alone with --root DIR",
                      program_));
    }
    if (::geteuid() != 0)
      return fail(ErrorKind::config,
                  fmt::format("a system service is root's to install: sudo {} install ...", program_));
    return {};
  }

  /// The unit that a package has brought along, if it starts an executable that the package has as well.
  fs::path packaged_unit() const {
    std::error_code error;
    for (const char* directory : {"/usr/lib/systemd/system", "/lib/systemd/system"}) {
      fs::path unit = at(directory) / unit_;
      if (fs::exists(unit, error) && fs::exists(at("/usr/bin") / program_, error)) return unit;
    }
    return {};
  }

  Result<void> step(const std::string& what, const std::function<Result<void>()>& work) {
    say_((request_.dry_run ? "would " : "") + what);
    return request_.dry_run ? Result<void>() : work();
  }

  Result<void> put(const fs::path& file, std::string_view content, mode_t mode, gid_t group) {
    if (auto there = read_whole(file); there && *there && **there == content) {
      struct stat status{};
      if (::stat(file.c_str(), &status) == 0 && (status.st_mode & 07777U) == mode &&
          (group == any_group || status.st_gid == group))
        return {};
    }
    return step(fmt::format("write {} (mode {:04o})", file.string(), mode), [&]() -> Result<void> {
      if (auto made = make_directories(file.parent_path()); !made) return made;
      return write_whole(file, content, mode, group);
    });
  }

  Result<void> remove(const fs::path& path) {
    std::error_code error;
    if (!fs::exists(fs::symlink_status(path, error))) return {};
    return step("remove " + path.string(), [&]() -> Result<void> {
      fs::remove_all(path, error);
      if (error) return fail_errno("removing " + path.string(), error.value());
      return {};
    });
  }

  /// Says what systemctl would do for another root; does it here.
  Result<void> systemctl(const std::vector<std::vector<std::string>>& commands) {
    for (std::vector<std::string> command : commands) {
      command.insert(command.begin(), "systemctl");
      const std::string line = fmt::format("{}", fmt::join(command, " "));
      const bool starts = command[1] == "restart";
      if (!here_) {
        say_("left to the machine that has this root: " + line);
      } else if (auto done = step("run: " + line, [&] { return run(command); }); !done) {
        if (starts) done.error().message += fmt::format("; its log says why: journalctl -u {} -n 20", program_);
        return done;
      }
    }
    return {};
  }

  /// The configuration is to be readable to the group qtrp, which the service has as a supplementary one.
  Result<void> find_group() {
    if (!here_) return {};
    const auto look = [this] {
      if (const group* found = ::getgrnam(group_name)) group_ = found->gr_gid;
      return group_ != any_group;
    };
    if (look()) return {};
    return step(fmt::format("make the system group {}", group_name), [&]() -> Result<void> {
      if (auto done = run({"groupadd", "--system", group_name}); !done) return done;
      return look() ? Result<void>() : fail(ErrorKind::system, "groupadd made no group 'qtrp'");
    });
  }

  /// Before anything is changed: a configuration that is there is the user's.
  Result<void> config_may_be_written() {
    const fs::path file = config_file();
    auto there = read_whole(file);
    if (!there) return std::unexpected(std::move(there.error()));
    if (!request_.config) {
      if (*there) return {};
      return fail(ErrorKind::config, fmt::format("there is no {}: name a configuration with -c FILE{}", file.string(),
                                                 request_.role == Role::server ? " (qtrp-server init makes one)"
                                                                               : ", or give --join and -p"));
    }
    if (*there && **there != *request_.config && !request_.force)
      return fail(ErrorKind::config,
                  fmt::format("{} is there already and differs: --force replaces it", file.string()));
    return {};
  }

  Result<void> place_config() {
    const fs::path file = config_file();
    for (const fs::path& companion : request_.companions) {
      auto content = read_whole(companion);
      if (!content) return std::unexpected(std::move(content.error()));
      if (!*content) return fail_errno("opening " + companion.string(), ENOENT);
      if (auto done = put(file.parent_path() / companion.filename(), **content, 0640, group_); !done) return done;
    }
    if (!request_.config) {
      auto there = read_whole(file);
      if (!there) return std::unexpected(std::move(there.error()));
      if (auto done = put(file, there->value_or(""), 0640, group_); !done) return done;
      return check(file);
    }
    if (request_.dry_run) return put(file, *request_.config, 0640, group_);
    // Checked where it will stand, since it may name other files relative to itself; in place once it is right.
    const fs::path candidate = file.string() + ".new";
    if (auto made = make_directories(file.parent_path()); !made) return made;
    if (auto written = write_whole(candidate, *request_.config, 0600, any_group); !written) return written;
    auto right = check(candidate);
    ::unlink(candidate.c_str());
    if (!right) return right;
    return put(file, *request_.config, 0640, group_);
  }

  Result<void> check(const fs::path& file) const {
    if (request_.dry_run) return {};
    std::string mistakes = request_.check(file);
    if (mistakes.empty()) return {};
    if (!request_.config_from.empty())
      mistakes += fmt::format("\nfiles that the configuration names relative to itself belong into {} as well",
                              file.parent_path().string());
    return fail(ErrorKind::config, std::move(mistakes));
  }

  /// Where the executable runs from: as it is if that is a system directory, else a copy in /usr/local/bin (the unit's
  /// ProtectHome hides the homes).
  Result<void> place_executable() {
    std::error_code error;
    const fs::path self = fs::read_symlink("/proc/self/exe", error);
    if (error) return fail_errno("reading /proc/self/exe", error.value());
    if (!packaged_unit().empty()) {
      executable_ = "/usr/bin/" + program_;
      return {};
    }
    if (here_) {
      for (const char* directory : {"/usr/bin/", "/usr/sbin/", "/usr/local/bin/", "/usr/local/sbin/", "/opt/"}) {
        if (self.string().starts_with(directory)) {
          executable_ = self.string();
          return {};
        }
      }
    }
    executable_ = "/usr/local/bin/" + program_;
    auto content = read_whole(self);
    if (!content) return std::unexpected(std::move(content.error()));
    if (!*content) return fail_errno("opening " + self.string(), ENOENT);
    return put(at(executable_), **content, 0755, any_group);
  }

  Result<void> place_unit() {
    if (packaged_unit().empty()) {
      const std::string text = replaced(unit_text(request_.role), "/usr/bin/" + program_, executable_);
      if (auto done = put(at("/etc/systemd/system") / unit_, text, 0644, any_group); !done) return done;
    }
    for (const std::string& name : request_.drop_ins) {
      const fs::path file = at("/etc/systemd/system") / (unit_ + ".d") / (name + ".conf");
      if (auto done = put(file, drop_in_text(request_.role, name), 0644, any_group); !done) return done;
    }
    return {};
  }

  const ServiceRequest& request_;
  const Say& say_;
  const bool here_;  ///< this very machine, not a directory
  const std::string program_, unit_;
  std::string executable_;
  gid_t group_ = any_group;
};

}  // namespace

Result<void> install_service(const ServiceRequest& request, const Say& say) {
  return Service(request, say).install();
}

Result<void> uninstall_service(const ServiceRequest& request, bool purge, const Say& say) {
  return Service(request, say).uninstall(purge);
}

}  // namespace qtrp::setup
