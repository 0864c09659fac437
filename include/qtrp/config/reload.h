// Reading the configuration of a running daemon anew: where from, who asks for it (SIGHUP, or `reload` through the
// control socket), and what only a restart can change. A file with a mistake changes nothing.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "qtrp/base/control_socket.h"
#include "qtrp/base/signals.h"
#include "qtrp/config/config.h"

namespace qtrp::config {

/// How a daemon gets at its configuration again.
template <typename Config>
struct Source {
  std::filesystem::path file;                       ///< empty: it did not come from a file, nothing is reloaded
  std::function<Loaded<Config>()> load{};           ///< with the file, or every mistake in it
  std::function<void(const Log&)> set_log_level{};  ///< obeys the command line's -v and -q
};

/// Puts into `wanted` what `running` has for the settings that need a restart, and names those that differed
/// ("transport", "workers", ...).
std::vector<std::string> keep_fixed(const ServerConfig& running, ServerConfig& wanted);
std::vector<std::string> keep_fixed(const ClientConfig& running, ClientConfig& wanted);

/// How a reload ended; the first line of the control socket's answer. Further lines say why, or what to note.
inline constexpr std::string_view reload_done = "done", reload_mistakes = "mistakes", reload_failed = "failed";

/// A daemon's part of it, on its control thread. Instantiated for ServerConfig and ClientConfig.
template <typename Config>
class Reloader {
 public:
  /// Makes `wanted` the running configuration, or changes nothing and says why.
  using Apply = std::function<Result<void>(const Config& wanted)>;

  Reloader(Source<Config> source, Config running, Apply apply)
      : source_(std::move(source)), running_(std::move(running)), apply_(std::move(apply)) {}

  /// Lets `signals` wait for the control socket of this file as well; without a directory, or where it can't be made,
  /// only SIGHUP is left.
  void listen(Signals& signals, std::string_view role, const std::optional<std::filesystem::path>& directory);
  /// Acts on what Signals::wait() gave; false if it is not about reloading. Without a file SIGHUP is not either: it
  /// ends the daemon, as it ends other programs whose terminal is closed.
  bool handle(int what);
  /// Loads, checks and applies. Logs what came of it, and gives the same as text (see reload_done).
  std::string reload();
  const Config& running() const { return running_; }

 private:
  Source<Config> source_;
  Config running_;
  Apply apply_;
  std::unique_ptr<ControlSocket> socket_;
};

}  // namespace qtrp::config
