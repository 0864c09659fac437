// The command `reload`: checks the configuration file and asks the daemon that runs on it to read it anew.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "command_line.h"
#include "qtrp/base/control_socket.h"
#include "qtrp/config/reload.h"
#include "qtrp/identity/identity.h"

namespace qtrp::apps {

/// The command itself. Exit codes: 0 reloaded, 1 no daemon or it could not, 2 mistakes in the file.
template <typename Config>
int reload(const std::string& program, std::string_view role, const std::filesystem::path& file,
           config::Loaded<Config> (*load)(const std::filesystem::path&)) {
  using namespace std::chrono_literals;
  const auto say = [&](const std::string& text) { std::fprintf(stderr, "%s: %s\n", program.c_str(), text.c_str()); };
  const auto config = load(file);
  if (!config) {
    for (const Error& mistake : config.error()) std::fprintf(stderr, "%s\n", mistake.message.c_str());
    return exit_config;
  }
  // Where this user's daemon has its state, and where the system's has.
  std::vector<std::filesystem::path> places;
  if (const auto own = identity::state_directory(config->state_dir)) places.push_back(*own);
  if (config->state_dir.empty()) places.emplace_back(fmt::format("/var/lib/qtrp-{}", role));
  std::string looked;
  for (const auto& place : places) {
    const auto answer = ask_control_socket(place, control_socket_name(role, file), "reload", 30s);
    if (!answer && answer.error().kind == ErrorKind::timeout) {
      say(answer.error().message);
      return exit_failure;
    }
    if (!answer) {
      looked += (looked.empty() ? "" : "; ") + answer.error().message;
      continue;
    }
    const auto end = answer->find('\n');
    const std::string_view outcome = std::string_view(*answer).substr(0, end);
    const std::string rest = end == std::string::npos ? "" : answer->substr(end + 1);
    std::fputs(rest.c_str(), stderr);
    if (outcome == config::reload_done) {
      std::printf("reloaded %s\n", file.c_str());
      return exit_ok;
    }
    say("nothing was changed");
    return outcome == config::reload_mistakes ? exit_config : exit_failure;
  }
  say(fmt::format("no running {} answers for {}: is it running, with this very file, as the same user? ({})", program,
                  file.string(), looked));
  return exit_failure;
}

template <typename Config>
void add_reload_command(CommandLine& line, std::string_view role,
                        config::Loaded<Config> (*load)(const std::filesystem::path&)) {
  CLI::App& command = line.command("reload", "Have the running daemon read its file anew; says what is wrong with it",
                                   [&line, role, load] { return reload(line.program().name, role, line.file, load); });
  line.add_config_option(command, "The file that it runs on");
}

}  // namespace qtrp::apps
