#include "optimizer/planning/constraints.h"

#include <algorithm>
#include <array>
#include <map>
#include <numeric>

#include "optimizer/llama_cpp/pin_index.h"
#include "optimizer/llama_cpp/quantize_rules.h"
#include "optimizer/llama_cpp/tensor_role.h"

namespace quantfit::optimizer {
namespace {

template <class List>
bool contains(const List& list, Format format) {
  return std::ranges::find(list, format) != std::ranges::end(list);
}

// The order of floors and ceilings: bits per weight, compared as exact fractions.
bool fewer_bits(Format a, Format b) {
  const FormatTraits& x = traits(a);
  const FormatTraits& y = traits(b);
  return std::uint64_t{x.block_bytes} * y.block_len < std::uint64_t{y.block_bytes} * x.block_len;
}

void sort_by_bits(std::vector<Format>& formats) {
  std::ranges::sort(formats, [](Format a, Format b) {
    if (fewer_bits(a, b) || fewer_bits(b, a)) return fewer_bits(a, b);
    return a < b;
  });
  formats.erase(std::unique(formats.begin(), formats.end()), formats.end());
}

std::string names_of(std::span<const Format> formats) {
  std::string text;
  for (const Format format : formats) {
    if (!text.empty()) text += ", ";
    text += name_of(format);
  }
  return text.empty() ? "none" : text;
}

// Tensors that a note lists by name.
constexpr std::size_t kNamesInNote = 4;

// Applies the rules tensor by tensor, then joins tied tensors.
class Resolver {
 public:
  Resolver(const ModelTraits& model, std::span<const TensorInfo> tensors, const ConstraintRules& rules)
      : model_(model), tensors_(tensors), rules_(rules), names_(rules.names), pins_(rules.pins) {}

  Result<Constraints> run() {
    QF_TRY(build_pool());
    if (rules_.leave_output_tensor && rules_.output_format)
      return fail(ErrorCode::Infeasible, "{} contradicts {} {}", names_.leave_output_tensor,
                  names_.output_format, name_of(*rules_.output_format));
    for (const auto& format : {rules_.output_format, rules_.embedding_format})
      if (format && !storable(*format))
        return fail(ErrorCode::InvalidArgument, "{} is no format for weights", name_of(*format));
    pins_used_.resize(rules_.pins.size());
    floors_used_.resize(rules_.floors.size());
    ceilings_used_.resize(rules_.ceilings.size());
    answer_.tensors.reserve(tensors_.size());
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      has_importance_ = i < rules_.importance.size() && rules_.importance[i];
      QF_ASSIGN(TensorChoices choices, choose(tensors_[i]));
      answer_.tensors.push_back(std::move(choices));
    }
    QF_TRY(tie());
    note_unused(names_.pin, rules_.pins, pins_used_);
    note_unused(names_.floor, rules_.floors, floors_used_);
    note_unused(names_.ceiling, rules_.ceilings, ceilings_used_);
    note_without_importance();
    note_tied_embedding();
    return std::move(answer_);
  }

 private:
  Result<void> build_pool() {
    const bool chosen = !rules_.pool.empty();
    if (chosen)
      pool_ = rules_.pool;
    else
      pool_.assign(default_candidate_formats().begin(), default_candidate_formats().end());
    for (const Format format : pool_)
      if (!storable(format))
        return fail(ErrorCode::InvalidArgument, "{}: {} is no format for weights", names_.pool,
                    name_of(format));
    sort_by_bits(pool_);
    const auto remove = [this](std::span<const Format> list) {
      std::erase_if(pool_, [&](Format format) { return contains(list, format); });
    };
    remove(rules_.excluded);
    if (pool_.empty())
      return fail(ErrorCode::Infeasible, "{} leaves no format to choose from", names_.excluded);
    // Whoever lists formats has decided about their speed.
    if (rules_.runtime && !chosen) remove(slow_formats(*rules_.runtime));
    if (pool_.empty())
      return fail(ErrorCode::Infeasible, "{} and {} {} leave no format to choose from", names_.excluded,
                  names_.runtime, to_string(*rules_.runtime));
    return outcome::success();
  }

