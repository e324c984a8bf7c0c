// Everything a state file knows, as one plain value, ordered by what things are and not by when they came:
// two files that know the same have equal contents. Merging, exporting and pruning start from it.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/error.h"
#include "state/records.h"
#include "state/sqlite.h"

namespace quantfit::state {

struct RunContents {
  RunSummary run;
  std::map<std::string, TensorMeasurement> measurements;  // by tensor
  std::map<std::string, SavedRecipe> recipes;             // by recipe_fingerprint()
};

struct Contents {
  ModelIdentity model;
  std::map<std::string, Source> sources;                  // by stamp_key()
  std::map<std::string, ImportanceIdentity> importances;  // by fingerprint
  std::map<std::string, RunContents> runs;                // by canonical_key()
  std::map<std::string, SensitivitySet> sensitivities;    // by canonical_key()
  std::map<CalibrationParameters, Calibration> calibrations;
  std::map<std::string, StatisticsFile> statistics_files;  // by fingerprint
  std::map<EvaluationIdentity, Evaluation> evaluations;
  std::map<std::string, WrittenFile> written_files;  // by name
};

// Inside a transaction of the caller's. Malformed when the file holds no model yet.
[[nodiscard]] Result<Contents> select_contents(const Database& database);
// The same as one state of the file, in a transaction of its own.
[[nodiscard]] Result<Contents> read_contents(Database& database);

// What merging did.
struct MergeSummary {
  std::uint64_t runs_added = 0;
  std::uint64_t tensors_added = 0;        // measurements of tensors that the run here had none of
  std::uint64_t errors_added = 0;         // single (run, tensor, format) values
  std::uint64_t sensitivities_added = 0;  // sets
  std::uint64_t recipes_added = 0;
  std::uint64_t calibrations_added = 0;
  std::uint64_t statistics_files_added = 0;
  std::uint64_t evaluations_added = 0;
  std::uint64_t written_files_added = 0;
  // Values of the same identity that disagree: another NMSE or standard error for the same run, tensor and
  // format, other values of the same sensitivity set or evaluation. Files that this program wrote do not.
  std::uint64_t differing = 0;

  friend bool operator==(const MergeSummary&, const MergeSummary&) = default;
};

// Brings into `ours` what `theirs` knows and it does not. Where both know something and disagree, the choice
// depends on the two values alone, not on whose they are: joining any number of contents gives the same in
// any order, and joining again changes nothing. ShapeMismatch when a tensor is not the same in both;
// IdentityMismatch when both know every weight, and they are not the same.
[[nodiscard]] Result<MergeSummary> join(Contents& ours, const Contents& theirs);

}  // namespace quantfit::state
