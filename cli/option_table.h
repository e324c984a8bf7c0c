// Every option once: name, sentence, unit, range and default. Command lines, JSON request bodies, help,
// completion, man pages and the reference all read this table.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "core/error.h"

namespace quantfit::cli {

enum class ValueKind : std::uint8_t { Flag, Text, Integer, Number };

// What a shell offers for a value.
enum class Completion : std::uint8_t { None, File, Folder };

// One option, bound to the variable that takes its value. The setters return the option itself, so that a
// declaration reads as one sentence.
struct Option {
  std::string name;                  // "--target-bpw"; of a positional argument without dashes: "model"
  std::vector<std::string> aliases;  // other spellings: "-c", "-ngl", "--n-gpu-layers"
  std::string placeholder;           // "BPW"; empty for a flag
  std::string sentence;              // what it does, without its default
  std::string group;                 // the heading it stands under
  std::string unit;                  // "bytes", "tokens"; empty where the sentence says it
  std::string default_text;          // for people; empty: none
  ValueKind kind = ValueKind::Text;
  std::optional<double> least, most;  // of numbers
  std::vector<std::string> choices;   // the only values; empty: any
  std::vector<std::string> offers;    // values that a shell proposes; others are taken too
  std::vector<std::string> excludes;  // options that may not be given beside it
  Completion completion = Completion::None;
  bool positional = false;
  bool required = false;
  bool repeatable = false;       // each value is added to the ones before
  bool comma_separated = false;  // a repeatable option whose values may stand in one, with commas
  bool hidden = false;           // accepted, and left out of help

  Option& alias(std::string spelling);
  Option& range(double lowest, double highest);
  Option& one_of(std::vector<std::string> values);
  Option& offer(std::vector<std::string> values);
  Option& in(std::string unit_name);
  Option& default_is(std::string text);
  Option& not_with(std::string other);
  Option& file();
  Option& folder();
  Option& needed();
  Option& split_at_commas();
  Option& hide();
  // Looks at the whole text of one use before it is split or read.
  Option& check(std::function<Result<void>(std::string_view)> look);

  [[nodiscard]] bool is_flag() const { return kind == ValueKind::Flag; }
  // Without dashes: the key of a JSON body.
  [[nodiscard]] std::string_view key() const;

  std::function<Result<void>(std::string_view)> assign;  // one value, checked already
  std::function<Result<void>(std::string_view)> look;
};

class OptionTable {
 public:
  OptionTable() = default;
  OptionTable(const OptionTable&) = delete;
  OptionTable& operator=(const OptionTable&) = delete;
  OptionTable(OptionTable&&) = default;
  OptionTable& operator=(OptionTable&&) = default;

  // Options added from now on stand under this heading.
  void group(std::string title, std::string sentence = {});

  // Names that start with a dash are options, others positional arguments in the order they are added.
  // `value` must outlive the table; its present content is the default.
  template <class T>
  Option& add(std::string name, T& value, std::string placeholder, std::string sentence);
  Option& flag(std::string name, bool& value, std::string sentence);

  [[nodiscard]] const std::deque<Option>& options() const { return options_; }
  struct Group {
    std::string title, sentence;
  };
  [[nodiscard]] const std::vector<Group>& groups() const { return groups_; }

  // By name or alias, '_' read as '-'; null when there is none.
  [[nodiscard]] const Option* find(std::string_view name) const;

  // Arguments as a shell passes them, the program's and the command's name left out. InvalidArgument naming
  // the option; for an unknown one with the nearest that exists.
  [[nodiscard]] Result<void> read_arguments(std::span<const std::string> arguments) const;
  // The same options as members of a JSON object: flags are booleans, repeatable ones arrays or single
  // values, everything else texts or numbers. The same errors.
  [[nodiscard]] Result<void> read_json(const nlohmann::json& body) const;
  // A JSON Schema of what read_json() takes.
  [[nodiscard]] nlohmann::ordered_json json_schema() const;

  // For a terminal of `width` columns.
  [[nodiscard]] std::string help_text(std::size_t width) const;

 private:
  Option& append(std::string name, std::string placeholder, std::string sentence);
  // Options in the order in which they were given, each with the text of one use.
  struct Use {
    const Option* option;
    std::string text;
  };
  [[nodiscard]] Result<void> take(const std::vector<Use>& uses) const;

  std::deque<Option> options_;  // references stay valid
  std::vector<Group> groups_{{"", ""}};
};

namespace detail {
[[nodiscard]] Result<std::uint64_t> read_integer(const Option& option, std::string_view text);
[[nodiscard]] Result<double> read_number(const Option& option, std::string_view text);
[[nodiscard]] std::string shown(double value);

template <class T>
struct Bound {
  using Value = T;
  static void store(T& target, T value) { target = std::move(value); }
  static constexpr bool kRepeatable = false;
};
template <class T>
struct Bound<std::optional<T>> {
  using Value = T;
  static void store(std::optional<T>& target, T value) { target = std::move(value); }
  static constexpr bool kRepeatable = false;
};
template <class T>
struct Bound<std::vector<T>> {
  using Value = T;
  static void store(std::vector<T>& target, T value) { target.push_back(std::move(value)); }
  static constexpr bool kRepeatable = true;
};
}  // namespace detail

template <class T>
Option& OptionTable::add(std::string name, T& value, std::string placeholder, std::string sentence) {
  using Bound = detail::Bound<T>;
  using Value = typename Bound::Value;
  Option& option = append(std::move(name), std::move(placeholder), std::move(sentence));
  option.repeatable = Bound::kRepeatable;
  if constexpr (std::is_same_v<Value, std::string>) {
    option.kind = ValueKind::Text;
    if constexpr (std::is_same_v<T, std::string>) option.default_text = value;
    option.assign = [&value](std::string_view text) -> Result<void> {
      Bound::store(value, std::string(text));
      return outcome::success();
    };
  } else if constexpr (std::is_floating_point_v<Value>) {
    option.kind = ValueKind::Number;
    if constexpr (std::is_same_v<T, Value>) option.default_text = detail::shown(value);
    option.assign = [&value, &option](std::string_view text) -> Result<void> {
      QF_ASSIGN(const double number, detail::read_number(option, text));
      Bound::store(value, static_cast<Value>(number));
      return outcome::success();
    };
  } else {
    static_assert(std::is_unsigned_v<Value>);
    option.kind = ValueKind::Integer;
    option.least = 0;
    option.most = sizeof(Value) >= 8 ? 9007199254740992.0 : 4294967295.0;
    if constexpr (std::is_same_v<T, Value>) option.default_text = std::to_string(value);
    option.assign = [&value, &option](std::string_view text) -> Result<void> {
      QF_ASSIGN(const std::uint64_t number, detail::read_integer(option, text));
      Bound::store(value, static_cast<Value>(number));
      return outcome::success();
    };
  }
  return option;
}

}  // namespace quantfit::cli
