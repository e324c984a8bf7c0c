// Options that `quantize` and `plan` share, and how they become a JobRequest.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/option_table.h"
#include "cli/text_options.h"
#include "core/error.h"
#include "kernels/row_kernels.h"
#include "optimizer/job/inputs.h"
#include "optimizer/job/request.h"
#include "optimizer/job/target.h"

namespace quantfit::cli {

// As parsed; text is turned into meaning by make_request and make_targets, so that
// every front end checks alike.
struct JobOptions {
  std::string model;
  std::string importance;  // kNoImportance: none, and none is made
  std::string state;
  TextOptions text;          // what an importance matrix is made from, when none is given
  std::string save_imatrix;  // where it is written, too
  std::string objective = "auto";
  std::uint64_t gradient_tokens = 0;  // 0: as the model needs
  std::string error_feedback = "auto";
  std::uint32_t candidates = 1;  // recipes that are written and run
  // target
  std::vector<std::string> target_bpw;
  std::vector<std::string> target_size;
  std::string target_vram;
  std::string target_ram;
  std::optional<std::string> min_fill;
  std::string preset;
  std::string recipe;
  // memory
  std::uint64_t ctx_size = 0;
  std::optional<std::string> cache_type_k;
  std::optional<std::string> cache_type_v;
  std::optional<std::uint32_t> parallel;
  std::optional<std::uint32_t> ubatch;
  std::string vram_margin;
  bool cpu_moe = false;
  std::uint32_t n_cpu_moe = 0;
  std::vector<std::string> override_tensor;
  std::optional<std::uint32_t> gpu_layers;
  bool swa_full = false;
  // formats
  std::string formats;
  std::string exclude_formats;
  std::string runtime;
  std::vector<std::string> tensor_type;
  std::string tensor_type_file;
  std::string output_tensor_type;
  std::string token_embedding_type;
  bool leave_output_tensor = false;
  bool raise_state_space = false;
  std::vector<std::string> min_type;
  std::vector<std::string> max_type;
  std::vector<std::string> tie;
  std::vector<std::string> role_weight;
  double max_error = optimizer::JobRequest{}.max_nmse;
  double speed_weight = 0;
  bool allow_requantize = false;
  bool force_without_importance = false;
  bool allow_unmatched = false;
  // work
  std::string effort = "default";
  std::optional<double> kappa;  // none: by role
  double sample_precision = optimizer::SamplingParameters{}.precision;
  std::uint64_t sample_rows = optimizer::SamplingParameters{}.min_rows;
  std::uint64_t seed = optimizer::SamplingParameters{}.seed;
  unsigned threads = 0;
  // output
  std::string split_max_size;
  std::uint64_t split_max_tensors = 0;
  bool keep_split = false;
  std::vector<std::uint32_t> prune_layers;
  std::vector<std::string> override_kv;
  std::vector<std::string> reuse;  // files
  std::string cache;
  std::string cache_size;
  bool json = false;
  bool all_tensors = false;
};

// --imatrix none: do without.
inline constexpr std::string_view kNoImportance = "none";

// More threads than any machine has.
inline constexpr unsigned kMaxThreads = 4096;

// Names for suggestions.
[[nodiscard]] std::vector<std::string_view> preset_names();
[[nodiscard]] std::vector<std::string_view> format_names();

// --threads of any command; 0 stands for all cores. `threads` must outlive the table.
Option& add_threads_option(OptionTable& table, unsigned& threads, std::string sentence = "threads");

void add_input_options(OptionTable& table, JobOptions& options);
void add_target_options(OptionTable& table, JobOptions& options);
// The text of an importance matrix that is made on the way.
void add_calibration_options(OptionTable& table, JobOptions& options);
// What an error in each tensor costs; stands behind the options above.
void add_objective_options(OptionTable& table, JobOptions& options);
// Recipes that are run before one is kept; of commands that write. Stands behind the options above.
void add_candidates_option(OptionTable& table, JobOptions& options);
// Formats and constraints, work.
void add_search_options(OptionTable& table, JobOptions& options);

void add_override_option(OptionTable& table, JobOptions& options);
// Of --override-kv, against the model's metadata.
[[nodiscard]] Result<std::vector<GgufKeyValue>> make_overrides(const JobOptions& options,
                                                               const GgufMetadata& source);
// Tensors that were encoded before.
void add_reuse_options(OptionTable& table, JobOptions& options);

// InvalidArgument, naming the option, when a value has no meaning.
[[nodiscard]] Result<optimizer::JobRequest> make_request(const JobOptions& options);
// InvalidArgument for a pattern that is found in no tensor's name, unless that is allowed.
[[nodiscard]] Result<void> check_patterns(const JobOptions& options, const optimizer::JobRequest& request,
                                          std::span<const TensorInfo> tensors);
// At least one, in the order given. Presets and recipe files are resolved for the opened model; what deviates
// from them is added to its warnings.
[[nodiscard]] Result<std::vector<optimizer::Target>> make_targets(const JobOptions& options,
                                                                  const optimizer::JobRequest& request,
                                                                  optimizer::JobInputs& inputs);
// What of make_targets can be checked before the model is opened.
[[nodiscard]] Result<void> check_targets(const JobOptions& options);

}  // namespace quantfit::cli
