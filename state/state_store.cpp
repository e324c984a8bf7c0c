#include "state/state_store.h"

#include <utility>

#include "core/text.h"
#include "state/checks.h"
#include "state/merge.h"
#include "state/schema.h"
#include "state/sqlite.h"
#include "state/tables.h"

namespace quantfit::state {
namespace {

// The file's model is `model` afterwards, or IdentityMismatch.
Result<void> claim_for_model(Database& database, const ModelIdentity& model) {
  QF_ASSIGN(auto stored, select_model(database));
  if (!stored) {
    QF_ASSIGN(auto transaction, Transaction::begin_write(database));
    QF_ASSIGN(stored, select_model(database));  // another process may have been faster
    if (!stored) {
      QF_TRY(insert_model(database, model));
      QF_TRY(transaction.commit());
      return outcome::success();
    }
  }
  if (stored->fingerprint != model.fingerprint)
    return fail(ErrorCode::IdentityMismatch,
                "{}: holds measurements of model {} (fingerprint {}), not of {} (fingerprint {}); name "
                "another state file for this model",
                database.path(), printable(stored->name), escaped(stored->fingerprint), printable(model.name),
                escaped(model.fingerprint));
  return outcome::success();
}

// Brings the file to the current schema. Nothing is written before it is known to be empty or ours.
Result<void> make_current(Database& database) {
  QF_ASSIGN(const FileKind kind, inspect(database));
  if (kind != FileKind::Empty) QF_TRY(verify(database, kind));
  QF_TRY(database.use_write_ahead_log());
  if (kind == FileKind::Empty || kind == FileKind::Older) {
    QF_TRY(migrate(database));
    QF_TRY(verify(database, FileKind::Current));
  }
  return outcome::success();
}

}  // namespace

struct StateStore::Impl {
  Database database;
  bool read_only = false;

  [[nodiscard]] Result<void> check_writable() const {
    if (read_only)
      return fail(ErrorCode::InvalidArgument, "{}: was opened for reading only", database.path());
    return outcome::success();
  }

  // Runs write() in a transaction.
  template <class Write>
  Result<void> in_transaction(const Write& write) {
    QF_ASSIGN(auto transaction, Transaction::begin_write(database));
    QF_TRY(write(database));
    return transaction.commit();
  }

  // The same for reading: what read() returns.
  template <class Read>
  auto as_one_state(const Read& read) -> decltype(read(database)) {
    QF_ASSIGN(auto transaction, Transaction::begin_read(database));
    QF_ASSIGN(auto value, read(database));
    QF_TRY(transaction.commit());
    return value;
  }

