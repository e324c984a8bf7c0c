#include "cli/option_table.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "cli/suggest.h"
#include "cli/wrap.h"
#include "core/text.h"

namespace quantfit::cli {
namespace {

// Where sentences start in help.
constexpr std::size_t kSentenceColumn = 26;

// Options of llama-quantize that have no counterpart here, and what to do instead.
constexpr std::pair<std::string_view, std::string_view> kForeignOptions[] = {
    {"--pure", "give one format: --formats Q4_K, or --tensor-type '.=Q4_K'"},
    {"--keep-split", "--split-max-size and --split-max-tensors say how the output is cut"},
    {"--override-kv", "metadata stay as they are in the source"},
    {"--prune-layers", "layers stay as they are in the source"},
    {"--include-weights", "the whole importance matrix is used; --role-weight changes what tensors count"},
    {"--exclude-weights", "the whole importance matrix is used; --role-weight changes what tensors count"},
};

std::string with_dashes(std::string_view name) {
  std::string text(name);
  std::ranges::replace(text, '_', '-');
  return text;
}

// Spellings of more than one letter behind one dash ("-ngl"), which CLI11 reads as bundled letters.
bool is_long_with_one_dash(std::string_view name) {
  return name.size() > 2 && name[0] == '-' && name[1] != '-';
}

// "--x=3" is the option "--x" and "=3".
std::pair<std::string_view, std::string_view> split_value(std::string_view argument) {
  const std::size_t equals = argument.find('=');
  if (equals == std::string_view::npos) return {argument, {}};
  return {argument.substr(0, equals), argument.substr(equals)};
}

std::string range_text(const Option& option) {
  return option.most ? fmt::format("from {} to {}", detail::shown(option.least.value_or(0)),
                                   detail::shown(*option.most))
                     : std::string();
}

Error out_of_range(const Option& option, std::string_view text, std::string_view what) {
  const bool comma = text.find(',') != std::string_view::npos && text.find('.') == std::string_view::npos;
  return fail(ErrorCode::InvalidArgument, "{}: '{}' is no {} {}{}", option.name, text, what,
              range_text(option), comma ? "; decimals are written with a point" : "");
}

}  // namespace

namespace detail {

std::string shown(double value) {
  return fmt::format("{}", value);
}

Result<std::uint64_t> read_integer(const Option& option, std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || double(value) < *option.least ||
      double(value) > *option.most)
    return out_of_range(option, text, "whole number");
  return value;
}

Result<double> read_number(const Option& option, std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value) ||
      (option.least && value < *option.least) || (option.most && value > *option.most))
    return out_of_range(option, text, "number");
  return value;
}

}  // namespace detail

Option& Option::alias(std::string spelling) {
  aliases.push_back(std::move(spelling));
  return *this;
}
Option& Option::range(double lowest, double highest) {
  least = lowest;
  most = highest;
  return *this;
}
Option& Option::one_of(std::vector<std::string> values) {
  choices = std::move(values);
  return *this;
}
Option& Option::offer(std::vector<std::string> values) {
  offers = std::move(values);
  return *this;
}
Option& Option::in(std::string unit_name) {
  unit = std::move(unit_name);
  return *this;
}
Option& Option::default_is(std::string text) {
  default_text = std::move(text);
  return *this;
}
Option& Option::not_with(std::string other) {
  excludes.push_back(std::move(other));
  return *this;
}
Option& Option::file() {
  completion = Completion::File;
  return *this;
}
Option& Option::folder() {
  completion = Completion::Folder;
  return *this;
}
Option& Option::needed() {
  required = true;
  return *this;
}
Option& Option::split_at_commas() {
  comma_separated = true;
  return *this;
}
Option& Option::hide() {
  hidden = true;
  return *this;
}
Option& Option::check(std::function<Result<void>(std::string_view)> looking) {
  look = std::move(looking);
  return *this;
}

std::string_view Option::key() const {
  const std::string_view text = name;
  return text.substr(std::min(text.find_first_not_of('-'), text.size()));
}

void OptionTable::group(std::string title, std::string sentence) {
  groups_.push_back({std::move(title), std::move(sentence)});
}

Option& OptionTable::append(std::string name, std::string placeholder, std::string sentence) {
  Option& option = options_.emplace_back();
  option.positional = !name.starts_with('-');
  option.name = std::move(name);
  option.placeholder = std::move(placeholder);
  option.sentence = std::move(sentence);
  option.group = groups_.back().title;
  return option;
}

Option& OptionTable::flag(std::string name, bool& value, std::string sentence) {
  Option& option = append(std::move(name), "", std::move(sentence));
  option.kind = ValueKind::Flag;
  option.assign = [&value](std::string_view) -> Result<void> {
    value = true;
    return outcome::success();
  };
  return option;
}

const Option* OptionTable::find(std::string_view name) const {
  const std::string wanted = with_dashes(name);
  for (const Option& option : options_)
    if (option.name == wanted || std::ranges::find(option.aliases, wanted) != option.aliases.end())
      return &option;
  return nullptr;
}

