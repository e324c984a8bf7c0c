// What `quantize`, `plan` and `frontier` share: one job from its options to measured errors, ready to be
// solved for any number of targets. Holds no state of the process: a service may run many.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "cli/console.h"
#include "cli/job_options.h"
#include "core/atomic_file.h"
#include "core/error.h"
#include "kernels/row_kernels.h"
#include "optimizer/job/contest.h"
#include "optimizer/job/job.h"
#include "optimizer/job/yardstick.h"

namespace quantfit::cli {

// What a session may do to answer.
enum class SessionMode {
  Measure,  // run the model and measure what is not known yet
  Recall,   // read the state file, and change nothing: what it does not know makes the session `unmeasured`
};

struct Session {
  const JobOptions* options = nullptr;  // outlive the session
  SessionMode mode = SessionMode::Measure;
  bool with_targets = false;
  optimizer::JobRequest request;
  const kernels::RowKernels* kernels = nullptr;
  std::optional<optimizer::JobInputs> inputs;  // after open()
  std::vector<optimizer::Target> targets;      // of the options; none for the whole curve
  std::optional<optimizer::PreparedJob> job;   // after check()
  optimizer::StaticComparisons statics;        // after measure()
  std::shared_ptr<const optimizer::CovarianceProvider> covariances;  // request.sampler points to it
  bool needs_sensitivities = true;     // what will be asked depends on what errors cost
  Existing existing = Existing::Keep;  // what becomes of a file at --save-imatrix
  bool unmeasured = false;             // why check() or measure() failed: something has to be measured first
  // An importance matrix without a state file to keep it beside: removed with the session.
  std::vector<std::shared_ptr<const std::filesystem::path>> temporary;
  std::filesystem::path made_moments;  // by the pass that made the importance matrix; empty: none were

  // Reads options and opens the files. `with_targets`: options name targets.
  [[nodiscard]] static Result<Session> open(const JobOptions& options, bool with_targets,
                                            const JobContext& context,
                                            SessionMode mode = SessionMode::Measure);

  // Refuses what can be refused before anything is measured or run; makes the importance matrix where none
  // was given and the model can be run; says what was noticed. The session may not be moved afterwards.
  [[nodiscard]] Result<void> check(const JobContext& context);

  // Of the source: what reading it costs.
  [[nodiscard]] double source_bytes_per_weight() const;

  // Measures what is not known and compares the static recipes.
  [[nodiscard]] Result<void> measure(const JobContext& context);

  // Tells the state file what every weight gave that was read for a file. What was written stays, whatever it
  // says.
  void remember_digest(const std::string& digest, const JobContext& context);

  // With --candidates: runs several recipes for one target and puts the best into `solution`. Nothing without
  // that option, for given recipes, and where there is only one recipe. Files are for a while in --scratch,
  // else in `folder`.
  [[nodiscard]] Result<std::optional<optimizer::Contest>> run_candidates(const optimizer::Budget& budget,
                                                                         const std::filesystem::path& folder,
                                                                         const JobContext& context,
                                                                         optimizer::Solution& solution);

 private:
  [[nodiscard]] Result<void> open_files(const JobContext& context);
  // What is run for importance, moments and sensitivities: the text without what --candidates hold back.
  [[nodiscard]] Result<calibration::TextRequest> measured_text() const;
  [[nodiscard]] Error not_measured(std::string_view what);
  [[nodiscard]] bool wants_calibration() const;
  void tell_origin(const JobContext& context) const;
  bool can_calibrate = true;  // until the model or the text shows that it cannot be run
  [[nodiscard]] bool wants_sensitivities() const;
  [[nodiscard]] bool wants_feedback() const;
  void remove_at_the_end(const std::filesystem::path& path);
  // False where the job will be refused or cannot reach a target: nothing is run then.
  [[nodiscard]] Result<bool> try_out();
  [[nodiscard]] Result<void> calibrate(const JobContext& context);
  [[nodiscard]] Result<void> measure_moments(const JobContext& context);
  [[nodiscard]] Result<void> measure_sensitivities(const JobContext& context);
};

}  // namespace quantfit::cli
