// What was measured, kept in one SQLite file: the user's asset. Safe under kill -9 and under two processes.
// The schema is described in state/schema.md. The only folder that includes sqlite3.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/format_measurement.h"
#include "core/recipe.h"
#include "core/tensor_info.h"

namespace quantfit::state {

// Who the measurements are about. Fingerprints are lower-case hexadecimal (core/fingerprint.h).
struct ModelIdentity {
  std::string fingerprint;
  std::string name;  // file name, for people
  std::uint64_t elements = 0;
};

struct ImportanceIdentity {
  std::string fingerprint;  // empty: no importance matrix
  std::string name;
  std::string datasets;  // comma-separated
  std::optional<std::uint64_t> chunk_count;
  bool has_activations = false;
};

// Everything that changes a measured value. Runs with equal parameters continue one
// another; others never mix.
struct RunParameters {
  std::string importance_fingerprint;
  std::string effort;  // "fast", "default", "max"
  std::uint32_t encoder_version = 0;
  std::string sampling;       // canonical text of the sampling plan's parameters, seed included
  std::string metric;         // canonical text of the error metric's parameters (kappa)
  std::string unit = "nmse";  // or "nats"

  friend bool operator==(const RunParameters&, const RunParameters&) = default;
};

using RunId = std::int64_t;

// All measurements of one tensor; stored in one transaction.
struct TensorMeasurement {
  std::string tensor;
  std::string role;
  std::optional<std::uint32_t> layer;
  TensorInfo shape;  // dims and source format
  std::uint64_t rows_sampled = 0;
  std::vector<FormatMeasurement> errors;  // ascending format id
};

struct Sensitivity {
  std::string tensor;
  double value = 1;      // s_t: nats of KL divergence per unit of NMSE
  std::string obtained;  // "prior", "measured:...": how
};

struct SavedRecipe {
  std::string target;  // as the user wrote it
  std::uint64_t budget_bytes = 0;
  std::uint64_t bytes = 0;
  double objective = 0;
  double lower_bound = 0;
  std::string created;  // UTC, ISO 8601
  Recipe recipe;
};

struct RunSummary {
  RunId id = 0;
  RunParameters parameters;
  std::string program_version;
  std::string started;
  std::string finished;  // empty while unfinished
  std::uint64_t tensors = 0;
};

// What merge() did.
struct MergeSummary {
  std::uint64_t runs_added = 0;
  std::uint64_t tensors_added = 0;  // measurements of tensors that the run here had none of
  std::uint64_t errors_added = 0;   // single (run, tensor, format) values
  std::uint64_t sensitivities_added = 0;
  std::uint64_t recipes_added = 0;
  // Values of the other file that disagree with the ones here, which were kept: another NMSE or standard
  // error for the same run, tensor and format, another number of sampled rows for the same run and tensor, or
  // another sensitivity.
  std::uint64_t differing = 0;
};

// One connection. Not thread-safe: one thread calls it at a time (the sampler has a single writer). Several
// stores, in one process or in many, may have the same file open; a writer waits for the others up to 30
// seconds, then Io. Not to be used in a forked child: open the file anew there. When the last store on a file
// is destroyed, everything is in the one file and the -wal and -shm files beside it are gone.
//
// Every function may also fail with Io, NoSpace (nothing saved earlier is lost) or Malformed (the file was
// damaged or edited); with InvalidArgument when text is not UTF-8 or holds a zero byte, a number is NaN or
// infinite or an integer above 2^63 - 1, a run does not exist, or something is to be written to a store
// opened read-only. File names and data set names are for people: bytes in them that are not UTF-8 are
// replaced by U+FFFD. Doubles come back bit for bit, except that SQLite stores -0.0 as 0.0.
class StateStore {
 public:
  // Opens or creates `path`. IdentityMismatch, with both names in the message, when the file holds another
  // model; Malformed when it is not a state file or damaged; Unsupported when written by an incompatible
  // newer version.
  [[nodiscard]] static Result<StateStore> open(const std::filesystem::path& path, const ModelIdentity& model);
  // For reports about a file without its model at hand: read-only, any model. Works for a write-protected
  // file and in a write-protected folder too. Unsupported when an older program wrote the file and it was not
  // upgraded since.
  [[nodiscard]] static Result<StateStore> open_read_only(const std::filesystem::path& path);
  StateStore(StateStore&&) noexcept;
  StateStore& operator=(StateStore&&) noexcept;
  ~StateStore();

  [[nodiscard]] Result<ModelIdentity> model() const;
  // Adds or updates the entry with this fingerprint; does nothing for an empty fingerprint.
  [[nodiscard]] Result<void> remember_importance(const ImportanceIdentity& importance);
  // In the order in which they were first seen.
  [[nodiscard]] Result<std::vector<ImportanceIdentity>> importances() const;

  // The run with these parameters, created when there is none. Its time of finishing stays as it was.
  [[nodiscard]] Result<RunId> begin_run(const RunParameters& parameters, const std::string& program_version);
  // Notes the current time as the run's end.
  [[nodiscard]] Result<void> finish_run(RunId run);
  // In order of creation.
  [[nodiscard]] Result<std::vector<RunSummary>> runs() const;

  // Replaces what the run knows about the tensor's listed formats: all or nothing after kill -9.
  // Formats stored earlier and not listed stay, so that a wider pool of formats adds to a narrower
  // one. ShapeMismatch when the tensor's shape or source format is not what the file says: it is the
  // same in all runs on one model.
  [[nodiscard]] Result<void> save_tensor(RunId run, const TensorMeasurement& measurement);
  // Everything the run measured, by tensor name. In `shape`, name, dims, format and bytes are set;
  // offset and shard are 0, since they belong to a file, not to the model. Unsupported when a format
  // is unknown to this program.
  [[nodiscard]] Result<std::map<std::string, TensorMeasurement>> load_run(RunId run) const;

  // All or nothing; a tensor's earlier value is replaced, other tensors keep theirs.
  [[nodiscard]] Result<void> save_sensitivities(const std::vector<Sensitivity>& sensitivities);
  [[nodiscard]] Result<std::map<std::string, Sensitivity>> load_sensitivities() const;

  // Adds a recipe. An empty `created` means now.
  [[nodiscard]] Result<void> save_recipe(RunId run, const SavedRecipe& recipe);
  // In the order in which they were saved.
  [[nodiscard]] Result<std::vector<SavedRecipe>> load_recipes(RunId run) const;

  // Copies what another state file of the same model knows and this one does not, in one
  // transaction; the other file is only read. What both know stays as it is here. IdentityMismatch
  // when it is about another model.
  [[nodiscard]] Result<MergeSummary> merge(const std::filesystem::path& other);

 private:
  struct Impl;
  explicit StateStore(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace quantfit::state
