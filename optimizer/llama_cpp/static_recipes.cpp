#include "optimizer/llama_cpp/static_recipes.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <tuple>

#include "core/text.h"
#include "optimizer/llama_cpp/pin_index.h"
#include "optimizer/llama_cpp/quantize_rules.h"
#include "optimizer/llama_cpp/tensor_role.h"

namespace quantfit::optimizer {
namespace {

// clang-format off
constexpr std::array kFileTypes = {
    FileTypeTraits{FileType::F32, "F32", Format::F32, true},
    FileTypeTraits{FileType::F16, "F16", Format::F16, true},
    FileTypeTraits{FileType::Q4_0, "Q4_0", Format::Q4_0, true},
    FileTypeTraits{FileType::Q4_1, "Q4_1", Format::Q4_1, true},
    FileTypeTraits{FileType::Q8_0, "Q8_0", Format::Q8_0, true},
    FileTypeTraits{FileType::Q5_0, "Q5_0", Format::Q5_0, true},
    FileTypeTraits{FileType::Q5_1, "Q5_1", Format::Q5_1, true},
    FileTypeTraits{FileType::Q2_K, "Q2_K", Format::Q2_K, true},
    FileTypeTraits{FileType::Q3_K_S, "Q3_K_S", Format::Q3_K, true},
    FileTypeTraits{FileType::Q3_K_M, "Q3_K_M", Format::Q3_K, true},
    FileTypeTraits{FileType::Q3_K_L, "Q3_K_L", Format::Q3_K, true},
    FileTypeTraits{FileType::Q4_K_S, "Q4_K_S", Format::Q4_K, true},
    FileTypeTraits{FileType::Q4_K_M, "Q4_K_M", Format::Q4_K, true},
    FileTypeTraits{FileType::Q5_K_S, "Q5_K_S", Format::Q5_K, true},
    FileTypeTraits{FileType::Q5_K_M, "Q5_K_M", Format::Q5_K, true},
    FileTypeTraits{FileType::Q6_K, "Q6_K", Format::Q6_K, true},
    FileTypeTraits{FileType::IQ2_XXS, "IQ2_XXS", Format::IQ2_XXS, true},
    FileTypeTraits{FileType::IQ2_XS, "IQ2_XS", Format::IQ2_XS, true},
    FileTypeTraits{FileType::Q2_K_S, "Q2_K_S", Format::Q2_K, true},
    FileTypeTraits{FileType::IQ3_XS, "IQ3_XS", Format::IQ3_S, true},
    FileTypeTraits{FileType::IQ3_XXS, "IQ3_XXS", Format::IQ3_XXS, true},
    FileTypeTraits{FileType::IQ1_S, "IQ1_S", Format::IQ1_S, true},
    FileTypeTraits{FileType::IQ4_NL, "IQ4_NL", Format::IQ4_NL, true},
    FileTypeTraits{FileType::IQ3_S, "IQ3_S", Format::IQ3_S, true},
    FileTypeTraits{FileType::IQ3_M, "IQ3_M", Format::IQ3_S, true},
    FileTypeTraits{FileType::IQ2_S, "IQ2_S", Format::IQ2_XS, true},
    FileTypeTraits{FileType::IQ2_M, "IQ2_M", Format::IQ2_S, true},
    FileTypeTraits{FileType::IQ4_XS, "IQ4_XS", Format::IQ4_XS, true},
    FileTypeTraits{FileType::IQ1_M, "IQ1_M", Format::IQ1_M, true},
    FileTypeTraits{FileType::BF16, "BF16", Format::BF16, true},
    FileTypeTraits{FileType::TQ1_0, "TQ1_0", Format::TQ1_0, true},
    FileTypeTraits{FileType::TQ2_0, "TQ2_0", Format::TQ2_0, true},
    FileTypeTraits{FileType::MXFP4_MOE, "MXFP4_MOE", Format::MXFP4, true},
    FileTypeTraits{FileType::NVFP4, "NVFP4", Format::NVFP4, false},
    FileTypeTraits{FileType::Q1_0, "Q1_0", Format::Q1_0, true},
    FileTypeTraits{FileType::Q2_0, "Q2_0", Format::Q2_0, true},
};
// clang-format on

constexpr std::array kRaisedPresets = {
    Preset{"Q2_K_L", FileType::Q2_K, Format::Q8_0, Format::Q8_0},
    Preset{"Q3_K_XL", FileType::Q3_K_L, Format::Q8_0, Format::Q8_0},
    Preset{"Q4_K_L", FileType::Q4_K_M, Format::Q8_0, Format::Q8_0},
    Preset{"Q5_K_L", FileType::Q5_K_M, Format::Q8_0, Format::Q8_0},
    Preset{"Q6_K_L", FileType::Q6_K, Format::Q8_0, Format::Q8_0},
};

// --- The rules as data. A rule is tried when role and file type agree; the first whose conditions all hold
// counts.

using FileTypeSet = std::uint64_t;  // bit n: the file type with number n

template <class... Types>
constexpr FileTypeSet set_of(Types... types) {
  return ((FileTypeSet{1} << static_cast<unsigned>(types)) | ...);
}

using RoleSet = std::uint32_t;  // bit n: the RecipeRole with value n

template <class... Roles>
constexpr RoleSet roles(Roles... list) {
  return ((RoleSet{1} << static_cast<unsigned>(list)) | ...);
}

// Conditions on the model, all of which must hold.
using Conditions = std::uint32_t;
constexpr Conditions kGroups4 = 1;           // G >= 4: at least four attention heads share a key/value head
constexpr Conditions kGroups4OrExperts = 2;  // G >= 4 or at least four experts
constexpr Conditions kEightExperts = 4;      // exactly eight: the models the rule was made for
constexpr Conditions kImportance = 8;
constexpr Conditions kNoImportance = 16;
constexpr Conditions kFalcon = 32;
constexpr Conditions kNotFalcon = 64;

// Conditions on a running number `a` out of `n`.
enum class Where : std::uint8_t {
  Anywhere,
  FirstTwo,        // a < 2
  FirstFour,       // a < 4
  FirstSixteenth,  // a < n / 16
  FirstEighth,     // a < n / 8
  MiddleEighths,   // n / 8 <= a < 7 * n / 8
  More,            // first and last eighth, every third between
};

struct Rule {
  RoleSet roles;
  FileTypeSet file_types;
  Conditions conditions;
  Where where;
  std::optional<Format> format;  // nothing: the default of the file type
};

constexpr FileTypeSet kEveryFileType = ~FileTypeSet{0};
constexpr RoleSet kValue = roles(RecipeRole::V, RecipeRole::Qkv, RecipeRole::Kvb);
constexpr RoleSet kKey = roles(RecipeRole::K);
constexpr RoleSet kKeyAndQuery = roles(RecipeRole::K, RecipeRole::Q);
constexpr RoleSet kDown = roles(RecipeRole::Down);
constexpr RoleSet kOutput = roles(RecipeRole::O);
constexpr RoleSet kGateAndUp = roles(RecipeRole::Gate, RecipeRole::Up);

constexpr FileTypeSet kIq1 = set_of(FileType::IQ1_S, FileType::IQ1_M);
constexpr FileTypeSet kIq2Small = set_of(FileType::IQ2_XXS, FileType::IQ2_XS);
constexpr FileTypeSet kIq2Large = set_of(FileType::IQ2_S, FileType::IQ2_M);
constexpr FileTypeSet kLowBits = kIq1 | kIq2Small | kIq2Large;  // have rules of their own
constexpr FileTypeSet kIq4 = set_of(FileType::IQ4_NL, FileType::IQ4_XS);

// clang-format off
constexpr std::array kLowBitRules = {
    Rule{kValue, kLowBits, kGroups4OrExperts, Where::Anywhere, Format::Q4_K},
    Rule{kValue, kIq1 | kIq2Small, 0, Where::Anywhere, Format::Q2_K},
    Rule{kValue, kIq2Large, 0, Where::Anywhere, Format::IQ3_S},
    Rule{kKey, kLowBits, kEightExperts, Where::Anywhere, Format::Q4_K},
    Rule{kDown, kIq1 | kIq2Small, 0, Where::FirstEighth, Format::Q2_K},
    Rule{kDown, kIq2Large, 0, Where::FirstEighth, Format::IQ3_S},
    Rule{kOutput, kLowBits, kEightExperts, Where::Anywhere, Format::Q5_K},
    Rule{kOutput, kIq1, 0, Where::Anywhere, Format::IQ2_XXS},
    Rule{kOutput, kIq2Large, 0, Where::Anywhere, Format::IQ3_S},
};

constexpr std::array kRules = {
    // Attention values, fused QKV, latent KV up-projections.
    Rule{kValue, kEveryFileType, kEightExperts, Where::Anywhere, Format::Q8_0},
    Rule{kValue, set_of(FileType::Q2_K), kGroups4, Where::Anywhere, Format::Q4_K},
    Rule{kValue, set_of(FileType::Q2_K), 0, Where::Anywhere, Format::Q3_K},
    Rule{kValue, set_of(FileType::Q2_K_S, FileType::IQ3_XXS, FileType::IQ3_XS, FileType::IQ3_S), kGroups4,
         Where::Anywhere, Format::Q4_K},
    Rule{kValue, set_of(FileType::IQ3_XXS), kImportance, Where::Anywhere, Format::IQ3_XXS},
    Rule{kValue, set_of(FileType::IQ3_XXS), kNoImportance, Where::Anywhere, Format::IQ3_S},
    Rule{kValue, set_of(FileType::IQ3_M), 0, Where::Anywhere, Format::Q4_K},
    Rule{kValue, set_of(FileType::Q3_K_M), 0, Where::FirstTwo, Format::Q5_K},
    Rule{kValue, set_of(FileType::Q3_K_M), 0, Where::Anywhere, Format::Q4_K},
    Rule{kValue, set_of(FileType::Q3_K_L), 0, Where::Anywhere, Format::Q5_K},
    Rule{kValue, kIq4, kGroups4, Where::Anywhere, Format::Q5_K},
    Rule{kValue, set_of(FileType::Q4_K_M, FileType::Q5_K_M), 0, Where::More, Format::Q6_K},
    Rule{kValue, set_of(FileType::Q4_K_S), 0, Where::FirstFour, Format::Q5_K},
    // Keys and queries.
    Rule{kKey, kEveryFileType, kEightExperts, Where::Anywhere, Format::Q8_0},
    Rule{kKeyAndQuery, set_of(FileType::IQ3_XS), 0, Where::Anywhere, Format::IQ3_XXS},
    Rule{kKeyAndQuery, set_of(FileType::IQ3_XXS), 0, Where::Anywhere, Format::IQ2_S},
    // Feed-forward down-projections.
    Rule{kDown, set_of(FileType::Q2_K), 0, Where::Anywhere, Format::Q3_K},
    Rule{kDown, set_of(FileType::Q2_K_S), 0, Where::FirstEighth, Format::Q4_K},
    Rule{kDown, set_of(FileType::IQ3_XXS), kNoImportance, Where::FirstEighth, Format::Q4_K},
    Rule{kDown, set_of(FileType::IQ3_XXS), kNoImportance, Where::Anywhere, Format::Q3_K},
    Rule{kDown, set_of(FileType::Q3_K_M), 0, Where::FirstSixteenth, Format::Q5_K},
    Rule{kDown, set_of(FileType::Q3_K_M), kNotFalcon, Where::Anywhere, Format::Q4_K},
    Rule{kDown, set_of(FileType::Q3_K_M), kFalcon, Where::More, Format::Q4_K},
    Rule{kDown, set_of(FileType::Q3_K_M), kFalcon, Where::Anywhere, Format::Q3_K},
    Rule{kDown, set_of(FileType::IQ3_M), 0, Where::FirstEighth, Format::Q4_K},
    Rule{kDown, set_of(FileType::IQ3_M), kEightExperts, Where::More, Format::Q4_K},
    Rule{kDown, set_of(FileType::Q3_K_L), kFalcon, Where::Anywhere, Format::Q4_K},
    Rule{kDown, set_of(FileType::Q3_K_L), kNotFalcon, Where::Anywhere, Format::Q5_K},
    Rule{kDown, set_of(FileType::Q4_K_M), kNotFalcon, Where::More, Format::Q6_K},
    Rule{kDown, set_of(FileType::Q4_K_M), kFalcon, Where::FirstSixteenth, Format::Q6_K},
    Rule{kDown, set_of(FileType::Q4_K_M), kFalcon, Where::More, Format::Q5_K},
    Rule{kDown, kIq4, kNoImportance, Where::FirstEighth, Format::Q5_K},
    Rule{kDown, set_of(FileType::Q5_K_M), 0, Where::More, Format::Q6_K},
    Rule{kDown, set_of(FileType::Q4_K_S), kNotFalcon, Where::FirstEighth, Format::Q5_K},
    Rule{kDown, set_of(FileType::Q4_0), kImportance, Where::FirstEighth, Format::Q4_1},
    Rule{kDown, set_of(FileType::Q5_0), kImportance, Where::FirstEighth, Format::Q5_1},
    // Attention output.
    Rule{kOutput, set_of(FileType::Q2_K, FileType::Q3_K_S, FileType::Q3_K_M, FileType::Q4_K_S,
                         FileType::Q4_K_M, FileType::IQ3_XXS, FileType::IQ3_XS, FileType::IQ3_S, FileType::IQ3_M) | kIq4,
         kEightExperts | kNotFalcon, Where::Anywhere, Format::Q5_K},
    Rule{kOutput, kEveryFileType, kEightExperts | kNotFalcon, Where::Anywhere, std::nullopt},
    Rule{kOutput, set_of(FileType::Q2_K), kNotFalcon, Where::Anywhere, Format::Q3_K},
    Rule{kOutput, set_of(FileType::IQ3_XXS), kNotFalcon, Where::Anywhere, Format::IQ3_S},
    Rule{kOutput, set_of(FileType::Q3_K_M, FileType::IQ3_M), kNotFalcon, Where::Anywhere, Format::Q4_K},
    Rule{kOutput, set_of(FileType::Q3_K_L), kNotFalcon, Where::Anywhere, Format::Q5_K},
    Rule{kOutput, set_of(FileType::Q3_K_L), kFalcon, Where::Anywhere, Format::Q4_K},
    // Feed-forward gates and up-projections.
    Rule{kGateAndUp, set_of(FileType::IQ3_XS), 0, Where::MiddleEighths, Format::IQ3_XXS},
};
// clang-format on

bool holds(Where where, std::uint64_t a, std::uint64_t n) {
  switch (where) {
    case Where::Anywhere:
      return true;
    case Where::FirstTwo:
      return a < 2;
    case Where::FirstFour:
      return a < 4;
    case Where::FirstSixteenth:
      return a < n / 16;
    case Where::FirstEighth:
      return a < n / 8;
    case Where::MiddleEighths:
      return a >= n / 8 && a < 7 * n / 8;
    case Where::More:
      return a < n / 8 || a >= 7 * n / 8 || (a - n / 8) % 3 == 2;
  }
  return false;
}

// Models of the 70B class, whose few value matrices llama.cpp gives more bits.
bool is_70b_class(const ModelTraits& model) {
  const std::uint32_t layers = model.block_count - std::min(model.block_count, model.nextn_layers);
  const std::string& a = model.architecture;
  if (a == "llama") return layers == 80 && model.head_count != model.head_count_kv;
  if (a == "qwen2" || a == "deci" || a == "olmo") return layers == 80;
  return a == "jais2" && layers == 68;
}

// Chooses formats one tensor after the other, in llama.cpp's processing order.
class RecipeWalk {
 public:
  RecipeWalk(const ModelTraits& model, std::span<const TensorInfo> tensors,
             const StaticRecipeRequest& request, StaticRecipe& answer)
      : model_(model),
        request_(request),
        answer_(answer),
        file_type_(traits(request.file_type)),
        pins_(request.pins) {
    for (const TensorInfo& tensor : tensors)
      if (is_value_role(recipe_role(tensor.name))) ++value_tensors_;
    const bool falcon = model.architecture == "falcon";
    const std::uint32_t groups = model.head_count_kv == 0 ? 0 : model.head_count / model.head_count_kv;
    holding_ = (groups >= 4 ? kGroups4 : 0) |
               (groups >= 4 || model.expert_count >= 4 ? kGroups4OrExperts : 0) |
               (model.expert_count == 8 ? kEightExperts : 0) |
               (request.has_importance ? kImportance : kNoImportance) | (falcon ? kFalcon : kNotFalcon);
    is_70b_ = is_70b_class(model);
  }

