// Measured quality of files: what is evaluated, and what of it goes into the state file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "optimizer/calibration/evaluate.h"
#include "optimizer/job/request.h"
#include "state/state_store.h"

namespace quantfit::optimizer {

struct EvaluationRequest {
  calibration::TextRequest text;
  calibration::EvaluateOptions options;
};

struct EvaluatedFile {
  std::filesystem::path path;
  std::string fingerprint;
  std::uint64_t file_bytes = 0;  // of all shards
  double bpw = 0;                // over all tensors
  // What the file says was foreseen for it, in nats; nothing where it says nothing or was tuned since.
  std::optional<double> predicted;
  calibration::DivergenceFigures figures;
  // This file against the one of the lowest divergence; nothing for that one itself.
  std::optional<calibration::PairedComparison> against_best;
};

struct EvaluatedFiles {
  std::filesystem::path base;
  std::string base_fingerprint;
  std::string text;  // names
  std::string text_fingerprint;
  std::uint32_t context = 0;
  engine::Arithmetic arithmetic = engine::Arithmetic::Exact;
  std::uint64_t chunks = 0;
  std::uint64_t positions = 0;
  bool stopped_early = false;  // the precision asked for was reached before the text ended
  calibration::Estimate base_perplexity;
  std::vector<EvaluatedFile> files;  // in the order given
  double seconds = 0;
};

// Opens the candidates and runs the text through all of them. Errors of Model::open, read_text and
// calibration::evaluate.
[[nodiscard]] Result<EvaluatedFiles> evaluate_files(const Model& base,
                                                    std::span<const std::filesystem::path> candidates,
                                                    const EvaluationRequest& request,
                                                    const JobControl& control);

// The name under which a state file keeps EvaluatedFile::predicted beside what was measured.
inline constexpr std::string_view kPredictedQuantity = "predicted kl divergence";

// Keeps the numbers in the state file of the base model.
[[nodiscard]] Result<void> save_evaluations(const EvaluatedFiles& evaluated,
                                            const std::string& program_version, state::StateStore& store);

}  // namespace quantfit::optimizer
