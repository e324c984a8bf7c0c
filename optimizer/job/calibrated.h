// An importance matrix made from a text, for a job that was given none: kept beside the state file, so that
// it is made once.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "core/error.h"
#include "core/importance_writer.h"
#include "optimizer/calibration/text.h"
#include "optimizer/job/inputs.h"
#include "optimizer/job/request.h"

namespace quantfit::optimizer {

struct CalibrationRequest {
  calibration::TextRequest text;
  engine::RunOptions run;
  std::filesystem::path save;  // written here too, for other programs (importance_format); empty: nowhere
  Existing existing = Existing::Keep;  // what becomes of a file that is there
  bool only_known = false;             // nothing is run: `known` says whether it was made before
  // The same pass measures second moments, where nothing is known of either (feedback.h): one run through the
  // model in place of two.
  bool with_moments = false;
};

struct CalibratedImportance {
  // Of a GGUF file: beside the state file; without one, in the folder for temporary files.
  std::filesystem::path path;
  bool temporary = false;          // the caller removes it when the job is over
  bool known = false;              // it was made before
  std::filesystem::path moments;   // of the same pass, as MomentsRequest::made takes them; empty: none
  std::uint32_t continued_at = 0;  // the layer where an interrupted pass was continued; 0: it was not
  std::uint64_t tokens = 0;
  double seconds = 0;
};

// What a pass over the text will need: to be shown before it starts. Errors of read_text and Engine::open.
[[nodiscard]] Result<engine::RunPlan> plan_calibration(const Model& model, const CalibrationRequest& request);

// Runs the text through the model unless the state file names the result already; a pass that was interrupted
// continues at the layer it had reached. Errors of read_text, Engine::open and collect_importance, of the
// state file and of writing.
[[nodiscard]] Result<CalibratedImportance> calibrate(JobInputs& inputs, const JobPaths& paths,
                                                     const CalibrationRequest& request,
                                                     const std::string& program_version,
                                                     const JobControl& control);

}  // namespace quantfit::optimizer
