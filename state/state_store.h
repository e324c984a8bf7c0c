// What was measured, kept in one SQLite file: the user's asset. Safe under kill -9 and under two processes.
// The schema is described in state/schema.md. The only folder that includes sqlite3.h.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/progress.h"
#include "state/contents.h"
#include "state/records.h"

namespace quantfit::state {

// One connection. Not thread-safe: one thread calls it at a time (the sampler has a single writer). Several
// stores, in one process or in many, may have the same file open; a writer waits for the others up to 30
// seconds, then Io. Not to be used in a forked child: open the file anew there. When the last store on a file
// is destroyed, everything is in the one file and the -wal and -shm files beside it are gone.
//
// Every function may also fail with Io, NoSpace (nothing saved earlier is lost) or Malformed (the file was
// damaged or edited); with InvalidArgument when text is not UTF-8, holds a zero byte or is too long, a number
// is NaN, infinite or out of its range, a run does not exist, or something is to be written to a store opened
// read-only. File names and data set names are for people: bytes in them that are not UTF-8 are replaced by
// U+FFFD. Doubles come back bit for bit, except that SQLite stores -0.0 as 0.0.
class StateStore {
 public:
  // Opens or creates `path`. IdentityMismatch, with both names in the message, when the file holds another
  // model; Malformed when it is not a state file or damaged; Unsupported when written by an incompatible
  // newer version. `cancel` must outlive the store; once it is set, long statements and waiting for other
  // processes end with Interrupted, while what is short is still done.
  [[nodiscard]] static Result<StateStore> open(const std::filesystem::path& path, const ModelIdentity& model,
                                               const CancellationToken* cancel = nullptr);
  // For reports about a file without its model at hand: read-only, any model. Works for a write-protected
  // file and in a write-protected folder too. A file of an older program is read as it would be after its
  // upgrade, from a copy in memory.
  [[nodiscard]] static Result<StateStore> open_read_only(const std::filesystem::path& path,
                                                         const CancellationToken* cancel = nullptr);
  // For changing a file without its model at hand; it must exist. Brings an older file up to date.
  [[nodiscard]] static Result<StateStore> open_existing(const std::filesystem::path& path,
                                                        const CancellationToken* cancel = nullptr);
  StateStore(StateStore&&) noexcept;
  StateStore& operator=(StateStore&&) noexcept;
  ~StateStore();

  [[nodiscard]] Result<ModelIdentity> model() const;
  // Notes that the model was read from these files; with `digest`, that every weight of them was, and what
  // came out. IdentityMismatch, and nothing noted, when the file knows another digest.
  [[nodiscard]] Result<void> remember_source(const std::vector<FileStamp>& files,
                                             const std::string& digest = {});
  // Ordered by stamp_key().
  [[nodiscard]] Result<std::vector<Source>> sources() const;
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

  // Replaces what the run knows about the tensor's listed formats: all or nothing after kill -9. Formats
  // stored earlier and not listed stay, so that a wider pool of formats adds to a narrower one; of two
  // numbers of rows the larger stays. ShapeMismatch when the tensor's shape or source format is not what the
  // file says: it is the same in all runs on one model.
  [[nodiscard]] Result<void> save_tensor(RunId run, const TensorMeasurement& measurement);
  // Everything the run measured, by tensor name. In `shape`, name, dims, format and bytes are set; offset and
  // shard are 0, since they belong to a file, not to the model. Unsupported when a format is unknown to this
  // program.
  [[nodiscard]] Result<std::map<std::string, TensorMeasurement>> load_run(RunId run) const;

  // The whole set in one transaction; the set of the same scope is replaced, whole.
  [[nodiscard]] Result<void> save_sensitivity_set(const SensitivitySet& set);
  // Every set, whole.
  [[nodiscard]] Result<std::vector<SensitivitySet>> load_sensitivity_sets() const;

  // Adds a recipe unless the run has an equal one. An empty `created` means now.
  [[nodiscard]] Result<void> save_recipe(RunId run, const SavedRecipe& recipe);
  // In the order in which they were first saved.
  [[nodiscard]] Result<std::vector<SavedRecipe>> load_recipes(RunId run) const;

  // Records of passes of text through the model, of files beside this one, of evaluations and of files that
  // were written: each replaces the one of the same identity, and a file beside this one what was known of
  // other bytes under its name. Lists come back ordered by identity.
  [[nodiscard]] Result<void> save_calibration(const Calibration& calibration);
  [[nodiscard]] Result<std::vector<Calibration>> calibrations() const;
  [[nodiscard]] Result<void> save_statistics_file(const StatisticsFile& file);
  [[nodiscard]] Result<std::vector<StatisticsFile>> statistics_files() const;
  [[nodiscard]] Result<void> save_evaluation(const Evaluation& evaluation);
  [[nodiscard]] Result<std::vector<Evaluation>> evaluations() const;
  [[nodiscard]] Result<void> save_written_file(const WrittenFile& file);
  [[nodiscard]] Result<std::vector<WrittenFile>> written_files() const;

  // Brings in what another state file of the same model knows, in one transaction; the other file is only
  // read (state/merge.h does the same with the files beside it). Where both know something and disagree, the
  // choice is the same for either order (state/contents.h). IdentityMismatch when it is about another model.
  [[nodiscard]] Result<MergeSummary> merge(const std::filesystem::path& other);
  // Everything, as one state of the file.
  [[nodiscard]] Result<Contents> contents() const;

 private:
  struct Impl;
  explicit StateStore(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace quantfit::state
