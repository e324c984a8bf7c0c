#include "optimizer/constraints.h"

#include <algorithm>
#include <array>
#include <map>
#include <numeric>

#include "optimizer/quantize_rules.h"
#include "optimizer/tensor_role.h"

namespace quantfit::optimizer {
namespace {

constexpr std::string_view kSpace = " \t\r\n\v\f";

// Codebook formats decode through table look-ups, which CPUs and Metal's kernels do slowly; ternary and one-
// and two-bit formats have no kernels on some back ends and fall back to the CPU.
constexpr std::array kSlowOnCpu = {Format::IQ2_XXS, Format::IQ2_XS, Format::IQ3_XXS, Format::IQ1_S,
                                   Format::IQ3_S,   Format::IQ2_S,  Format::IQ1_M};
constexpr std::array kSlowOnCuda = {Format::TQ1_0, Format::TQ2_0, Format::Q1_0, Format::Q2_0};
constexpr std::array kSlowOnMetal = {Format::IQ2_XXS, Format::IQ2_XS, Format::IQ3_XXS, Format::IQ1_S,
                                     Format::IQ3_S,   Format::IQ2_S,  Format::IQ1_M,   Format::TQ1_0,
                                     Format::TQ2_0,   Format::NVFP4,  Format::Q1_0,    Format::Q2_0};
constexpr std::array kSlowOnVulkan = {Format::IQ1_S, Format::IQ1_M, Format::TQ1_0, Format::TQ2_0,
                                      Format::NVFP4, Format::Q1_0,  Format::Q2_0};

// Unpacking work per weight on a CPU in units of the time that reading one Q8_0 weight takes.
double unpacking(Format format) {
  switch (format) {
    case Format::Q4_0:
    case Format::Q4_1:
    case Format::Q5_0:
    case Format::Q5_1:
    case Format::IQ4_NL:
    case Format::IQ4_XS:
    case Format::MXFP4:
    case Format::NVFP4:
      return 0.05;
    case Format::Q2_K:
    case Format::Q3_K:
    case Format::Q4_K:
    case Format::Q5_K:
    case Format::Q6_K:
    case Format::TQ1_0:
    case Format::TQ2_0:
    case Format::Q1_0:
    case Format::Q2_0:
      return 0.1;
    case Format::IQ1_S:
    case Format::IQ1_M:
    case Format::IQ2_XXS:
    case Format::IQ2_XS:
    case Format::IQ2_S:
      return 0.3;
    case Format::IQ3_XXS:
    case Format::IQ3_S:
      return 0.4;
    default:
      return 0;
  }
}

bool storable(Format format) {
  const FormatKind kind = traits(format).kind;
  return kind == FormatKind::Float || kind == FormatKind::Quantized;
}

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

bool same_ignoring_case(std::string_view a, std::string_view b) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  return std::ranges::equal(a, b, {}, lower, lower);
}

// Applies the rules tensor by tensor, then joins tied tensors.
class Resolver {
 public:
  Resolver(const ModelTraits& model, std::span<const TensorInfo> tensors, const ConstraintRules& rules)
      : model_(model), tensors_(tensors), rules_(rules) {}

  Result<Constraints> run() {
    QF_TRY(build_pool());
    if (rules_.leave_output_tensor && rules_.output_format)
      return fail(ErrorCode::Infeasible, "--leave-output-tensor contradicts --output-tensor-type {}",
                  name_of(*rules_.output_format));
    for (const auto& format : {rules_.output_format, rules_.embedding_format})
      if (format && !storable(*format))
        return fail(ErrorCode::InvalidArgument, "{} is no format for weights", name_of(*format));
    pins_used_.resize(rules_.pins.size());
    floors_used_.resize(rules_.floors.size());
    ceilings_used_.resize(rules_.ceilings.size());
    answer_.tensors.reserve(tensors_.size());
    for (const TensorInfo& tensor : tensors_) {
      QF_ASSIGN(TensorChoices choices, choose(tensor));
      answer_.tensors.push_back(std::move(choices));
    }
    QF_TRY(tie());
    note_unused("--tensor-type", rules_.pins, pins_used_);
    note_unused("--min-type", rules_.floors, floors_used_);
    note_unused("--max-type", rules_.ceilings, ceilings_used_);
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
        return fail(ErrorCode::InvalidArgument, "--formats: {} is no format for weights", name_of(format));
    sort_by_bits(pool_);
    const auto remove = [this](std::span<const Format> list) {
      std::erase_if(pool_, [&](Format format) { return contains(list, format); });
    };
    remove(rules_.excluded);
    if (pool_.empty())
      return fail(ErrorCode::Infeasible, "--exclude-formats leaves no format to choose from");
    // Whoever lists formats has decided about their speed.
    if (rules_.runtime && !chosen) remove(slow_formats(*rules_.runtime));
    if (pool_.empty())
      return fail(ErrorCode::Infeasible, "--exclude-formats and --runtime {} leave no format to choose from",
                  to_string(*rules_.runtime));
    return outcome::success();
  }

