// A daemon as a systemd service: its executable, unit, drop-ins and configuration into their places, and out again.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "qtrp/base/error.h"

namespace qtrp::setup {

enum class Role { server, client };

struct ServiceRequest {
  Role role = Role::server;
  std::filesystem::path root = "/";   ///< other than /: files only, below it; no account is made, systemd not called
  bool dry_run = false;               ///< say what would be done, do nothing
  bool start = true;                  ///< enable and start; false: leave that to the user
  bool force = false;                 ///< replace a configuration that is there and differs
  std::vector<std::string> drop_ins;  ///< "brutal", "low-ports"
  /// The configuration's text; nothing: what stands at its place already is used.
  std::optional<std::string> config;
  std::filesystem::path config_from;  ///< the file the text is from; empty: none
  /// Files that the configuration names relative to itself (certificate, key), copied along from beside config_from.
  std::vector<std::filesystem::path> companions;
  /// Every mistake of the configuration that the file has, one a line; empty: none.
  std::function<std::string(const std::filesystem::path& file)> check;
};

/// Each step is printed by `say` as it is done (or would be).
using Say = std::function<void(const std::string&)>;

Result<void> install_service(const ServiceRequest& request, const Say& say);
/// Stops and removes the service. Configuration and state stay unless `purge`.
Result<void> uninstall_service(const ServiceRequest& request, bool purge, const Say& say);

/// The unit and its drop-ins, as they stand in config/. The drop-in's text is empty for a name that is none of the
/// role's.
std::string unit_text(Role role);
std::string drop_in_text(Role role, const std::string& name);

}  // namespace qtrp::setup
