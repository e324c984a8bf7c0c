// The named mixtures of llama.cpp ("Q4_K_M"): which format each tensor gets. The
// yardstick for optimized recipes.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/format.h"
#include "core/recipe.h"
#include "core/tensor_info.h"
#include "optimizer/llama_cpp/format_pin.h"
#include "optimizer/llama_cpp/model_traits.h"

namespace quantfit::optimizer {

// Values of the metadata key general.file_type. A number space of its own: not the ids of Format, and names
// do not always agree (file type IQ2_S stores mostly format IQ2_XS, IQ2_M mostly IQ2_S, IQ3_XS mostly IQ3_S).
enum class FileType : std::uint32_t {
  F32 = 0,
  F16 = 1,
  Q4_0 = 2,
  Q4_1 = 3,
  Q8_0 = 7,
  Q5_0 = 8,
  Q5_1 = 9,
  Q2_K = 10,
  Q3_K_S = 11,
  Q3_K_M = 12,
  Q3_K_L = 13,
  Q4_K_S = 14,
  Q4_K_M = 15,
  Q5_K_S = 16,
  Q5_K_M = 17,
  Q6_K = 18,
  IQ2_XXS = 19,
  IQ2_XS = 20,
  Q2_K_S = 21,
  IQ3_XS = 22,
  IQ3_XXS = 23,
  IQ1_S = 24,
  IQ4_NL = 25,
  IQ3_S = 26,
  IQ3_M = 27,
  IQ2_S = 28,
  IQ2_M = 29,
  IQ4_XS = 30,
  IQ1_M = 31,
  BF16 = 32,
  TQ1_0 = 36,
  TQ2_0 = 37,
  MXFP4_MOE = 38,
  NVFP4 = 39,
  Q1_0 = 40,
  Q2_0 = 41,
};

struct FileTypeTraits {
  FileType type;
  std::string_view name;
  Format default_format;  // what most of the weights get
  bool has_recipe;        // false for NVFP4, which only comes from conversion
};

// In ascending order of number.
[[nodiscard]] std::span<const FileTypeTraits> all_file_types();
// Null when the number was withdrawn or does not exist.
[[nodiscard]] const FileTypeTraits* find_file_type(std::uint64_t number);
[[nodiscard]] const FileTypeTraits& traits(FileType type);
[[nodiscard]] inline std::string_view name_of(FileType type) {
  return traits(type).name;
}
// Accepts any case: "q4_k_m".
[[nodiscard]] std::optional<FileType> parse_file_type(std::string_view name);

// A mixture by the name that users know: that of its file type, or one under which publishers raise embedding
// and output head.
struct Preset {
  std::string_view name;
  FileType type;
  std::optional<Format> output_format = {};
  std::optional<Format> embedding_format = {};
};
// File types with a recipe in ascending order of number, then the raised ones: Q2_K_L, Q3_K_XL, Q4_K_L,
// Q5_K_L and Q6_K_L have both in Q8_0.
[[nodiscard]] std::span<const Preset> all_presets();
// Accepts any case; null for an unknown name and for a file type without a recipe.
[[nodiscard]] const Preset* find_preset(std::string_view name);

struct StaticRecipeRequest {
  FileType file_type = FileType::Q4_K_M;
  bool has_importance = false;                  // some importance matrix is there: other rules hold
  std::optional<Format> output_format = {};     // of the output head
  std::optional<Format> embedding_format = {};  // of the token embedding
  std::vector<FormatPin> pins = {};             // the first pattern found in the name counts
  bool pure = false;                            // every tensor the default format
  bool leave_output_tensor = false;
  bool keep_split = false;  // running numbers advance in file order, not layer by layer
  // Per tensor whether the importance matrix has data for it; empty: as has_importance, for all.
  std::vector<bool> importance = {};
  // Not llama.cpp's: state-space projections as publishers of hybrid models have them (see ConstraintRules).
  bool raise_state_space = false;
};

// Where a recipe deviates from the format first chosen because of the row length.
struct Substitution {
  std::string tensor;
  Format wanted = Format::F32;
  Format instead = Format::F32;
};

struct StaticRecipe {
  Recipe recipe;  // one entry per tensor of the model, in file order
  std::vector<Substitution> substitutions;
  std::vector<std::string> missing_importance;    // tensors that llama.cpp refuses without importance data
  std::vector<std::string> refused_by_llama_cpp;  // what else it would stop at, as sentences
};

// What llama.cpp would choose for every tensor; formats of kept tensors are those of the source. Where
// llama.cpp stops with an error, the recipe goes on (F16 where a row length has no substitute) and says so.
// Unsupported for a file type without a recipe.
[[nodiscard]] Result<StaticRecipe> resolve_static_recipe(const ModelTraits& model,
                                                         std::span<const TensorInfo> tensors,
                                                         const StaticRecipeRequest& request);

// The file type whose name describes the bulk of the weights best: that of the format which holds most
// elements of the tensors that may be quantized, "_M" where K formats are mixed. `recipe` has one entry per
// tensor, in order. ShapeMismatch when it has not.
[[nodiscard]] Result<FileType> dominant_file_type(std::span<const TensorInfo> tensors, const Recipe& recipe);

}  // namespace quantfit::optimizer