  Result<TensorChoices> choose(const TensorInfo& tensor) {
    const Quantizability quantizable = quantizability(tensor, rules_.leave_output_tensor);
    if (!quantizable.quantizable)
      return TensorChoices{
          {tensor.format}, fmt::format("kept: {}", quantizable.reason), true, false, std::nullopt, false};
    const RecipeRole role = recipe_role(tensor.name);
    if (role == RecipeRole::Embed && rules_.embedding_format)
      return pinned(tensor, *rules_.embedding_format, names_.embedding_format);
    if (role == RecipeRole::Output && rules_.output_format)
      return pinned(tensor, *rules_.output_format, names_.output_format);
    if (const auto first = pins_.first_in(tensor.name)) {
      const FormatPin& pin = rules_.pins[*first];
      pins_used_[*first] = true;
      return pinned(
          tensor, pin.format,
          fmt::format("{} '{}'", pin.given_as.empty() ? names_.pin : pin.given_as, pin.pattern.text()));
    }
    if (rules_.raise_state_space) {
      if (stays_in_state_space(tensor.name) && !is_quantized(tensor.format))
        return TensorChoices{{tensor.format},
                             fmt::format("kept: {}", names_.raise_state_space),
                             true,
                             false,
                             std::nullopt,
                             false};
      if (tensor_role(tensor.name) == "ssm_out")
        return pinned(tensor, Format::Q8_0, names_.raise_state_space);
    }
    // Without an explicit embedding format, that of the output head covers a tied embedding.
    if (role == RecipeRole::Embed && model_.tied && rules_.output_format)
      return pinned(tensor, *rules_.output_format, names_.output_format);
    return from_pool(tensor);
  }

  Result<TensorChoices> pinned(const TensorInfo& tensor, Format format, const std::string& by) {
    if (!storable(format))
      return fail(ErrorCode::InvalidArgument, "{}: {} is no format for weights", by, name_of(format));
    if (contains(rules_.excluded, format))
      return fail(ErrorCode::Infeasible, "tensor '{}': {} demands {}, which {} excludes", tensor.name, by,
                  name_of(format), names_.excluded);
    if (without_importance(format, tensor))
      return fail(ErrorCode::Infeasible,
                  "tensor '{}': {} demands {}, which needs importance data, and there are none for it",
                  tensor.name, by, name_of(format));
    for (const bool floor : {true, false})
      if (const FormatPin* limit = violated(tensor, format, floor))
        return fail(ErrorCode::Infeasible, "tensor '{}': {} demands {}, {} '{}' {} {}", tensor.name, by,
                    name_of(format), name_of_limit(*limit, floor), limit->pattern.text(),
                    floor ? "at least" : "at most", name_of(limit->format));
    const FittedFormat fitted = fit_row_length(format, tensor.row_length());
    TensorChoices choices{
        {fitted.format}, fmt::format("pinned by {}", by), false, fitted.substituted, std::nullopt, false};
    if (fitted.substituted) {
      // The substitute has more bits than the format demanded: only ceilings and exclusions can refuse it.
      if (contains(rules_.excluded, fitted.format) || violated(tensor, fitted.format, false) != nullptr)
        return fail(ErrorCode::Infeasible,
                    "tensor '{}': rows of {} weights are no whole number of {} blocks, and the "
                    "substitute {} is excluded",
                    tensor.name, tensor.row_length(), name_of(format), name_of(fitted.format));
      note_substitution(tensor, format, fitted.format);
    }
    return choices;
  }

  Result<TensorChoices> from_pool(const TensorInfo& tensor) {
    std::vector<Format> formats;
    for (const Format format : pool_) {
      if (without_importance(format, tensor)) continue;
      formats.push_back(format);
    }
    if (formats.empty())
      return fail(ErrorCode::Infeasible,
                  "tensor '{}': every allowed format ({}) needs importance data, and there are none for it",
                  tensor.name, names_of(pool_));
    if (formats.size() < pool_.size()) without_importance_.push_back(&tensor);
    spare_tower(tensor, formats);
    const std::vector<Format> before = formats;
    std::erase_if(formats, [&](Format format) {
      return violated(tensor, format, true) != nullptr || violated(tensor, format, false) != nullptr;
    });
    if (formats.empty())
      return fail(ErrorCode::Infeasible, "tensor '{}': {} leaves none of the allowed formats ({})",
                  tensor.name, limits_of(tensor), names_of(before));
    std::vector<Format> fitting = formats;
    std::erase_if(fitting,
                  [&](Format format) { return fit_row_length(format, tensor.row_length()).substituted; });
    TensorChoices choices{fitting, "formats by choice", false, false, std::nullopt, false};
    choices.may_keep = rules_.pool.empty() && !contains(rules_.excluded, tensor.format) &&
                       violated(tensor, tensor.format, true) == nullptr &&
                       violated(tensor, tensor.format, false) == nullptr;
    if (fitting.empty()) {
      // No allowed format fits the row length: their substitutes, noted, though outside the pool.
      for (const Format format : formats) {
        const Format instead = fit_row_length(format, tensor.row_length()).format;
        if (!contains(rules_.excluded, instead) && violated(tensor, instead, false) == nullptr)
          choices.formats.push_back(instead);
      }
      sort_by_bits(choices.formats);
      if (choices.formats.empty())
        return fail(ErrorCode::Infeasible,
                    "tensor '{}': rows of {} weights fit none of the allowed formats ({})", tensor.name,
                    tensor.row_length(), names_of(formats));
      choices.substituted = true;
      choices.reason = fmt::format("rows of {} weights fit no allowed format", tensor.row_length());
      answer_.notes.push_back(
          fmt::format("tensor '{}': rows of {} weights fit none of the allowed formats; {} instead",
                      tensor.name, tensor.row_length(), names_of(choices.formats)));
    }
    return choices;
  }