Result<void> OptionTable::read_arguments(std::span<const std::string> arguments) const {
  // CLI11 splits the arguments; what they mean is decided here.
  CLI::App app;
  app.set_help_flag();
  app.allow_extras();
  std::map<const CLI::Option*, const Option*> ours;
  for (const Option& option : options_) {
    if (option.positional) continue;
    std::string names = option.name;
    for (const std::string& spelling : option.aliases)
      if (!is_long_with_one_dash(spelling)) names += "," + spelling;
    CLI::Option* theirs = option.is_flag() ? app.add_flag(names)
                                           : app.add_option(
                                                    names, [](const CLI::results_t&) { return true; }, "")
                                                 ->type_size(1)
                                                 ->expected(1)
                                                 ->allow_extra_args(false);
    theirs->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    ours[theirs] = &option;
  }
  std::vector<std::string> spelled;
  bool options_end = false;
  std::vector<std::string> behind_dashes;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (options_end) {
      behind_dashes.push_back(argument);
      continue;
    }
    if (argument == "--") {
      options_end = true;
      continue;
    }
    if (!argument.starts_with('-')) {
      spelled.push_back(argument);
      continue;
    }
    const auto [name, value] = split_value(argument);
    const Option* option = find(name);
    if (option == nullptr) {  // bundled letters, "-t4", or unknown
      spelled.push_back(argument);
      continue;
    }
    spelled.push_back(option->name);
    if (option->is_flag()) {
      if (!value.empty()) return fail(ErrorCode::InvalidArgument, "{} takes no value", option->name);
    } else if (!value.empty()) {
      spelled.emplace_back(value.substr(1));
    } else if (i + 1 < arguments.size()) {
      spelled.push_back(arguments[++i]);  // whatever it is, an empty text and one that starts with a dash too
    } else {
      return fail(ErrorCode::InvalidArgument, "{} needs a value: {}", option->name, option->placeholder);
    }
  }
  std::ranges::reverse(spelled);
  try {
    app.parse(std::move(spelled));
  } catch (const CLI::ParseError& error) {
    return fail(ErrorCode::InvalidArgument, "{}", error.what());
  }
  std::vector<Use> uses;
  for (const CLI::Option* theirs : app.parse_order()) {
    // Every option stands in the order of parsing once per use; its results hold all of them.
    const Option* option = ours.at(theirs);
    const auto done = std::ranges::count(uses, option, &Use::option);
    const CLI::results_t& results = theirs->results();
    if (option->is_flag()) {
      if (done == 0) uses.push_back({option, results.empty() ? "true" : results.front()});
    } else if (static_cast<std::size_t>(done) < results.size()) {
      uses.push_back({option, results[static_cast<std::size_t>(done)]});
    }
  }
  std::vector<std::string> others = app.remaining();
  for (const std::string& other : others)
    if (other.size() > 1 && other.starts_with('-')) {
      const std::string_view name = split_value(other).first;
      std::vector<std::string_view> known;
      for (const Option& option : options_) {
        if (option.positional) continue;
        known.push_back(option.name);
        for (const std::string& spelling : option.aliases)
          if (spelling.starts_with("--")) known.push_back(spelling);
      }
      for (const auto& [foreign, sentence] : kForeignOptions)
        if (with_dashes(name) == foreign) return fail(ErrorCode::InvalidArgument, "{}: {}", name, sentence);
      return fail(ErrorCode::InvalidArgument, "there is no option {}{}", escaped(name),
                  suggestion(name, known));
    }
  std::ranges::move(behind_dashes, std::back_inserter(others));
  auto next = options_.begin();
  const auto positional = [&] {
    while (next != options_.end() && !next->positional) ++next;
  };
  for (std::string& other : others) {
    positional();
    if (next == options_.end())
      return fail(ErrorCode::InvalidArgument, "'{}' is one argument too many", other);
    uses.push_back({&*next, std::move(other)});
    if (!next->repeatable) ++next;
  }
  return take(uses);
}

Result<void> OptionTable::take(const std::vector<Use>& uses) const {
  const auto given = [&](const Option& option) {
    return std::ranges::find(uses, &option, &Use::option) != uses.end();
  };
  for (const Option& option : options_) {
    if (option.required && !given(option))
      return fail(ErrorCode::InvalidArgument, "{} is needed: {}",
                  option.positional ? option.placeholder : option.name, option.sentence);
    if (!option.repeatable && !option.is_flag() && std::ranges::count(uses, &option, &Use::option) > 1)
      return fail(ErrorCode::InvalidArgument, "{} is given twice", option.name);
    for (const std::string& other : option.excludes)
      if (given(option) && given(*find(other)))
        return fail(ErrorCode::InvalidArgument, "{} and {} exclude one another", option.name, other);
  }
  for (const Use& use : uses) {
    const Option& option = *use.option;
    if (option.is_flag() && use.text == "false") continue;
    if (option.look) {
      QF_TRY(option.look(use.text));
    }
    std::string_view rest = use.text;
    while (true) {
      const std::size_t comma = option.comma_separated ? rest.find(',') : std::string_view::npos;
      const std::string_view value = rest.substr(0, comma);
      if (!option.choices.empty() && std::ranges::find(option.choices, value) == option.choices.end()) {
        const std::vector<std::string_view> choices(option.choices.begin(), option.choices.end());
        return fail(ErrorCode::InvalidArgument, "{}: '{}' is none of {}{}", option.name, value,
                    fmt::join(option.choices, ", "), suggestion(value, choices));
      }
      if (value.empty() && option.completion != Completion::None)
        return fail(ErrorCode::InvalidArgument, "{}: the name is empty", option.name);
      QF_TRY(option.assign(value));
      if (comma == std::string_view::npos) break;
      rest.remove_prefix(comma + 1);
    }
  }
  return outcome::success();
}

