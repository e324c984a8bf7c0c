// What users demand of a recipe, turned into the formats that each tensor may have and
// the tensors that must agree.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/format.h"
#include "core/tensor_info.h"
#include "optimizer/llama_cpp/format_pin.h"
#include "optimizer/llama_cpp/model_traits.h"
#include "optimizer/planning/runtime_speed.h"

namespace quantfit::optimizer {

struct ConstraintRules {
  std::vector<FormatPin> pins = {};             // --tensor-type: the first pattern found in the name counts
  std::optional<Format> output_format = {};     // --output-tensor-type
  std::optional<Format> embedding_format = {};  // --token-embedding-type
  bool leave_output_tensor = false;             // --leave-output-tensor
  std::vector<FormatPin> floors = {};  // --min-type: at least this many bits per weight; all that match count
  std::vector<FormatPin> ceilings = {};  // --max-type
  std::vector<Format> pool = {};         // --formats; empty: default_candidate_formats()
  std::vector<Format> excluded = {};     // --exclude-formats
  std::optional<Runtime> runtime = {};   // --runtime
  std::vector<Pattern> ties = {};        // --tie: tensors of one layer that the pattern is found in
  bool has_importance = false;
  bool low_bits_without_importance =
      false;  // allow formats that need importance data although there are none
};

// What one tensor may become.
struct TensorChoices {
  std::vector<Format> formats;  // at least one; ascending bits per weight, then id
  std::string reason;           // why these: "kept: a norm", "pinned by 'ffn_down'", "formats by choice", ...
  bool kept = false;            // not quantizable: the source's format and bytes
  bool substituted = false;     // the wanted formats do not fit the row length
  std::optional<std::uint32_t> group;  // index into Constraints::groups
  bool may_keep = false;  // the source's format may compete too: no pool or pin was given, no rule forbids it
};

// Tensors that must have one common format.
struct TieGroup {
  std::string name;                    // "blk.3 ffn_(gate|up)"
  std::vector<std::uint32_t> tensors;  // at least two, ascending
  std::vector<Format> formats;         // what all of them allow; at least one
};

struct Constraints {
  std::vector<TensorChoices> tensors;  // one per tensor, in order
  std::vector<TieGroup> groups;
  std::vector<std::string> notes;  // what a person should know: substitutions, rules that match nothing
};

// Infeasible, naming tensor and constraints, when rules contradict one another or leave a tensor or group
// without format; InvalidArgument when the pool holds what no recipe may choose. Precedence: tensors that are
// never quantized; explicit output and embedding formats; pins; then pool, runtime, exclusions, floors and
// ceilings. A pin outside the pool or slow on the runtime stands, one that is excluded, below a floor or
// above a ceiling is a conflict.
[[nodiscard]] Result<Constraints> resolve_constraints(const ModelTraits& model,
                                                      std::span<const TensorInfo> tensors,
                                                      const ConstraintRules& rules);

}  // namespace quantfit::optimizer
