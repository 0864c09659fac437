#include "command_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "qtrp/stats/version.h"

namespace qtrp::apps {

CommandLine::CommandLine(const Program& program)
    : file(program.default_file), program_(program), app_(program.name + " " + program.purpose + ".", program.name) {
  std::string footer;
  for (const Section& section : program.sections) {
    footer += fmt::format("{}{}:\n", footer.empty() ? "" : "\n", section.title);
    std::size_t from = 0;
    while (from < section.text.size()) {
      const std::size_t end = std::min(section.text.find('\n', from), section.text.size());
      footer += fmt::format("  {}\n", section.text.substr(from, end - from));
      from = end + 1;
    }
  }
  app_.footer(footer);
  app_.require_subcommand(0, 1);
  add_config_option(app_, "The configuration file (YAML)");
  app_.add_flag(
      "--check", check,
      "Check the configuration, print all of it that is in effect (without secrets), and exit: 0 good, 2 not");
  CLI::Option* louder = app_.add_flag("-v,--verbose", verbose, "Log more: -v debug, -vv trace; beats log.level");
  app_.add_flag("-q,--quiet", quiet, "Log warnings and errors only; beats log.level")->excludes(louder);
  app_.set_version_flag("-V,--version", fmt::format("{} {}", program.name, version()), "Print the version and exit");
}

CLI::App& CommandLine::command(const std::string& name, const std::string& description, std::function<int()> action) {
  CLI::App& made = *app_.add_subcommand(name, description);
  actions_.emplace(&made, std::move(action));
  return made;
}

void CommandLine::add_config_option(CLI::App& to, const std::string& description) {
  CLI::Option* option = to.add_option("-c,--config", file, description)->type_name("FILE");
  if (&to == &app_) option->default_str(program_.default_file);
  config_options_.push_back(option);
}

bool CommandLine::file_given() const {
  return std::ranges::any_of(config_options_, [](const CLI::Option* option) { return option->count() > 0; });
}

std::optional<int> CommandLine::parse(int argc, char** argv) {
  command("man", "Print the manual page, for man(1): " + program_.name + " man | man -l -",
          [this] { return print(manual_page(app_, program_)); });
  auto shell = std::make_shared<std::string>();
  command("completion", "Print a completion script for a shell",
          [this, shell] { return print(completion_script(app_, program_, *shell)); })
      .add_option("shell", *shell, "bash or zsh")
      ->required()
      ->type_name("SHELL")
      ->check(CLI::IsMember({"bash", "zsh"}, CLI::ignore_case).description(""));
  try {
    app_.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app_.exit(error) == 0 ? exit_ok : exit_config;
  }
  for (const CLI::App* chosen : app_.get_subcommands()) return actions_.at(chosen)();
  return std::nullopt;
}

int print(const std::string& text) {
  const bool whole = std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  return whole ? exit_ok : exit_failure;
}

int complain(const Program& program, const std::string& what, int code) {
  std::fprintf(stderr, "%s: %s\n", program.name.c_str(), what.c_str());
  return code;
}

}  // namespace qtrp::apps