  // `index`: of the tensor in the model.
  Format choose(const TensorInfo& tensor, std::size_t index) {
    has_importance_ = request_.importance.empty() ? request_.has_importance : request_.importance[index];
    if (!quantizability(tensor, request_.leave_output_tensor).quantizable) return tensor.format;
    const RecipeRole role = recipe_role(tensor.name);
    if (role == RecipeRole::Embed && request_.embedding_format)
      return explicit_format(tensor, *request_.embedding_format);
    if (role == RecipeRole::Output && request_.output_format)
      return explicit_format(tensor, *request_.output_format);
    if (!is_quantized(file_type_.default_format)) return file_type_.default_format;
    const Format wanted = wanted_format(tensor, role);
    if (wanted == tensor.format) return wanted;
    const FittedFormat fitted = fit_row_length(wanted, tensor.row_length());
    if (fitted.substituted) answer_.substitutions.push_back({tensor.name, wanted, fitted.format});
    if (fitted.refused_by_llama_cpp) refuse_row_length(tensor, wanted);
    note_importance(tensor, fitted.format);
    return fitted.format;
  }

 private:
  // Explicit formats of head and embedding are not replaced in llama.cpp, which then stops at a row length
  // that does not fit.
  Format explicit_format(const TensorInfo& tensor, Format format) {
    const FittedFormat fitted = fit_row_length(format, tensor.row_length());
    if (fitted.substituted) {
      refuse_row_length(tensor, format);
      answer_.substitutions.push_back({tensor.name, format, fitted.format});
    }
    return fitted.format;
  }

