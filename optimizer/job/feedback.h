// Second moments of a model's inputs for encoding with error feedback: measured on a text, kept beside the
// state file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "core/error.h"
#include "optimizer/calibration/text.h"
#include "optimizer/job/inputs.h"
#include "optimizer/job/request.h"
#include "optimizer/measurement/covariance_provider.h"

namespace quantfit::optimizer {

struct MomentsRequest {
  static constexpr std::uint64_t kRowsPerColumn = 8;

  calibration::TextRequest text;
  engine::RunOptions run;
  bool only_known = false;  // nothing is run: `known` says whether they were measured before
  // A file that a pass of this job has made of the same text already, where no state file remembers it;
  // empty: none.
  std::filesystem::path made;
};

struct MeasuredMoments {
  std::shared_ptr<const CovarianceProvider> covariances;
  std::filesystem::path path;      // of the file that they are read from
  bool temporary = false;          // the caller removes it when the job is over
  bool known = false;              // measured before
  std::uint32_t continued_at = 0;  // the layer where an interrupted pass was continued; 0: it was not
  std::uint64_t file_bytes = 0;
  std::uint64_t tokens = 0;
  double seconds = 0;
};

// Where they are kept for this text, and whether they are there: beside the state file, else a temporary
// file.
struct MomentsPlace {
  std::filesystem::path path;
  std::string identity;  // as the state file knows them
  bool known = false;
};
[[nodiscard]] Result<MomentsPlace> place_of_moments(const JobInputs& inputs, const JobPaths& paths,
                                                    const std::string& text_fingerprint,
                                                    const engine::RunOptions& run,
                                                    const CancellationToken& cancel);
inline constexpr std::string_view kMomentsKind = "moments";  // in the state file's list

// Whether the text has rows enough to tell how the inputs of the widest matrices vary together:
// kRowsPerColumn for every column of a block. Errors of read_text and Engine::open.
[[nodiscard]] Result<bool> enough_for_moments(const Model& model, const MomentsRequest& request);

// What the pass needs, to be shown before it starts: a forward pass, and at most so many multiply-adds and so
// much memory for the moments.
[[nodiscard]] Result<engine::RunPlan> plan_moments(const Model& model, const MomentsRequest& request);

// Runs the whole text through the model unless the state file names the result already; a pass that was
// interrupted continues at the layer it had reached. Errors of read_text, Engine::open, collect_moments, and
// of the files.
[[nodiscard]] Result<MeasuredMoments> measure_moments(JobInputs& inputs, const JobPaths& paths,
                                                      const MomentsRequest& request,
                                                      const JobControl& control);

}  // namespace quantfit::optimizer
