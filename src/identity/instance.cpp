// Where the state directory is, and the client's instance id in it.
#include <sodium.h>

#include <cstdlib>

#include "identity/state_file.h"
#include "qtrp/base/file.h"
#include "qtrp/base/log.h"
#include "qtrp/identity/identity.h"

namespace qtrp::identity {
namespace {

/// The variable's value; empty if it is not set.
std::string_view environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string_view() : std::string_view(value);
}

std::optional<InstanceId> parse_instance(std::string_view text) {
  if (text.ends_with('\n')) text.remove_suffix(1);
  InstanceId id;
  std::size_t length = 0;
  if (text.size() != 2 * id.size() || sodium_hex2bin(reinterpret_cast<unsigned char*>(id.data()), id.size(),
                                                     text.data(), text.size(), nullptr, &length, nullptr) != 0) {
    return std::nullopt;
  }
  return length == id.size() ? std::optional(id) : std::nullopt;
}

Result<InstanceId> load_or_make(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "instance";
  if (auto made = make_directory(directory); !made) return std::unexpected(std::move(made.error()));
  // Twice at most: a file that another process made in between is read in the second round.
  for (int round = 0; round < 2; ++round) {
    const auto content = read_file(path, 4096);
    if (!content) return std::unexpected(content.error());
    if (*content) {
      if (const auto id = parse_instance(**content)) return *id;
      return fail(ErrorKind::config,
                  path.string() + " is damaged: expected 32 hexadecimal digits; delete it to get a new one");
    }
    InstanceId id;
    random_bytes(id);
    const auto created = create_file(path, to_hex(id) + "\n");
    if (!created) return std::unexpected(created.error());
    if (*created) return id;
  }
  return fail(ErrorKind::system, path.string() + " comes and goes");
}

}  // namespace

std::optional<std::filesystem::path> state_directory(const std::string& configured) {
  if (!configured.empty()) return configured;
  if (const auto systemd = environment("STATE_DIRECTORY"); !systemd.empty()) {
    return std::filesystem::path(systemd.substr(0, systemd.find(':')));
  }
  // The XDG base directory specification: a relative path is to be ignored.
  if (const auto xdg = environment("XDG_STATE_HOME"); xdg.starts_with('/')) return std::filesystem::path(xdg) / "qtrp";
  if (const auto home = environment("HOME"); !home.empty()) return std::filesystem::path(home) / ".local/state/qtrp";
  return std::nullopt;
}

InstanceId keep_instance_id(const std::optional<std::filesystem::path>& directory) {
  std::string reason = "no state directory is known (set state_dir)";
  if (directory) {
    auto id = load_or_make(*directory);
    if (id) return *id;
    reason = std::move(id.error().message);
  }
  log::warn("the instance id is not kept, a new one is used until the next start: {}", reason);
  InstanceId id;
  random_bytes(id);
  return id;
}

}  // namespace qtrp::identity
