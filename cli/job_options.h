// Options that `quantize` and `plan` share, and how they become a JobRequest.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "kernels/row_kernels.h"
#include "optimizer/job.h"

namespace CLI {
class App;
}

namespace quantfit::cli {

// As parsed; text is turned into meaning by make_request and make_targets, so that every front end checks alike.
struct JobOptions {
  std::string model;
  std::string importance;
  std::string state;
  std::vector<std::string> target_bpw;
  std::vector<std::string> target_size;
  std::string formats;
  std::string exclude_formats;
  std::string effort = "default";
  double kappa = optimizer::ErrorModel{}.kappa;
  double sample_precision = optimizer::SamplingPlan{}.precision;
  std::uint64_t sample_rows = optimizer::SamplingPlan{}.min_rows;
  std::uint64_t seed = optimizer::SamplingPlan{}.seed;
  unsigned threads = 0;
  bool allow_requantize = false;
  bool force_without_importance = false;
  bool json = false;
  bool quiet = false;
  bool all_tensors = false;
};

void add_job_options(CLI::App& command, JobOptions& options);

// InvalidArgument, naming the option, when a value has no meaning.
[[nodiscard]] Result<optimizer::JobRequest> make_request(const JobOptions& options);
// At least one, in the order given.
[[nodiscard]] Result<std::vector<optimizer::Target>> make_targets(const JobOptions& options);

}  // namespace quantfit::cli