  // Towers have 8 bits or more, unless formats were listed, a ceiling speaks of them, or none would be left.
  void spare_tower(const TensorInfo& tensor, std::vector<Format>& formats) const {
    const bool limited = std::ranges::any_of(
        rules_.ceilings, [&](const FormatPin& limit) { return limit.pattern.found_in(tensor.name); });
    if (!rules_.pool.empty() || limited || !is_of_a_tower(tensor.name)) return;
    std::vector<Format> spared = formats;
    std::erase_if(spared, [](Format format) { return fewer_bits(format, Format::Q8_0); });
    if (!spared.empty()) formats = std::move(spared);
  }

  bool without_importance(Format format, const TensorInfo& tensor) const {
    return !has_importance_ && !rules_.low_bits_without_importance && needs_importance(format, tensor.name);
  }

  // Some tensors have importance data and these have none. (Where none has, one warning for all says it.)
  void note_without_importance() {
    if (without_importance_.empty() || std::ranges::find(rules_.importance, true) == rules_.importance.end())
      return;
    std::string names;
    for (std::size_t i = 0; i < std::min(without_importance_.size(), kNamesInNote); ++i)
      names += fmt::format("{}'{}'", i == 0 ? "" : ", ", without_importance_[i]->name);
    if (without_importance_.size() > kNamesInNote) names += ", ...";
    answer_.notes.push_back(
        fmt::format("{} tensors have no importance data and get no format that needs them: {}",
                    without_importance_.size(), names));
  }

  // An embedding that is the output head too counts like one, but calibration rarely records its inputs.
  void note_tied_embedding() {
    if (!model_.tied || rules_.low_bits_without_importance) return;
    for (std::size_t i = 0; i < std::min(tensors_.size(), rules_.importance.size()); ++i)
      if (tensors_[i].name == "token_embd.weight" && !rules_.importance[i] && !answer_.tensors[i].kept &&
          std::ranges::find(rules_.importance, true) != rules_.importance.end())
        answer_.notes.push_back(
            "tensor 'token_embd.weight' is the output head too and has no importance data: all its columns "
            "count the same");
  }

  [[nodiscard]] const std::string& name_of_limit(const FormatPin& limit, bool floor) const {
    if (!limit.given_as.empty()) return limit.given_as;
    return floor ? names_.floor : names_.ceiling;
  }

  // The first floor or ceiling that `format` breaks for this tensor.
  const FormatPin* violated(const TensorInfo& tensor, Format format, bool floor) {
    const std::vector<FormatPin>& limits = floor ? rules_.floors : rules_.ceilings;
    std::vector<bool>& used = floor ? floors_used_ : ceilings_used_;
    const FormatPin* broken = nullptr;
    for (std::size_t i = 0; i < limits.size(); ++i) {
      if (!limits[i].pattern.found_in(tensor.name)) continue;
      used[i] = true;
      const bool breaks = floor ? fewer_bits(format, limits[i].format) : fewer_bits(limits[i].format, format);
      if (breaks && broken == nullptr) broken = &limits[i];
    }
    return broken;
  }

  std::string limits_of(const TensorInfo& tensor) const {
    std::string text;
    const auto list = [&](bool floor, const std::vector<FormatPin>& limits) {
      for (const FormatPin& limit : limits)
        if (limit.pattern.found_in(tensor.name))
          text += fmt::format("{}{} '{}={}'", text.empty() ? "" : " with ", name_of_limit(limit, floor),
                              limit.pattern.text(), name_of(limit.format));
    };
    list(true, rules_.floors);
    list(false, rules_.ceilings);
    return text;
  }