  void refuse_row_length(const TensorInfo& tensor, Format wanted) {
    answer_.refused_by_llama_cpp.push_back(
        fmt::format("tensor '{}': rows of {} weights are no whole number of {} blocks", tensor.name,
                    tensor.row_length(), name_of(wanted)));
  }

  void note_importance(const TensorInfo& tensor, Format format) {
    if (has_importance_) return;
    const bool needed = needs_importance(format, tensor.name) ||
                        (request_.file_type == FileType::Q2_K_S && format == Format::Q2_K &&
                         needs_importance(Format::IQ1_S, tensor.name));
    if (needed) answer_.missing_importance.push_back(tensor.name);
  }

  Format wanted_format(const TensorInfo& tensor, RecipeRole role) {
    if (const auto first = pins_.first_in(tensor.name)) return request_.pins[*first].format;
    if (request_.raise_state_space) {
      if (stays_in_state_space(tensor.name) && !is_quantized(tensor.format)) return tensor.format;
      if (tensor_role(tensor.name) == "ssm_out") return Format::Q8_0;
    }
    if (request_.pure) return file_type_.default_format;
    if (const auto format = head_or_embedding(tensor, role)) return *format;
    const Format format = file_type_rules(tensor, role).value_or(file_type_.default_format);
    advance(role);
    return format;
  }

