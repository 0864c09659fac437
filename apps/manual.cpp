// The manual page and the completion scripts, made from the descriptions that --help shows.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "command_line.h"
#include "qtrp/stats/version.h"

namespace qtrp::apps {
namespace {

std::string upper(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return text;
}

/// Text for roff: man(7) takes "\" and, at the begin of a line, "." and "'" as its own.
std::string roff(std::string_view text) {
  std::string out;
  bool begin = true;
  for (const char c : text) {
    if (begin && (c == '.' || c == '\'')) out += "\\&";
    if (c == '\\')
      out += "\\e";
    else if (c == '-')
      out += "\\-";
    else
      out += c;
    begin = c == '\n';
  }
  return out;
}

std::vector<const CLI::Option*> options_of(const CLI::App& app) {
  return app.get_options(
      [](const CLI::Option* option) { return option->nonpositional() && !option->get_group().empty(); });
}
std::vector<const CLI::App*> commands_of(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App* command) { return !command->get_name().empty(); });
}

bool takes_value(const CLI::Option& option) {
  return option.get_items_expected_max() > 0;
}

/// "-c, --config" as a list of words.
std::vector<std::string> names(const CLI::Option& option) {
  std::vector<std::string> all;
  for (const std::string& name : option.get_snames()) all.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) all.push_back("--" + name);
  return all;
}

std::string option_entries(const CLI::App& app) {
  std::string out;
  for (const CLI::Option* option : options_of(app)) {
    std::string head;
    for (const std::string& name : names(*option)) head += (head.empty() ? "\\fB" : ", \\fB") + roff(name) + "\\fR";
    if (takes_value(*option)) head += " \\fI" + roff(option->get_type_name()) + "\\fR";
    out += fmt::format(".TP\n{}\n{}", head, roff(option->get_description()));
    if (!option->get_default_str().empty()) out += fmt::format(" (default: {})", roff(option->get_default_str()));
    out += '\n';
  }
  return out;
}

std::string usage(const CLI::App& app, const std::string& name) {
  std::string out = fmt::format(".B {}\n", roff(name));
  if (!options_of(app).empty()) out += "[\\fIOPTIONS\\fR]\n";
  for (const CLI::Option* option : app.get_options([](const CLI::Option* o) { return o->get_positional(); }))
    out += fmt::format("\\fI{}\\fR\n", roff(option->get_type_name()));
  return out;
}

