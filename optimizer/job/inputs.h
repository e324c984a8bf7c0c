// What a job reads and remembers.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/file_stamp.h"
#include "core/importance_matrix.h"
#include "core/model.h"
#include "core/progress.h"
#include "optimizer/job/request.h"
#include "optimizer/llama_cpp/model_traits.h"
#include "state/state_store.h"

namespace quantfit::optimizer {

struct JobInputs {
  Model model;
  ModelTraits traits;
  std::optional<ImportanceMatrix> importance;
  std::vector<bool> has_importance;  // per tensor: data of its own or of a sibling; empty without matrix
  std::string model_fingerprint;
  std::string importance_fingerprint;  // empty without importance matrix
  std::optional<state::StateStore> store;
  // Sensitivities that were measured for this job; more may be in the state file.
  std::vector<state::SensitivitySet> measured_sets;
  std::vector<std::string> warnings;  // for people: what was noticed and not refused
  std::vector<FileStamp> files;       // the model's, as they were when it was opened
  std::string known_digest;           // of every weight, where the state file knows it

  [[nodiscard]] const ImportanceMatrix* importance_or_null() const {
    return importance ? &*importance : nullptr;
  }
};

// What becomes of the state file.
enum class StateUse {
  Keep,    // made when it is not there, and added to
  Recall,  // only read; Io when it is not there
};

// Opens model, importance matrix and state file and checks that they belong together: an importance matrix
// that shares no tensor with the model is an IdentityMismatch, one whose shapes disagree a ShapeMismatch.
// `cancel`, when given, must outlive the inputs: the state file listens to it as long as it is open.
[[nodiscard]] Result<JobInputs> open_inputs(const JobPaths& paths, const CancellationToken* cancel = nullptr,
                                            StateUse use = StateUse::Keep);

// Tells the state file, where there is one, that every weight of the inputs' files was read and has this
// digest. IdentityMismatch when it knows another one.
[[nodiscard]] Result<void> remember_digest(JobInputs& inputs, const std::string& digest);

}  // namespace quantfit::optimizer
