#include "reader.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <set>

#include "units.h"

namespace qtrp::config {
namespace {

std::string_view kind(const YAML::Node& node) {
  switch (node.Type()) {
    case YAML::NodeType::Map: return "a map";
    case YAML::NodeType::Sequence: return "a list";
    case YAML::NodeType::Scalar: return "a value";
    default: return "nothing";
  }
}

/// For quoting in a mistake: control characters replaced, long texts cut.
std::string printable(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 80)) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  if (text.size() > 80) out += "...";
  return out;
}

bool is_variable_name(std::string_view name) {
  if (name.empty() || name.size() > 128 || (name.front() >= '0' && name.front() <= '9')) return false;
  return std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  });
}

}  // namespace

YAML::Node Reader::parse(std::string_view yaml) {
  const YAML::Node nothing{YAML::NodeType::Undefined};
  if (yaml.size() > max_file_size) {
    mistake(fmt::format("found {} bytes, expected a configuration of at most {} bytes", yaml.size(), max_file_size));
    return nothing;
  }
  if (const auto zero = yaml.find('\0'); zero != std::string_view::npos) {
    mistake(fmt::format("found a zero byte at offset {}, expected YAML text in UTF-8", zero));
    return nothing;
  }
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(std::string(yaml));
    if (documents.empty() || documents.front().IsNull()) {
      mistake("found an empty file, expected a map of keys such as 'transport: net'");
      return nothing;
    }
    if (documents.size() > 1) {
      mistake(documents[1], "found a second YAML document ('---'), expected one document");
      return nothing;
    }
    if (!documents.front().IsMap()) {
      mistake(documents.front(),
              fmt::format("found {}, expected a map of keys such as 'transport: net'", kind(documents.front())));
      return nothing;
    }
    return documents.front();
  } catch (const YAML::DeepRecursion& error) {
    mistake(error.mark, "found values nested hundreds of levels deep, expected a map of keys");
  } catch (const YAML::ParserException& error) {
    syntax(yaml, error);
  } catch (const std::exception& error) {
    mistake(fmt::format("found text that can't be read as YAML ({}), expected a map of keys", error.what()));
  }
  return nothing;
}

void Reader::syntax(std::string_view yaml, const YAML::ParserException& error) {
  // The parser's words for the common slips send people to the wrong place; look at the line itself. Its text is not
  // quoted: it may hold a secret.
  std::string_view line = yaml;
  for (int i = 0; i < error.mark.line && !line.empty(); ++i) {
    const auto end = line.find('\n');
    line = end == std::string_view::npos ? std::string_view{} : line.substr(end + 1);
  }
  line = line.substr(0, line.find('\n'));
  const auto column = static_cast<std::size_t>(std::max(error.mark.column, 0));
  const char at = column < line.size() ? line[column] : '\0';
  if (line.substr(0, line.find_first_not_of(" \t")).find('\t') != std::string_view::npos) {
    mistake(error.mark, "found a tab in the indentation, expected spaces");
  } else if (at == '*' || at == '&' || at == '@' || at == '`' || at == '%' || at == '!') {
    mistake(error.mark, fmt::format("found a value that begins with '{}', expected quotes around such a value", at));
  } else if (const auto bracket = line.find('[');
             bracket != std::string_view::npos && line.find("]:") != std::string_view::npos) {
    mistake(error.mark, "found an IPv6 address without quotes, expected it in quotes, as in '[::1]:6000'");
  } else {
    mistake(error.mark,
            fmt::format("found a mistake in the YAML ({}), expected 'key: value' lines, each level indented alike",
                        printable(error.msg)));
  }
}

void Reader::map(const YAML::Node& node, const std::vector<Key>& keys, std::span<const Elsewhere> elsewhere) {
  std::vector<std::string_view> names;
  for (const Key& key : keys) names.push_back(key.name);
  if (!node.IsMap()) {
    found(node, fmt::format("a map with the keys {}", fmt::join(names, ", ")));
    return;
  }
  std::map<std::string, int> seen;
  for (const auto& pair : node) {
    if (full()) return;
    if (!pair.first.IsScalar()) {
      mistake(pair.first,
              fmt::format("found {} as a key, expected one of {}", kind(pair.first), fmt::join(names, ", ")));
      continue;
    }
    const std::string name = pair.first.Scalar();
    const auto key = std::ranges::find(keys, name, &Key::name);
    if (key == keys.end()) {
      if (const auto other = std::ranges::find(elsewhere, name, &Elsewhere::name); other != elsewhere.end()) {
        mistake(pair.first, fmt::format("unknown key '{}' here: {}", name, other->hint));
      } else if (const auto near = nearest(name, names);
                 !near.empty() && (!secret_ || edit_distance(name, near) <= 2)) {
        mistake(pair.first, fmt::format("unknown key '{}', did you mean '{}'?", printable(name), near));
      } else {
        // Beside secrets an unknown key may be a secret in the wrong place.
        mistake(pair.first, fmt::format("unknown key{}, expected one of {}",
                                        secret_ ? "" : fmt::format(" '{}'", printable(name)), fmt::join(names, ", ")));
      }
      continue;
    }
    if (const auto [earlier, fresh] = seen.emplace(name, pair.first.Mark().line); !fresh) {
      mistake(pair.first,
              fmt::format("found '{}' a second time, expected it once (it is in line {})", name, earlier->second + 1));
      continue;
    }
    const std::string outer_path = path_;
    const bool outer_secret = secret_;
    path_ += (path_.empty() ? "" : ".") + name;
    secret_ = key->secret;
    key->read(pair.second);
    secret_ = outer_secret;
    path_ = outer_path;
  }
}

