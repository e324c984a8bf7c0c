#include "cli/job_options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include <algorithm>

#include "core/byte_size.h"

namespace quantfit::cli {

void add_job_options(CLI::App& command, JobOptions& o) {
  command.add_option("model", o.model, "GGUF model to start from (the first file, when it is sharded)")
      ->required()
      ->type_name("MODEL.gguf");
  command.add_option("--imatrix", o.importance,
                     "importance matrix of this model (GGUF or legacy format); without one, formats below 3 bits "
                     "are left out")
      ->type_name("FILE");
  command.add_option("--state", o.state,
                     "file that remembers every measurement: an interrupted run continues, another target starts "
                     "at once")
      ->type_name("FILE");

  auto* targets = command.add_option_group("Target", "how large the result may be; never exceeded");
  targets->add_option("--target-bpw", o.target_bpw,
                      "bits per weight over all tensors, for example 4.5 or 4.5678; several, separated by commas, "
                      "make several files from one measurement")
      ->delimiter(',')
      ->type_name("BPW");
  targets->add_option("--target-size", o.target_size,
                      "size of the whole file: 23.5GiB, 24GB, 24G (= 24 * 10^9 bytes) or plain bytes")
      ->delimiter(',')
      ->type_name("SIZE");
  targets->require_option(1, 0);

  auto* formats = command.add_option_group("Formats", "what tensors may be stored as");
  formats->add_option("--formats", o.formats, "only these, separated by commas (default: all but experimental ones)")
      ->type_name("LIST");
  formats->add_option("--exclude-formats", o.exclude_formats, "all but these")->type_name("LIST");
  formats->add_flag("--allow-requantize", o.allow_requantize, "accept a source that is quantized already");
  formats->add_flag("--force-low-bits", o.force_without_importance,
                    "use formats that need an importance matrix without one");

  auto* work = command.add_option_group("Work", "how hard to try");
  work->add_option("--effort", o.effort, "how long the encoders search: fast, default or max")
      ->check(CLI::IsMember({"fast", "default", "max"}))
      ->capture_default_str();
  work->add_option("--sample-precision", o.sample_precision,
                   "rows are measured until the standard error of each error is below this share of it")
      ->check(CLI::Range(0.0001, 1.0))
      ->capture_default_str();
  work->add_option("--sample-rows", o.sample_rows, "measure at least this many rows of a tensor")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  work->add_option("--seed", o.seed, "chooses other rows")->capture_default_str();
  work->add_option("--kappa", o.kappa,
                   "how much more an error along a row's own direction costs (1: as much as any other)")
      ->check(CLI::Range(1.0, 100.0))
      ->capture_default_str();
  work->add_option("-t,--threads", o.threads, "threads (default: all cores)")->check(CLI::Range(1, 4096));

  auto* output = command.add_option_group("Output");
  output->add_flag("--json", o.json, "print one JSON document instead of text");
  output->add_flag("--tensors", o.all_tensors, "list every tensor's format");
  output->add_flag("-q,--quiet", o.quiet, "no progress");
}

Result<optimizer::JobRequest> make_request(const JobOptions& o) {
  optimizer::JobRequest request;
  request.paths = {o.model, o.importance, o.state};
  if (!o.formats.empty()) {
    QF_ASSIGN(request.policy.rules.pool, optimizer::parse_format_list(o.formats));
  }
  if (!o.exclude_formats.empty()) {
    QF_ASSIGN(request.policy.rules.excluded, optimizer::parse_format_list(o.exclude_formats));
  }
  request.policy.rules.low_bits_without_importance = o.force_without_importance;
  request.policy.allow_requantize = o.allow_requantize;
  request.sampler.plan.precision = o.sample_precision;
  request.sampler.plan.min_rows = o.sample_rows;
  request.sampler.plan.seed = o.seed;
  request.sampler.error_model.kappa = static_cast<float>(o.kappa);
  const auto effort = kernels::parse_effort(o.effort);
  if (!effort) return fail(ErrorCode::InvalidArgument, "--effort: '{}' is none of fast, default, max", o.effort);
  request.sampler.effort = *effort;
  request.sampler.threads = o.threads;
  request.program_version = QUANTFIT_VERSION;
  return request;
}

Result<std::vector<optimizer::Target>> make_targets(const JobOptions& o) {
  std::vector<optimizer::Target> targets;
  for (const std::string& text : o.target_bpw) {
    // Parsed here only to refuse nonsense early; the exact decimal is kept as text.
    if (auto bytes = budget_for_bpw(8, text); !bytes)
      return fail(ErrorCode::InvalidArgument, "--target-bpw: {}", bytes.error().message);
    targets.emplace_back(optimizer::BpwTarget{text});
  }
  for (const std::string& text : o.target_size) {
    auto bytes = parse_byte_size(text);
    if (!bytes) return fail(ErrorCode::InvalidArgument, "--target-size: {}", bytes.error().message);
    targets.emplace_back(optimizer::FileSizeTarget{bytes.value()});
  }
  if (targets.empty())
    return fail(ErrorCode::InvalidArgument, "a target is needed: --target-bpw or --target-size");
  return targets;
}

}  // namespace quantfit::cli
