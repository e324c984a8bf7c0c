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

// What a front end calls each kind of rule, for sentences to its users.
struct RuleNames {
  std::string pin = "tensor type";
  std::string output_format = "output format";
  std::string embedding_format = "embedding format";
  std::string leave_output_tensor = "output head left as it is";
  std::string floor = "smallest type";
  std::string ceiling = "largest type";
  std::string pool = "list of formats";
  std::string excluded = "list of excluded formats";
  std::string runtime = "runtime";
  std::string tie = "tie";
  std::string low_bits = "low bits without importance data";
  std::string raise_state_space = "raised state-space tensors";
  std::string speed_weight = "weight of speed";  // of a JobRequest
  std::string min_fill = "share to fill";        // likewise
};

struct ConstraintRules {
  std::vector<FormatPin> pins = {};             // the first pattern found in the name counts
  std::optional<Format> output_format = {};     // of the output head
  std::optional<Format> embedding_format = {};  // of the token embedding
  bool leave_output_tensor = false;             // the output head stays as it is
  // State-space projections as publishers of hybrid models have them: the tiny ssm_alpha, ssm_beta and ssm_ba
  // stay as the source has them, ssm_out gets Q8_0. Pins come first.
  bool raise_state_space = false;
  std::vector<FormatPin> floors = {};    // at least this many bits per weight; all that match count
  std::vector<FormatPin> ceilings = {};  // at most
  std::vector<Format> pool = {};         // to choose from; empty: default_candidate_formats()
  std::vector<Format> excluded = {};     // never chosen
  std::optional<Runtime> runtime = {};   // without formats that are slow there
  std::vector<Pattern> ties = {};        // tensors of one layer that the pattern is found in
  // Per tensor whether there are importance data for it; empty: for none.
  std::vector<bool> importance = {};
  bool low_bits_without_importance = false;  // formats that need importance data may do without
  RuleNames names = {};
};

// What one tensor may become.
struct TensorChoices {
  std::vector<Format> formats;  // at least one; ascending bits per weight, then id
  std::string reason;        // why these: "kept: a norm", "pinned by tensor type 'ffn'", "formats by choice"
  bool kept = false;         // not quantizable: the source's format and bytes
  bool substituted = false;  // the wanted formats do not fit the row length
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
// ceilings. Formats that need importance data are left out tensor by tensor, which the notes say. A pin
// outside the pool or slow on the runtime stands, one that is excluded, below a floor or above a ceiling is a
// conflict.
[[nodiscard]] Result<Constraints> resolve_constraints(const ModelTraits& model,
                                                      std::span<const TensorInfo> tensors,
                                                      const ConstraintRules& rules);

}  // namespace quantfit::optimizer
