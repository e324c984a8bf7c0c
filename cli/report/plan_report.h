// The answer for one target, as plain data: what `plan` prints, and `quantize` after writing.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/model.h"
#include "optimizer/job/contest.h"
#include "optimizer/job/job.h"
#include "optimizer/job/solve.h"
#include "optimizer/job/yardstick.h"

namespace quantfit::cli {

// What was asked for. Only the members of its kind are set.
struct TargetReport {
  std::string kind;  // "bpw", "file", "memory", "recipe"
  std::string text;  // "4.5 bpw"
  std::optional<double> bpw;
  std::optional<std::uint64_t> file_bytes;
  std::optional<std::uint64_t> vram_bytes;
  std::optional<std::uint64_t> ram_bytes;
  std::string recipe;
};

// How near to the optimum a search came, and why it ended.
struct ProofReport {
  bool optimal = false;
  std::string termination;
  double objective = 0;
  double lower_bound = 0;
  double gap = 0;
  double cost_unit = 0;
  std::uint64_t states = 0;
  double seconds = 0;
  bool of_full_ones_only = false;  // the proof is about recipes that are as full as this one
};

// What demanding a share of a budget came to; see optimizer::Fill.
struct FillReport {
  std::uint64_t wanted_bytes = 0;
  std::uint64_t least_bytes = 0;
  std::uint64_t unfilled_bytes = 0;
  bool met = true;
  bool proven_impossible = false;
};

// One budget and what was made of it.
struct BudgetReport {
  std::string of;                            // "tensor data", "file", "GPU", "RAM"
  std::optional<std::uint64_t> limit_bytes;  // nothing: no limit was given
  std::uint64_t used_bytes = 0;
  std::uint64_t smallest_bytes = 0;  // reachable range
  std::uint64_t largest_bytes = 0;
  std::uint64_t shortfall_bytes = 0;  // cache and buffers alone need so much more
  bool feasible = true;
  double multiplier = 0;  // objective saved by one more byte
  std::optional<FillReport> fill;
};

// What memory holds besides weights.
struct MemoryItemReport {
  std::string what;
  std::string on;  // "GPU", "RAM"
  std::uint64_t bytes = 0;
  std::string how;
};

// 8 bytes / elements; 0 without elements.
[[nodiscard]] double bits_per_element(std::uint64_t bytes, std::uint64_t elements);

// Totals of one format.
struct FormatUse {
  std::string format;
  std::uint64_t tensors = 0;
  std::uint64_t elements = 0;
  std::uint64_t bytes = 0;
};
// Largest first.
[[nodiscard]] std::vector<FormatUse> formats_used(std::span<const TensorInfo> tensors);

// A mixture of llama.cpp beside the best recipe of its size.
struct StaticReport {
  std::string name;
  double bpw = 0;
  std::uint64_t tensor_bytes = 0;
  double predicted_error = 0;
  std::optional<double> optimized_error;  // nothing: constraints forbid so small a recipe
};
// A mixture that could not be compared, and why.
struct StaticWithoutReport {
  std::string name;
  std::string why;  // as a phrase
};
struct StaticReports {
  std::vector<StaticReport> compared;  // in ascending order of bytes
  std::vector<StaticWithoutReport> without;
};
[[nodiscard]] StaticReports make_static_reports(const optimizer::StaticComparisons& comparisons);

struct TensorReport {
  std::string name;
  std::string role;
  std::optional<std::uint32_t> layer;
  std::vector<std::uint64_t> shape;
  std::string from;
  std::string format;
  std::uint64_t elements = 0;
  std::uint64_t bytes = 0;
  bool kept = false;  // the source's format
  std::string kept_because;
  double nmse = 0;        // relative output error
  double bias_share = 0;  // part of it that is a shift of the mean, 0 to 1
  double sensitivity = 0;
  std::string sensitivity_source;  // empty: the sensitivity is unknown