  // Output head, embeddings and everything of MXFP4_MOE; nothing when the layer rules decide.
  std::optional<Format> head_or_embedding(const TensorInfo& tensor, RecipeRole role) const {
    const FileType type = request_.file_type;
    const Format standard = file_type_.default_format;
    const auto one_of = [type](auto... types) { return ((type == types) || ...); };
    if (role == RecipeRole::Output || (role == RecipeRole::Embed && model_.tied)) {
      if (request_.output_format) return request_.output_format;
      if (type == FileType::MXFP4_MOE) return Format::Q8_0;
      if (model_.architecture == "falcon" || tensor.row_length() % traits(standard).block_len != 0)
        return Format::Q8_0;
      if (one_of(FileType::IQ1_S, FileType::IQ1_M, FileType::IQ2_XXS, FileType::IQ2_XS, FileType::IQ2_S,
                 FileType::IQ2_M, FileType::IQ3_XXS))
        return Format::Q5_K;
      return standard == Format::Q8_0 ? Format::Q8_0 : Format::Q6_K;
    }
    if (type == FileType::MXFP4_MOE) {
      const bool feed_forward =
          role == RecipeRole::Up || role == RecipeRole::Gate || role == RecipeRole::Down;
      const bool stacked = tensor.ne[2] > 1 && (model_.architecture != "bailingmoe3" || feed_forward);
      return stacked ? Format::MXFP4 : Format::Q8_0;
    }
    if (role != RecipeRole::Embed) return std::nullopt;
    if (one_of(FileType::IQ1_S, FileType::IQ1_M, FileType::IQ2_XXS, FileType::IQ2_XS)) return Format::Q2_K;
    if (one_of(FileType::IQ2_S, FileType::IQ2_M, FileType::IQ3_XXS)) return Format::IQ3_S;
    if (one_of(FileType::TQ1_0, FileType::TQ2_0, FileType::Q2_0)) return Format::Q4_K;
    return standard;
  }