Result<void> OptionTable::read_json(const nlohmann::json& body) const {
  if (!body.is_object()) return fail(ErrorCode::InvalidArgument, "the request is no JSON object");
  std::vector<Use> uses;
  for (const auto& [key, value] : body.items()) {
    const std::string wanted = with_dashes(key);
    const auto option = std::ranges::find_if(options_, [&](const Option& o) { return o.key() == wanted; });
    if (option == options_.end()) {
      std::vector<std::string_view> known;
      for (const Option& o : options_) known.push_back(o.key());
      return fail(ErrorCode::InvalidArgument, "there is no option '{}'{}", escaped(key),
                  suggestion(wanted, known));
    }
    if (option->is_flag()) {
      if (!value.is_boolean())
        return fail(ErrorCode::InvalidArgument, "{}: true or false is expected", option->name);
      if (value.get<bool>()) uses.push_back({&*option, "true"});
      continue;
    }
    const auto one = [&](const nlohmann::json& item) -> Result<void> {
      if (!item.is_string() && !item.is_number())
        return fail(ErrorCode::InvalidArgument, "{}: a text or a number is expected", option->name);
      uses.push_back({&*option, item.is_string() ? item.get<std::string>() : item.dump()});
      return outcome::success();
    };
    if (value.is_array() && option->repeatable) {
      for (const nlohmann::json& item : value) QF_TRY(one(item));
    } else {
      QF_TRY(one(value));
    }
  }
  return take(uses);
}

nlohmann::ordered_json OptionTable::json_schema() const {
  nlohmann::ordered_json properties = nlohmann::ordered_json::object();
  nlohmann::ordered_json needed = nlohmann::ordered_json::array();
  for (const Option& option : options_) {
    if (option.hidden) continue;
    nlohmann::ordered_json value;
    switch (option.kind) {
      case ValueKind::Flag:
        value["type"] = "boolean";
        break;
      case ValueKind::Integer:
        value["type"] = "integer";
        break;
      case ValueKind::Number:
        value["type"] = "number";
        break;
      case ValueKind::Text:
        value["type"] = {"string", "number"};
        break;
    }
    if (option.least) value["minimum"] = *option.least;
    if (option.most) value["maximum"] = *option.most;
    if (!option.choices.empty()) value["enum"] = option.choices;
    if (option.repeatable) value = {{"anyOf", {value, {{"type", "array"}, {"items", value}}}}};
    value["description"] = option.sentence;
    if (!option.default_text.empty()) value["x-default"] = option.default_text;
    if (!option.unit.empty()) value["x-unit"] = option.unit;
    if (!option.placeholder.empty()) value["x-placeholder"] = option.placeholder;
    if (!option.group.empty()) value["x-group"] = option.group;
    if (!option.offers.empty()) value["examples"] = option.offers;
    properties[std::string(option.key())] = std::move(value);
    if (option.required) needed.push_back(option.key());
  }
  return {
      {"type", "object"}, {"properties", properties}, {"required", needed}, {"additionalProperties", false}};
}

std::string OptionTable::help_text(std::size_t width) const {
  std::string text;
  const auto list = [&](std::string_view title, std::string_view sentence, bool positional) {
    std::string lines;
    for (const Option& option : options_) {
      if (option.hidden || option.positional != positional || (!positional && option.group != title))
        continue;
      std::string head = "  ";
      if (positional) {
        head += option.placeholder;
      } else {
        for (const std::string& spelling : option.aliases)
          if (spelling.size() == 2) head += spelling + ", ";
        head += option.name + (option.is_flag() ? "" : " " + option.placeholder);
      }
      std::string explained = option.sentence;
      if (!option.choices.empty() && explained.find(option.choices.back()) == std::string::npos)
        explained += fmt::format(": {}", fmt::join(option.choices, ", "));
      if (!option.default_text.empty() && !option.is_flag())
        explained += fmt::format(" (default: {})", option.default_text);
      lines += hanging(head, explained, kSentenceColumn, width);
    }
    if (lines.empty()) return;
    text += '\n';
    text += wrapped(fmt::format("{}{}", title.empty() ? (positional ? "Arguments" : "Options") : title,
                                sentence.empty() ? ":" : fmt::format(": {}", sentence)),
                    0, width);
    text += lines;
  };
  list("", "", true);
  for (const Group& group : groups_) list(group.title, group.sentence, false);
  return text;
}

}  // namespace quantfit::cli