  Result<TensorChoices> choose(const TensorInfo& tensor) {
    const Quantizability quantizable = quantizability(tensor, rules_.leave_output_tensor);
    if (!quantizable.quantizable)
      return TensorChoices{
          {tensor.format}, fmt::format("kept: {}", quantizable.reason), true, false, std::nullopt, false};
    const RecipeRole role = recipe_role(tensor.name);
    if (role == RecipeRole::Embed && rules_.embedding_format)
      return pinned(tensor, *rules_.embedding_format, "--token-embedding-type");
    if (role == RecipeRole::Output && rules_.output_format)
      return pinned(tensor, *rules_.output_format, "--output-tensor-type");
    for (std::size_t i = 0; i < rules_.pins.size(); ++i) {
      if (!rules_.pins[i].pattern.found_in(tensor.name)) continue;
      pins_used_[i] = true;
      return pinned(tensor, rules_.pins[i].format,
                    fmt::format("--tensor-type '{}'", rules_.pins[i].pattern.text()));
    }
    // Without an explicit embedding format, that of the output head covers a tied embedding.
    if (role == RecipeRole::Embed && model_.tied && rules_.output_format)
      return pinned(tensor, *rules_.output_format, "--output-tensor-type");
    return from_pool(tensor);
  }

  Result<TensorChoices> pinned(const TensorInfo& tensor, Format format, const std::string& by) {
    if (!storable(format))
      return fail(ErrorCode::InvalidArgument, "{}: {} is no format for weights", by, name_of(format));
    if (contains(rules_.excluded, format))
      return fail(ErrorCode::Infeasible, "tensor '{}': {} demands {}, which --exclude-formats excludes",
                  tensor.name, by, name_of(format));
    if (without_importance(format, tensor))
      return fail(ErrorCode::Infeasible, "tensor '{}': {} demands {}, which needs an importance matrix",
                  tensor.name, by, name_of(format));
    for (const bool floor : {true, false})
      if (const FormatPin* limit = violated(tensor, format, floor))
        return fail(ErrorCode::Infeasible, "tensor '{}': {} demands {}, {} '{}' {} {}", tensor.name, by,
                    name_of(format), floor ? "--min-type" : "--max-type", limit->pattern.text(),
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
      return fail(ErrorCode::Infeasible, "tensor '{}': every allowed format ({}) needs an importance matrix",
                  tensor.name, names_of(pool_));
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

  bool without_importance(Format format, const TensorInfo& tensor) const {
    return !rules_.has_importance && !rules_.low_bits_without_importance &&
           needs_importance(format, tensor.name);
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
    const auto list = [&](std::string_view option, const std::vector<FormatPin>& limits) {
      for (const FormatPin& limit : limits)
        if (limit.pattern.found_in(tensor.name))
          text += fmt::format("{}{} '{}={}'", text.empty() ? "" : " with ", option, limit.pattern.text(),
                              name_of(limit.format));
    };
    list("--min-type", rules_.floors);
    list("--max-type", rules_.ceilings);
    return text;
  }

  void note_substitution(const TensorInfo& tensor, Format wanted, Format instead) {
    answer_.notes.push_back(
        fmt::format("tensor '{}': rows of {} weights are no whole number of {} blocks; {} instead",
                    tensor.name, tensor.row_length(), name_of(wanted), name_of(instead)));
  }

  void note_unused(std::string_view option, const std::vector<FormatPin>& rules,
                   const std::vector<bool>& used) {
    for (std::size_t i = 0; i < rules.size(); ++i)
      if (!used[i])
        answer_.notes.push_back(fmt::format("{} '{}={}' applies to no tensor", option,
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
      if (!joined) answer_.notes.push_back(fmt::format("--tie '{}' joins no tensors", pattern.text()));
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
                    "--tie ties tensors '{}' and '{}' (group '{}'), which have no common format: "
                    "{} against {}",
                    tensors_[group.tensors.front()].name, tensors_[i].name, group.name,
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
  Constraints answer_;
  std::vector<Format> pool_;
  std::vector<bool> pins_used_, floors_used_, ceilings_used_;
  std::vector<std::uint32_t> parent_;
};

}  // namespace

Result<FormatPin> parse_format_pin(std::string_view text) {
  // A type never holds '=', a pattern may.
  const std::size_t equals = text.rfind('=');
  if (equals == std::string_view::npos || equals == 0)
    return fail(ErrorCode::InvalidArgument, "'{}': expected pattern=type, for example ffn_down=q5_K", text);
  const auto format = parse_format(text.substr(equals + 1));
  if (!format || !storable(*format))
    return fail(ErrorCode::InvalidArgument, "'{}': unknown type '{}'", text, text.substr(equals + 1));
  QF_ASSIGN(Pattern pattern, Pattern::compile(text.substr(0, equals)));
  return FormatPin{std::move(pattern), *format};
}

Result<std::vector<FormatPin>> parse_format_pins(std::string_view text) {
  std::vector<FormatPin> pins;
  std::size_t line = 1, at = 0;
  while (at < text.size()) {
    if (kSpace.find(text[at]) != std::string_view::npos) {
      line += text[at++] == '\n' ? 1 : 0;
      continue;
    }
    const std::size_t end = std::min(text.find_first_of(kSpace, at), text.size());
    auto pin = parse_format_pin(text.substr(at, end - at));
    if (!pin) return fail(pin.error().code, "line {}: {}", line, pin.error().message);
    pins.push_back(std::move(pin).value());
    at = end;
  }
  return pins;
}

Result<std::vector<Format>> parse_format_list(std::string_view text) {
  constexpr std::string_view kSeparators = ", \t\r\n";
  std::vector<Format> formats;
  std::size_t at = 0;
  while ((at = text.find_first_not_of(kSeparators, at)) != std::string_view::npos) {
    const std::size_t end = std::min(text.find_first_of(kSeparators, at), text.size());
    const auto format = parse_format(text.substr(at, end - at));
    if (!format || !storable(*format))
      return fail(ErrorCode::InvalidArgument, "unknown type '{}'", text.substr(at, end - at));
    if (!contains(formats, *format)) formats.push_back(*format);
    at = end;
  }
  if (formats.empty()) return fail(ErrorCode::InvalidArgument, "an empty list of types");
  return formats;
}

std::string_view to_string(Runtime runtime) {
  switch (runtime) {
    case Runtime::Cpu:
      return "cpu";
    case Runtime::Cuda:
      return "cuda";
    case Runtime::Metal:
      return "metal";
    case Runtime::Vulkan:
      return "vulkan";
  }
  return "unknown";
}

std::optional<Runtime> parse_runtime(std::string_view name) {
  for (const Runtime runtime : {Runtime::Cpu, Runtime::Cuda, Runtime::Metal, Runtime::Vulkan})
    if (same_ignoring_case(name, to_string(runtime))) return runtime;
  return std::nullopt;
}

std::span<const Format> slow_formats(Runtime runtime) {
  switch (runtime) {
    case Runtime::Cpu:
      return kSlowOnCpu;
    case Runtime::Cuda:
      return kSlowOnCuda;
    case Runtime::Metal:
      return kSlowOnMetal;
    case Runtime::Vulkan:
      return kSlowOnVulkan;
  }
  return {};
}

double decode_cost(Format format, Runtime runtime) {
  // GPUs have arithmetic to spare while they wait for memory.
  const double work = runtime == Runtime::Cpu ? 1.0 : 0.25;
  return bits_per_weight(format) / bits_per_weight(Format::Q8_0) + work * unpacking(format);
}

std::vector<double> read_shares(const ModelTraits& model, std::uint32_t experts_used,
                                std::span<const TensorInfo> tensors) {
  std::vector<double> shares;
  shares.reserve(tensors.size());
  for (const TensorInfo& tensor : tensors) {
    double read = static_cast<double>(tensor.elements());
    const RecipeRole role = recipe_role(tensor.name);
    const bool is_head = model.tied && tensor.name == "token_embd.weight";
    if (role == RecipeRole::Embed && !is_head) read = 0;
    if (is_routed_experts(tensor.name) && model.expert_count > 0)
      read *= std::min(1.0, static_cast<double>(experts_used) / model.expert_count);
    shares.push_back(read);
  }
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  for (double& share : shares) share = sum > 0 ? share / sum : 0;
  return shares;
}

Result<Constraints> resolve_constraints(const ModelTraits& model, std::span<const TensorInfo> tensors,
                                        const ConstraintRules& rules) {
  return Resolver(model, tensors, rules).run();
}

}  // namespace quantfit::optimizer