void Reader::list(const YAML::Node& node, std::string_view expected,
                  const std::function<void(const YAML::Node&)>& item) {
  if (!node.IsSequence()) return found(node, expected);
  for (const auto& member : node) {
    if (full()) return;
    item(member);
  }
}

std::optional<std::string> Reader::text(const YAML::Node& node, std::string_view expected) {
  if (!node.IsScalar()) {
    found(node, expected);
    return std::nullopt;
  }
  auto expanded = expand(node);
  if (!expanded) return std::nullopt;
  if (secret_ && !from_environment_) holds_secret_ = true;
  if (const auto bad =
          std::ranges::find_if(*expanded, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
      bad != expanded->end()) {
    mistake(node, fmt::format("found a control character (a line break?) in '{}', expected {}", path_, expected));
    return std::nullopt;
  }
  return expanded;
}

std::optional<std::string> Reader::word(const YAML::Node& node, std::span<const std::string_view> words,
                                        std::string_view alias) {
  const std::string expected = fmt::format("one of {}", fmt::join(words, ", "));
  auto typed = text(node, expected);
  if (!typed || std::ranges::find(words, *typed) != words.end()) return typed;
  if (!alias.empty() && *typed == alias) return typed;
  const auto near = nearest(*typed, words);
  found(node, near.empty() ? expected : fmt::format("{}; did you mean '{}'?", expected, near));
  return std::nullopt;
}

std::optional<std::string> Reader::expand(const YAML::Node& node) {
  const std::string& raw = node.Scalar();
  std::string out;
  from_environment_ = false;
  for (std::size_t i = 0; i < raw.size(); ++i) {
    if (raw.compare(i, 3, "$${") == 0) {  // "$${" is a literal "${"
      out += "${";
      i += 2;
      continue;
    }
    if (raw.compare(i, 2, "${") != 0) {
      out += raw[i];
      continue;
    }
    const auto end = raw.find('}', i);
    if (end == std::string::npos || !is_variable_name(std::string_view(raw).substr(i + 2, end - i - 2))) {
      mistake(
          node,
          fmt::format(
              "found '${{' without a variable's name and '}}' in '{}', expected ${{NAME}}, or $${{ for the characters "
              "themselves",
              path_));
      return std::nullopt;
    }
    const std::string name = raw.substr(i + 2, end - i - 2);
    // The configuration is read before any other thread runs.
    const char* value = std::getenv(name.c_str());  // NOLINT(concurrency-mt-unsafe)
    if (value == nullptr) {
      mistake(
          node,
          fmt::format(
              "found ${{{}}} in '{}', but the environment has no variable {}: set it, or write $${{ for the characters "
              "themselves",
              name, path_, name));
      return std::nullopt;
    }
    out += value;
    from_environment_ = true;
    i = end;
  }
  return out;
}

void Reader::found(const YAML::Node& node, std::string_view expected) {
  std::string what{kind(node)};
  if (node.IsScalar() && !secret_)
    what = node.Scalar().empty() ? "an empty value" : fmt::format("'{}'", printable(node.Scalar()));
  if (node.IsScalar() && secret_) what = "a value (not shown, it may be a secret)";
  mistake(node, path_.empty() ? fmt::format("found {}, expected {}", what, expected)
                              : fmt::format("found {} for '{}', expected {}", what, path_, expected));
}

void Reader::mistake(const YAML::Mark& mark, std::string text) {
  add({mark.line, mark.column, std::move(text)});
}
void Reader::mistake(std::string text) {
  add({-1, -1, std::move(text)});
}

void Reader::add(Mistake mistake) {
  if (full()) return;
  const auto later = std::ranges::upper_bound(mistakes_, std::pair(mistake.line, mistake.column), {},
                                              [](const Mistake& m) { return std::pair(m.line, m.column); });
  mistakes_.insert(later, std::move(mistake));
}

std::vector<Error> Reader::take() {
  std::vector<Error> errors;
  for (Mistake& mistake : mistakes_) {
    errors.push_back({ErrorKind::config,
                      mistake.line < 0
                          ? fmt::format("{}: {}", file_, mistake.text)
                          : fmt::format("{}:{}:{}: {}", file_, mistake.line + 1, mistake.column + 1, mistake.text),
                      0});
  }
  mistakes_.clear();
  return errors;
}

std::filesystem::path Reader::resolve(std::string_view path) const {
  return (std::filesystem::path(file_).parent_path() / std::filesystem::path(path)).lexically_normal();
}

}  // namespace qtrp::config