  // Checks a record and writes it in a transaction.
  template <class Record>
  Result<void> save(const Record& record, Result<void> (*write)(Database&, const Record&)) {
    QF_TRY(check_writable());
    QF_TRY(check(record));
    return in_transaction([&](Database& file) { return write(file, record); });
  }
};

StateStore::StateStore(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
StateStore::StateStore(StateStore&&) noexcept = default;
StateStore& StateStore::operator=(StateStore&&) noexcept = default;
StateStore::~StateStore() = default;

Result<StateStore> StateStore::open(const std::filesystem::path& path, const ModelIdentity& model,
                                    const CancellationToken* cancel) {
  if (model.fingerprint.empty())
    return fail(ErrorCode::InvalidArgument, "a model's fingerprint must not be empty");
  QF_TRY(check_text(model.fingerprint, "the model's fingerprint"));
  QF_ASSIGN(auto database, Database::open(path, Access::ReadWrite, cancel));
  QF_TRY(make_current(database));
  QF_TRY(claim_for_model(database, model));
  return StateStore(std::make_unique<Impl>(Impl{std::move(database), false}));
}

Result<StateStore> StateStore::open_existing(const std::filesystem::path& path,
                                             const CancellationToken* cancel) {
  // Read first: a file that is missing must not be made, and one of others not be touched.
  QF_ASSIGN(auto reader, Database::open(path, Access::ReadOnly, cancel));
  QF_ASSIGN(const FileKind kind, inspect(reader));
  if (kind == FileKind::Empty)
    return fail(ErrorCode::Malformed, "{}: an empty file, not a state file; name another file",
                reader.path());
  QF_ASSIGN(auto database, Database::open(path, Access::ReadWrite, cancel));
  QF_TRY(make_current(database));
  return StateStore(std::make_unique<Impl>(Impl{std::move(database), false}));
}

Result<StateStore> StateStore::open_read_only(const std::filesystem::path& path,
                                              const CancellationToken* cancel) {
  QF_ASSIGN(auto database, Database::open(path, Access::ReadOnly, cancel));
  QF_ASSIGN(const FileKind kind, inspect(database));
  if (kind == FileKind::Empty)
    return fail(ErrorCode::Malformed, "{}: an empty file, not a state file; name another file",
                database.path());
  QF_TRY(verify(database, kind));
  if (kind == FileKind::Older) {
    // As it would be after the upgrade; the file stays as it is.
    QF_ASSIGN(database, database.copy_in_memory());
    QF_TRY(migrate(database));
  }
  return StateStore(std::make_unique<Impl>(Impl{std::move(database), true}));
}

Result<ModelIdentity> StateStore::model() const {
  QF_ASSIGN(auto model, select_model(impl_->database));
  if (!model) return fail(ErrorCode::Malformed, "{}: holds no model yet", impl_->database.path());
  return std::move(*model);
}

Result<void> StateStore::remember_source(const std::vector<FileStamp>& files, const std::string& digest) {
  QF_TRY(impl_->check_writable());
  QF_TRY(check_text(digest, "the digest of a model's weights"));
  return impl_->in_transaction([&](Database& database) -> Result<void> {
    if (!digest.empty()) QF_TRY(write_model_digest(database, digest));
    return write_source(database, {files, !digest.empty()});
  });
}

Result<std::vector<Source>> StateStore::sources() const {
  return impl_->as_one_state(select_sources);
}

Result<void> StateStore::remember_importance(const ImportanceIdentity& importance) {
  QF_TRY(impl_->check_writable());
  if (importance.fingerprint.empty()) return outcome::success();
  return upsert_importance(impl_->database, importance);
}

Result<std::vector<ImportanceIdentity>> StateStore::importances() const {
  return select_importances(impl_->database);
}

Result<RunId> StateStore::begin_run(const RunParameters& parameters, const std::string& program_version) {
  QF_TRY(impl_->check_writable());
  QF_TRY(check(parameters));
  QF_TRY(check_text(program_version, "the program's version"));
  QF_ASSIGN(auto transaction, Transaction::begin_write(impl_->database));
  QF_ASSIGN(const auto existing, find_run(impl_->database, parameters));
  if (existing) return *existing;
  RunSummary fresh;
  fresh.parameters = parameters;
  fresh.program_version = program_version;
  QF_ASSIGN(const RunId run, insert_run(impl_->database, fresh));
  QF_TRY(transaction.commit());
  return run;
}

Result<void> StateStore::finish_run(RunId run) {
  QF_TRY(impl_->check_writable());
  return impl_->in_transaction([&](Database& database) -> Result<void> {
    QF_TRY(check_run_exists(database, run));
    return finish_run_now(database, run);
  });
}

Result<std::vector<RunSummary>> StateStore::runs() const {
  return select_runs(impl_->database);
}

Result<void> StateStore::save_tensor(RunId run, const TensorMeasurement& measurement) {
  QF_TRY(impl_->check_writable());
  QF_TRY(check(measurement));
  return impl_->in_transaction([&](Database& database) -> Result<void> {
    QF_TRY(check_run_exists(database, run));
    return write_measurement(database, run, measurement);
  });
}

Result<std::map<std::string, TensorMeasurement>> StateStore::load_run(RunId run) const {
  return impl_->as_one_state([&](const Database& database) { return select_measurements(database, run); });
}

Result<void> StateStore::save_sensitivity_set(const SensitivitySet& set) {
  return impl_->save(set, write_sensitivity_set);
}

Result<std::vector<SensitivitySet>> StateStore::load_sensitivity_sets() const {
  return impl_->as_one_state(select_sensitivity_sets);
}

Result<void> StateStore::save_recipe(RunId run, const SavedRecipe& recipe) {
  QF_TRY(impl_->check_writable());
  QF_TRY(check(recipe));
  return impl_->in_transaction([&](Database& database) -> Result<void> {
    QF_TRY(check_run_exists(database, run));
    QF_TRY(write_recipe(database, run, recipe));
    return outcome::success();
  });
}

Result<std::vector<SavedRecipe>> StateStore::load_recipes(RunId run) const {
  return impl_->as_one_state([&](const Database& database) { return select_recipes(database, run); });
}

Result<void> StateStore::save_calibration(const Calibration& calibration) {
  return impl_->save(calibration, write_calibration);
}

Result<std::vector<Calibration>> StateStore::calibrations() const {
  return select_calibrations(impl_->database);
}

Result<void> StateStore::save_statistics_file(const StatisticsFile& file) {
  return impl_->save(file, replace_statistics_file);
}

Result<std::vector<StatisticsFile>> StateStore::statistics_files() const {
  return select_statistics_files(impl_->database);
}

Result<void> StateStore::save_evaluation(const Evaluation& evaluation) {
  return impl_->save(evaluation, write_evaluation);
}

Result<std::vector<Evaluation>> StateStore::evaluations() const {
  return impl_->as_one_state(select_evaluations);
}

Result<void> StateStore::save_written_file(const WrittenFile& file) {
  return impl_->save(file, write_written_file);
}

Result<std::vector<WrittenFile>> StateStore::written_files() const {
  return select_written_files(impl_->database);
}

Result<MergeSummary> StateStore::merge(const std::filesystem::path& other) {
  QF_TRY(impl_->check_writable());
  QF_ASSIGN(const auto store, open_read_only(other));
  QF_ASSIGN(const Contents theirs, store.contents());
  return merge_contents(impl_->database, theirs, other);
}

Result<Contents> StateStore::contents() const {
  return read_contents(impl_->database);
}

}  // namespace quantfit::state