  void note_substitution(const TensorInfo& tensor, Format wanted, Format instead) {
    answer_.notes.push_back(
        fmt::format("tensor '{}': rows of {} weights are no whole number of {} blocks; {} instead",
                    tensor.name, tensor.row_length(), name_of(wanted), name_of(instead)));
  }

  void note_unused(std::string_view name, const std::vector<FormatPin>& rules,
                   const std::vector<bool>& used) {
    for (std::size_t i = 0; i < rules.size(); ++i)
      if (!used[i])
        answer_.notes.push_back(fmt::format("{} '{}={}' applies to no tensor",
                                            rules[i].given_as.empty() ? name : rules[i].given_as,
                                            rules[i].pattern.text(), name_of(rules[i].format)));
  }

  // --- Ties

  std::uint32_t root(std::uint32_t i) {
    while (parent_[i] != i) i = parent_[i] = parent_[parent_[i]];
    return i;
  }

  Result<void> tie() {
    parent_.resize(tensors_.size());
    std::iota(parent_.begin(), parent_.end(), 0U);
    std::vector<std::string> tied_by(tensors_.size());
    for (const Pattern& pattern : rules_.ties) {
      // First member by layer; names without layer form one group.
      std::map<std::optional<std::uint32_t>, std::uint32_t> first;
      bool joined = false;
      for (std::uint32_t i = 0; i < tensors_.size(); ++i) {
        if (answer_.tensors[i].kept || !pattern.found_in(tensors_[i].name)) continue;
        const auto [member, is_first] = first.emplace(layer_of(tensors_[i].name), i);
        if (tied_by[i].empty()) tied_by[i] = pattern.text();
        if (is_first) continue;
        joined = true;
        // The smaller index becomes the root: groups stay in file order.
        const std::uint32_t a = root(member->second), b = root(i);
        parent_[std::max(a, b)] = std::min(a, b);
      }
      if (!joined)
        answer_.notes.push_back(fmt::format("{} '{}' joins no tensors", names_.tie, pattern.text()));
    }
    std::map<std::uint32_t, TieGroup> groups;
    for (std::uint32_t i = 0; i < tensors_.size(); ++i) groups[root(i)].tensors.push_back(i);
    for (auto& [first, group] : groups) {
      if (group.tensors.size() < 2) continue;
      const auto layer = layer_of(tensors_[first].name);
      group.name = layer ? fmt::format("blk.{} {}", *layer, tied_by[first]) : tied_by[first];
      QF_TRY(settle(group));
    }
    return outcome::success();
  }

  Result<void> settle(TieGroup& group) {
    group.formats = answer_.tensors[group.tensors.front()].formats;
    for (const std::uint32_t i : group.tensors) {
      const std::vector<Format>& allowed = answer_.tensors[i].formats;
      std::vector<Format> common = group.formats;
      std::erase_if(common, [&](Format format) { return !contains(allowed, format); });
      if (common.empty())
        return fail(ErrorCode::Infeasible,
                    "{} joins tensors '{}' and '{}' (group '{}'), which have no common format: {} against {}",
                    names_.tie, tensors_[group.tensors.front()].name, tensors_[i].name, group.name,
                    names_of(group.formats), names_of(allowed));
      group.formats = std::move(common);
    }
    for (const std::uint32_t i : group.tensors) {
      answer_.tensors[i].formats = group.formats;
      answer_.tensors[i].group = static_cast<std::uint32_t>(answer_.groups.size());
    }
    answer_.groups.push_back(std::move(group));
    return outcome::success();
  }

  const ModelTraits& model_;
  std::span<const TensorInfo> tensors_;
  const ConstraintRules& rules_;
  const RuleNames& names_;
  PinIndex pins_;
  bool has_importance_ = false;  // of the tensor at hand
  std::vector<const TensorInfo*> without_importance_;
  Constraints answer_;
  std::vector<Format> pool_;
  std::vector<bool> pins_used_, floors_used_, ceilings_used_;
  std::vector<std::uint32_t> parent_;
};

}  // namespace

Result<Constraints> resolve_constraints(const ModelTraits& model, std::span<const TensorInfo> tensors,
                                        const ConstraintRules& rules) {
  return Resolver(model, tensors, rules).run();
}

}  // namespace quantfit::optimizer
