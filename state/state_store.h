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
#include "core/format_error.h"
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
  std::string datasets;     // comma-separated
  std::optional<std::uint64_t> chunk_count;
  bool has_activations = false;
};

// Everything that changes a measured value. Runs with equal parameters continue one another; others never mix.
struct RunParameters {
  std::string importance_fingerprint;
  std::string effort;             // "fast", "default", "max"
  std::uint32_t encoder_version = 0;
  std::string sampling;           // canonical text of the sampling plan's parameters, seed included
  std::string metric;             // canonical text of the error metric's parameters (kappa)
  std::string unit = "nmse";      // or "nats"

  friend bool operator==(const RunParameters&, const RunParameters&) = default;
};

using RunId = std::int64_t;

// All measurements of one tensor; stored in one transaction.
struct TensorMeasurement {
  std::string tensor;
  std::string role;
  std::optional<std::uint32_t> layer;
  TensorInfo shape;                  // dims and source format
  std::uint64_t rows_sampled = 0;
  std::vector<FormatError> errors;   // ascending format id
};

struct Sensitivity {
  std::string tensor;
  double value = 1;       // s_t: nats of KL divergence per unit of NMSE
  std::string obtained;   // "prior", "measured:...": how
};

struct SavedRecipe {
  std::string target;      // as the user wrote it
  std::uint64_t budget_bytes = 0;
  std::uint64_t bytes = 0;
  double objective = 0;
  double lower_bound = 0;
  std::string created;     // UTC, ISO 8601
  Recipe recipe;
};

struct RunSummary {
  RunId id = 0;
  RunParameters parameters;
  std::string program_version;
  std::string started;
  std::string finished;    // empty while unfinished
  std::uint64_t tensors = 0;
};

// One connection. Not thread-safe: one thread calls it at a time (the sampler has a single writer).
class StateStore {
 public:
  // Opens or creates `path`. IdentityMismatch, with both names in the message, when the file holds another model;
  // Malformed when it is not a state file or damaged; Unsupported when written by an incompatible newer version.
  [[nodiscard]] static Result<StateStore> open(const std::filesystem::path& path, const ModelIdentity& model);
  // For reports about a file without its model at hand: read-only, any model.
  [[nodiscard]] static Result<StateStore> open_read_only(const std::filesystem::path& path);
  StateStore(StateStore&&) noexcept;
  StateStore& operator=(StateStore&&) noexcept;
  ~StateStore();

  [[nodiscard]] Result<ModelIdentity> model() const;
  [[nodiscard]] Result<void> remember_importance(const ImportanceIdentity& importance);
  [[nodiscard]] Result<std::vector<ImportanceIdentity>> importances() const;

  // The run with these parameters, created when there is none.
  [[nodiscard]] Result<RunId> begin_run(const RunParameters& parameters, const std::string& program_version);
  [[nodiscard]] Result<void> finish_run(RunId run);
  [[nodiscard]] Result<std::vector<RunSummary>> runs() const;

  // Replaces what the run knows about the tensor's listed formats: all or nothing after kill -9. Formats stored
  // earlier and not listed stay, so that a wider pool of formats adds to a narrower one.
  [[nodiscard]] Result<void> save_tensor(RunId run, const TensorMeasurement& measurement);
  // Everything the run measured, by tensor name.
  [[nodiscard]] Result<std::map<std::string, TensorMeasurement>> load_run(RunId run) const;

  [[nodiscard]] Result<void> save_sensitivities(const std::vector<Sensitivity>& sensitivities);
  [[nodiscard]] Result<std::map<std::string, Sensitivity>> load_sensitivities() const;

  [[nodiscard]] Result<void> save_recipe(RunId run, const SavedRecipe& recipe);
  [[nodiscard]] Result<std::vector<SavedRecipe>> load_recipes(RunId run) const;

 private:
  struct Impl;
  explicit StateStore(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace quantfit::state