/// A word of a shell in single quotes.
std::string shell_word(std::string_view text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

std::string words_of(const CLI::App& app) {
  std::string out;
  for (const CLI::Option* option : options_of(app))
    for (const std::string& name : names(*option)) out += name + " ";
  for (const CLI::App* command : commands_of(app)) out += command->get_name() + " ";
  if (app.get_name() == "completion") out += "bash zsh ";
  if (!out.empty()) out.pop_back();
  return out;
}

bool is_path(const CLI::Option& option) {
  return option.get_type_name() == "FILE" || option.get_type_name() == "DIR";
}

std::string bash_script(const CLI::App& app, const std::string& name) {
  const std::string function = "_" + [&] {
    std::string id = name;
    std::ranges::replace(id, '-', '_');
    return id;
  }();
  std::string files, others, commands;
  const auto sort = [&](const CLI::App& part) {
    for (const CLI::Option* option : options_of(part)) {
      if (!takes_value(*option)) continue;
      std::string& list = is_path(*option) ? files : others;
      for (const std::string& word : names(*option))
        if (("|" + list + "|").find("|" + word + "|") == std::string::npos) list += (list.empty() ? "" : "|") + word;
    }
  };
  sort(app);
  std::string cases;
  for (const CLI::App* command : commands_of(app)) {
    sort(*command);
    commands += (commands.empty() ? "" : "|") + command->get_name();
    cases += fmt::format("    {}) words={} ;;\n", command->get_name(), shell_word(words_of(*command)));
  }
  std::string out =
      fmt::format("# Completion of {} for bash, made by: {} completion bash\n{}() {{\n", name, name, function);
  out += "  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} command= word words\n";
  out += fmt::format("  case $previous in\n    {}) COMPREPLY=($(compgen -f -- \"$current\")); return ;;\n", files);
  if (!others.empty()) out += fmt::format("    {}) return ;;\n", others);
  out += "  esac\n";
  out += fmt::format(
      "  for word in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do\n    case $word in {}) command=$word; break ;; esac\n  "
      "done\n",
      commands);
  out += fmt::format("  case $command in\n{}    *) words={} ;;\n  esac\n", cases, shell_word(words_of(app)));
  out += fmt::format("  COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n}}\ncomplete -o filenames -F {} {}\n",
                     function, name);
  return out;
}

/// One line of zsh's _arguments for each name of an option.
std::string zsh_arguments(const CLI::App& app, std::string_view indent) {
  std::string out;
  const auto text = [](std::string description) {
    for (const std::string_view special : {"[", "]", ":"}) {
      for (std::size_t at = 0; (at = description.find(special, at)) != std::string::npos; at += 2)
        description.insert(at, 1, '\\');
    }
    return description;
  };
  for (const CLI::Option* option : options_of(app)) {
    for (const std::string& name : names(*option)) {
      const std::string value =
          takes_value(*option) ? fmt::format(":{}:{}", option->get_type_name(), is_path(*option) ? "_files" : " ") : "";
      out += fmt::format("{}{} \\\n", indent,
                         shell_word(fmt::format("*{}[{}]{}", name, text(option->get_description()), value)));
    }
  }
  return out;
}

std::string zsh_script(const CLI::App& app, const std::string& name) {
  std::string out = fmt::format("#compdef {0}\n# Completion of {0} for zsh, made by: {0} completion zsh\n", name);
  out += "local -a commands\nlocal context state state_descr line\ntypeset -A opt_args\ncommands=(\n";
  std::string cases;
  for (const CLI::App* command : commands_of(app)) {
    std::string description = command->get_description();
    std::ranges::replace(description, ':', ',');
    out += fmt::format("  {}\n", shell_word(fmt::format("{}:{}", command->get_name(), description)));
    cases += fmt::format("      {})\n        _arguments \\\n{}          {}\n        ;;\n", command->get_name(),
                         zsh_arguments(*command, "          "),
                         command->get_name() == "completion" ? "'1:shell:(bash zsh)'" : "'*: :'");
  }
  out += fmt::format(")\n_arguments -C \\\n{}  '1: :->command' '*::argument:->argument'\n", zsh_arguments(app, "  "));
  out += "case $state in\n  command) _describe command commands ;;\n  argument)\n    case $line[1] in\n" + cases +
         "    esac\n    ;;\nesac\n";
  return out;
}

}  // namespace

std::string manual_page(const CLI::App& app, const Program& program) {
  // No date: the page depends on nothing but the source.
  std::string out = fmt::format(".TH {} 1 \"\" \"QTRP {}\" \"QTRP\"\n.SH NAME\n{} \\- {}\n", upper(program.name),
                                roff(version()), roff(program.name), roff(program.purpose));
  out += ".SH SYNOPSIS\n" + usage(app, program.name);
  for (const CLI::App* command : commands_of(app))
    out += ".br\n" + usage(*command, program.name + " " + command->get_name());
  out += ".SH OPTIONS\n" + option_entries(app);
  out += ".SH COMMANDS\n";
  for (const CLI::App* command : commands_of(app)) {
    out += fmt::format(".SS {}\n{}\n", roff(command->get_name()), roff(command->get_description()));
    out += option_entries(*command);
  }
  for (const Section& section : program.sections)
    out += fmt::format(".SH {}\n.nf\n{}\n.fi\n", upper(section.title), roff(section.text));
  return out;
}

std::string completion_script(const CLI::App& app, const Program& program, const std::string& shell) {
  if (shell == "bash") return bash_script(app, program.name);
  return shell == "zsh" ? zsh_script(app, program.name) : "";
}

}  // namespace qtrp::apps