  std::optional<Format> file_type_rules(const TensorInfo& tensor, RecipeRole role) {
    const bool low_bits = (kLowBits & set_of(request_.file_type)) != 0;
    // Low-bit file types count down-projections even where experts make the layer number differ.
    const std::uint64_t number = low_bits ? running_[index(role)] : number_of(tensor, role);
    const std::uint64_t of = is_value_role(role) ? value_tensors_ : model_.block_count;
    if (low_bits) return first_rule(kLowBitRules, role, number, of);
    std::optional<Format> format = first_rule(kRules, role, number, of);
    const Format chosen = format.value_or(file_type_.default_format);
    if (is_value_role(role) && is_70b_ && (chosen == Format::Q3_K || chosen == Format::Q4_K))
      format = Format::Q5_K;
    return format;
  }

  std::optional<Format> first_rule(std::span<const Rule> rules, RecipeRole role, std::uint64_t number,
                                   std::uint64_t of) const {
    for (const Rule& rule : rules)
      if ((rule.roles & roles(role)) != 0 && (rule.file_types & set_of(request_.file_type)) != 0 &&
          (rule.conditions & ~holding_) == 0 && holds(rule.where, number, of))
        return rule.format;
    return std::nullopt;
  }

  // The running number of a tensor among those of its role; in expert models, whose layers hold several
  // tensors of one role, the layer number for the feed-forward roles.
  std::uint64_t number_of(const TensorInfo& tensor, RecipeRole role) {
    const bool feed_forward = role == RecipeRole::Up || role == RecipeRole::Gate || role == RecipeRole::Down;
    if (!feed_forward || model_.expert_count <= 1) return running_[index(role)];
    const auto layer = layer_of(tensor.name);
    if (layer && *layer < model_.block_count) return *layer;
    answer_.refused_by_llama_cpp.push_back(
        fmt::format("tensor '{}': a feed-forward tensor of an expert model outside its {} layers",
                    tensor.name, model_.block_count));
    return running_[index(role)];
  }

