// Reads a YAML tree against a table of keys and collects every mistake with its place. Knows yaml-cpp, ${NAME} and
// which values are secret (their text never enters a mistake); what the keys mean is load.cpp's.
#pragma once

#include <yaml-cpp/depthguard.h>
#include <yaml-cpp/yaml.h>

#include <concepts>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "qtrp/config/config.h"

namespace qtrp::config {

inline constexpr std::size_t max_mistakes = 20;
inline constexpr std::size_t max_file_size = 1u << 20;  ///< bytes

class Reader {
 public:
  /// `file_name` stands before each mistake; relative paths in the file start at its directory.
  explicit Reader(std::string_view file_name) : file_(file_name) {}

  struct Key {
    std::string_view name;
    std::function<void(const YAML::Node&)> read;
    bool secret = false;  ///< the value's text is never shown
  };
  /// A key that another kind of file or another place has, and what to say to those who put it here.
  struct Elsewhere {
    std::string_view name, hint;
  };

  /// The root of the one document in `yaml`, or an undefined node after a mistake.
  YAML::Node parse(std::string_view yaml);
  /// Hands the value of each key to its table entry, in the file's order. Unknown keys and duplicates are mistakes.
  void map(const YAML::Node& node, const std::vector<Key>& keys, std::span<const Elsewhere> elsewhere = {});
  /// Calls `item` for each member of a list.
  void list(const YAML::Node& node, std::string_view expected, const std::function<void(const YAML::Node&)>& item);
  /// The text of a scalar, ${NAME} replaced; nothing after a mistake.
  std::optional<std::string> text(const YAML::Node& node, std::string_view expected);
  /// A scalar in a notation of its own: `notation` gives an optional of what `out` takes.
  template <typename T, typename Parse>
    requires std::invocable<Parse, std::string_view>
  bool value(const YAML::Node& node, std::string_view expected, T& out, Parse notation) {
    const auto scalar = text(node, expected);
    if (!scalar) return false;
    const auto parsed = notation(std::string_view(*scalar));
    if (!parsed) {
      found(node, expected);
      return false;
    }
    out = static_cast<T>(*parsed);
    return true;
  }
  /// A scalar out of a list of words, with a suggestion for a misspelt one. An `alias` is taken as well, but not
  /// advertised.
  std::optional<std::string> word(const YAML::Node& node, std::span<const std::string_view> words,
                                  std::string_view alias = {});

  /// "found '<value>' for '<key>', expected <expected>".
  void found(const YAML::Node& node, std::string_view expected);
  void mistake(const YAML::Node& node, std::string text) { mistake(node.Mark(), std::move(text)); }
  void mistake(const YAML::Mark& mark, std::string text);
  /// A mistake of the file as a whole.
  void mistake(std::string text);
  bool full() const { return mistakes_.size() >= max_mistakes; }
  std::size_t count() const { return mistakes_.size(); }
  bool failed() const { return !mistakes_.empty(); }
  std::vector<Error> take();  ///< in the file's order

  std::filesystem::path resolve(std::string_view path) const;
  const std::string& file() const { return file_; }
  /// A secret stands in the file itself (not in the environment or another file).
  bool holds_secret() const { return holds_secret_; }

 private:
  struct Mistake {
    int line = -1, column = -1;  ///< from 0; -1: the whole file
    std::string text;
  };
  std::optional<std::string> expand(const YAML::Node& node);  ///< ${NAME} replaced
  void add(Mistake mistake);
  void syntax(std::string_view yaml, const YAML::ParserException& error);

  std::string file_;
  std::vector<Mistake> mistakes_;  ///< in the file's order
  std::string path_;               ///< of the key being read: "brutal.target_mbps"
  bool secret_ = false;
  bool holds_secret_ = false;
  bool from_environment_ = false;  ///< the last expand() took something from there
};

}  // namespace qtrp::config
