// The command line of both executables: the options that they share, commands of their own, and the pages that are made
// from the same descriptions (--help, the manual page, shell completion).
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace qtrp::apps {

inline constexpr int exit_ok = 0;
inline constexpr int exit_failure = 1;  ///< a failure at run time
inline constexpr int exit_config = 2;   ///< a mistake in the configuration or on the command line

struct Section {
  std::string title, text;  ///< the text in lines of at most 100 characters
};
struct Program {
  std::string name, purpose, default_file;
  std::vector<Section> sections;  ///< behind the options, in --help and in the manual alike
};

class CommandLine {
 public:
  explicit CommandLine(const Program& program);

  CLI::App& app() { return app_; }
  /// A command (`qtrp-server NAME ...`) that does its work instead of the daemon's and gives the exit code.
  CLI::App& command(const std::string& name, const std::string& description, std::function<int()> action);
  /// The option -c of a command, as the daemon has it.
  void add_config_option(CLI::App& to, const std::string& description);

  /// Parses, and does what is done by that alone (--help, a command): then there is an exit code.
  std::optional<int> parse(int argc, char** argv);

  const Program& program() const { return program_; }
  /// Whether -c stood anywhere on the line.
  bool file_given() const;

  std::string file;
  bool check = false, quiet = false;
  int verbose = 0;

 private:
  const Program& program_;
  CLI::App app_;
  std::map<const CLI::App*, std::function<int()>> actions_;
  std::vector<const CLI::Option*> config_options_;
};

/// A manual page in the language of man(7).
std::string manual_page(const CLI::App& app, const Program& program);
/// A completion script for bash or zsh; empty for any other shell.
std::string completion_script(const CLI::App& app, const Program& program, const std::string& shell);

/// Writes all of it to standard output. An exit code: a full disk is not a success.
int print(const std::string& text);
/// "qtrp-server: what" to standard error, and `code`.
int complain(const Program& program, const std::string& what, int code);

}  // namespace qtrp::apps