  [[nodiscard]] double error() const { return nmse * sensitivity; }  // its part of the predicted error
};

// Errors this near to one another are about the same: no evaluation tells such models apart.
inline constexpr double kAboutTheSame = 0.1;  // of the error

// The predicted error in terms of a mixture that people know.
struct QualityReport {
  std::string like;             // the mixture whose predicted error is nearest
  std::optional<double> ratio;  // error of the answer over its error; nothing when that is 0
};

// What one tensor could do with more bytes.
struct GainReport {
  std::string tensor;
  std::string from, to;  // formats
  std::uint64_t more_bytes = 0;
  double saved_error = 0;
};

// One of several recipes that were written and run (optimizer/job/contest.h).
struct CandidateReport {
  std::string rule;
  std::uint64_t file_bytes = 0;
  double predicted_error = 0;
  double divergence = 0;        // measured, nats per token
  double divergence_error = 0;  // over chunks
  bool kept = false;
};
[[nodiscard]] std::vector<CandidateReport> candidate_reports(const optimizer::Contest& contest);

struct PlanReport {
  TargetReport target;
  bool feasible = false;
  std::vector<BudgetReport> budgets;  // the target's own first; RAM as the second where there are two
  std::uint64_t elements = 0;
  std::uint64_t tensor_bytes = 0;
  std::uint64_t file_bytes = 0;
  double bpw = 0;
  std::string error_unit;  // "nats" of KL divergence, or "relative": only ratios mean something
  std::optional<double> predicted_error;  // nothing: formats that were not measured
  std::optional<QualityReport> quality;   // nothing without a mixture to compare with
  std::optional<double> unfilled_error;   // of the best recipe for the budgets alone
  std::optional<ProofReport> proof;       // of a search
  std::string static_recipe;              // the mixture that beat a stopped search; empty: the search's own
  std::vector<std::string> limits;
  std::vector<std::string> notes;
  bool has_memory = false;  // a memory target: `memory` and `ctx_size` count
  std::vector<MemoryItemReport> memory;
  std::uint64_t ctx_size = 0;
  std::vector<FormatUse> formats;
  StaticReports statics;                    // all that the program knows
  std::vector<TensorReport> tensors;        // in file order
  std::vector<GainReport> gains;            // at most one per tensor, the most error saved per byte first
  std::vector<CandidateReport> candidates;  // that were run; none where what is predicted decided
  // What `quantize` added.
  std::string output;          // empty: nothing was written. Of several files the first
  std::size_t more_files = 0;  // beside `output`
  double write_seconds = 0;
  std::string source_digest;             // of every weight that was read for it
  std::uint64_t encoded_tensors = 0;     // that changed their format
  std::uint64_t reused_tensors = 0;      // of these, taken as they were encoded before
  std::vector<std::string> run_command;  // the words that start llama.cpp's server with it
};

[[nodiscard]] PlanReport make_plan_report(const Model& model, const optimizer::PreparedJob& job,
                                          const optimizer::Solution& solution,
                                          const optimizer::StaticComparisons& statics);

// Its parts, for answers that come in numbers (plan_text.h). Everything but mixtures, tensors and gains; the
// quality is told beside `statics`:
[[nodiscard]] PlanReport make_plan_summary(const Model& model, const optimizer::Solution& solution,
                                           std::span<const StaticReport> statics);
// The row of tensor `index` in `format`.
[[nodiscard]] TensorReport make_tensor_report(const Model& model, const optimizer::PreparedJob& job,
                                              std::size_t index, Format format);
// The format that saves most error per byte it adds to tensor `index` in the format `now`; nothing where none
// saves any.
[[nodiscard]] std::optional<GainReport> make_gain_report(const optimizer::PreparedJob& job, std::size_t index,
                                                         Format now);
// Whether `a` saves more error per byte.
[[nodiscard]] bool gains_more(const GainReport& a, const GainReport& b);

}  // namespace quantfit::cli