  static std::size_t index(RecipeRole role) {
    return static_cast<std::size_t>(is_value_role(role) ? RecipeRole::V : role);
  }
  void advance(RecipeRole role) { ++running_[index(role)]; }

  const ModelTraits& model_;
  const StaticRecipeRequest& request_;
  StaticRecipe& answer_;
  const FileTypeTraits& file_type_;
  PinIndex pins_;
  Conditions holding_ = 0;
  bool is_70b_ = false;
  bool has_importance_ = false;  // the tensor at hand
  std::uint64_t value_tensors_ = 0;
  std::array<std::uint64_t, static_cast<std::size_t>(RecipeRole::Other) + 1> running_{};
};

// Names without layer first, then layer by layer, inside a layer by byte order; or as the files have them.
std::vector<std::size_t> processing_order(std::span<const TensorInfo> tensors, bool keep_split) {
  std::vector<std::size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  if (keep_split) return order;
  const auto key = [&](std::size_t i) {
    const auto layer = layer_of(tensors[i].name);
    return std::tuple<std::int64_t, std::string_view>(layer ? std::int64_t{*layer} : -1, tensors[i].name);
  };
  std::ranges::stable_sort(order, {}, key);
  return order;
}

}  // namespace

std::span<const FileTypeTraits> all_file_types() {
  return kFileTypes;
}

const FileTypeTraits* find_file_type(std::uint64_t number) {
  const auto found = std::ranges::find(
      kFileTypes, number, [](const FileTypeTraits& t) { return static_cast<std::uint64_t>(t.type); });
  return found == kFileTypes.end() ? nullptr : &*found;
}

const FileTypeTraits& traits(FileType type) {
  return *find_file_type(static_cast<std::uint64_t>(type));
}

std::optional<FileType> parse_file_type(std::string_view name) {
  const auto found = std::ranges::find_if(
      kFileTypes, [&](const FileTypeTraits& known) { return equal_ignoring_case(known.name, name); });
  return found == kFileTypes.end() ? std::nullopt : std::optional(found->type);
}

std::span<const Preset> all_presets() {
  static const std::vector<Preset> presets = [] {
    std::vector<Preset> list;
    for (const FileTypeTraits& type : kFileTypes)
      if (type.has_recipe) list.push_back({type.name, type.type});
    list.insert(list.end(), kRaisedPresets.begin(), kRaisedPresets.end());
    return list;
  }();
  return presets;
}

const Preset* find_preset(std::string_view name) {
  const auto found = std::ranges::find_if(
      all_presets(), [&](const Preset& known) { return equal_ignoring_case(known.name, name); });
  return found == all_presets().end() ? nullptr : &*found;
}

Result<StaticRecipe> resolve_static_recipe(const ModelTraits& model, std::span<const TensorInfo> tensors,
                                           const StaticRecipeRequest& request) {
  if (!traits(request.file_type).has_recipe)
    return fail(ErrorCode::Unsupported, "file type {} only comes from conversion: it has no recipe",
                name_of(request.file_type));
  if (!request.importance.empty() && request.importance.size() != tensors.size())
    return fail(ErrorCode::ShapeMismatch, "importance of {} tensors for a model of {}",
                request.importance.size(), tensors.size());
  StaticRecipe answer;
  answer.recipe.entries.resize(tensors.size());
  RecipeWalk walk(model, tensors, request, answer);
  for (const std::size_t i : processing_order(tensors, request.keep_split))
    answer.recipe.entries[i] = {tensors[i].name, walk.choose(tensors[i], i)};
  return answer;
}

Result<FileType> dominant_file_type(std::span<const TensorInfo> tensors, const Recipe& recipe) {
  if (recipe.entries.size() != tensors.size())
    return fail(ErrorCode::ShapeMismatch, "a recipe of {} tensors for a model of {}", recipe.entries.size(),
                tensors.size());
  std::array<double, kFormatIdCount> elements{};
  std::array<bool, kFormatIdCount> in_layers{};
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (recipe.entries[i].tensor != tensors[i].name)
      return fail(ErrorCode::ShapeMismatch, "entry {} of the recipe is for tensor '{}', the model's is '{}'",
                  i + 1, recipe.entries[i].tensor, tensors[i].name);
    if (!quantizability(tensors[i]).quantizable) continue;
    const auto id = static_cast<std::size_t>(recipe.entries[i].format);
    elements[id] += static_cast<double>(tensors[i].elements());
    if (layer_of(tensors[i].name)) in_layers[id] = true;
  }
  // Ties go to the smaller id.
  const auto most = std::ranges::max_element(elements);
  if (*most == 0) return FileType::F32;
  const auto dominant = static_cast<Format>(most - elements.begin());
  const bool mixed = std::ranges::count(in_layers, true) > 1;
  switch (dominant) {
    case Format::Q2_K:
      return mixed ? FileType::Q2_K : FileType::Q2_K_S;
    case Format::Q3_K:
      return mixed ? FileType::Q3_K_M : FileType::Q3_K_S;
    case Format::Q4_K:
      return mixed ? FileType::Q4_K_M : FileType::Q4_K_S;
    case Format::Q5_K:
      return mixed ? FileType::Q5_K_M : FileType::Q5_K_S;
    case Format::IQ2_S:
      return FileType::IQ2_M;  // the only file type made mostly of it
    case Format::IQ3_S:
      return mixed ? FileType::IQ3_M : FileType::IQ3_S;
    default:
      break;
  }
  for (const FileTypeTraits& candidate : kFileTypes)
    if (candidate.default_format == dominant) return candidate.type;
  return FileType::F32;
}

}  // namespace quantfit::optimizer
