#include "state/merge.h"

#include <system_error>

#include "core/text.h"
#include "state/state_store.h"
#include "state/statistics_files.h"
#include "state/tables.h"

namespace quantfit::state {
namespace {

bool same_values(const FormatMeasurement& a, const FormatMeasurement& b) {
  return a.format == b.format && a.nmse == b.nmse && a.standard_error == b.standard_error &&
         a.bias_share == b.bias_share && a.seconds == b.seconds;
}

bool same_values(const TensorMeasurement& a, const TensorMeasurement& b) {
  return a.role == b.role && a.layer == b.layer && a.rows_sampled == b.rows_sampled && a.saved == b.saved &&
         std::ranges::equal(a.errors, b.errors, [](const FormatMeasurement& x, const FormatMeasurement& y) {
           return same_values(x, y);
         });
}

// Inside a transaction of the caller's. `before` is what the file holds, `after` what it shall hold: never
// less.
Result<void> write_difference(Database& database, const Contents& before, const Contents& after) {
  if (after.model.name != before.model.name) QF_TRY(rename_model(database, after.model.name));
  if (!after.model.digest.empty()) QF_TRY(write_model_digest(database, after.model.digest));
  for (const auto& [key, source] : after.sources) QF_TRY(write_source(database, source));
  for (const auto& [fingerprint, importance] : after.importances)
    QF_TRY(upsert_importance(database, importance));
  for (const auto& [key, contents] : after.runs) {
    RunSummary run = contents.run;
    const auto known = before.runs.find(key);
    if (known == before.runs.end()) {
      QF_ASSIGN(run.id, insert_run(database, run));
    } else {
      run.id = known->second.run.id;
      QF_TRY(update_run(database, run));
    }
    for (const auto& [tensor, measurement] : contents.measurements) {
      if (known != before.runs.end()) {
        const auto own = known->second.measurements.find(tensor);
        if (own != known->second.measurements.end() && same_values(own->second, measurement)) continue;
      }
      QF_TRY(write_measurement(database, run.id, measurement));
    }
    for (const auto& [fingerprint, recipe] : contents.recipes) QF_TRY(write_recipe(database, run.id, recipe));
  }
  for (const auto& [key, set] : after.sensitivities) QF_TRY(write_sensitivity_set(database, set));
  for (const auto& [key, calibration] : after.calibrations) QF_TRY(write_calibration(database, calibration));
  for (const auto& [key, file] : after.statistics_files) QF_TRY(write_statistics_file(database, file));
  for (const auto& [key, evaluation] : after.evaluations) QF_TRY(write_evaluation(database, evaluation));
  for (const auto& [key, file] : after.written_files) QF_TRY(write_written_file(database, file));
  return outcome::success();
}

void add(MergeSummary& total, const MergeSummary& more) {
  total.runs_added += more.runs_added;
  total.tensors_added += more.tensors_added;
  total.errors_added += more.errors_added;
  total.sensitivities_added += more.sensitivities_added;
  total.recipes_added += more.recipes_added;
  total.calibrations_added += more.calibrations_added;
  total.statistics_files_added += more.statistics_files_added;
  total.evaluations_added += more.evaluations_added;
  total.written_files_added += more.written_files_added;
  total.differing += more.differing;
}

}  // namespace

Result<MergeSummary> merge_contents(Database& database, const Contents& theirs,
                                    const std::filesystem::path& path) {
  QF_ASSIGN(auto transaction, Transaction::begin_write(database));
  QF_ASSIGN(const Contents before, select_contents(database));
  if (theirs.model.fingerprint != before.model.fingerprint)
    return fail(
        ErrorCode::IdentityMismatch,
        "{}: holds measurements of model {} (fingerprint {}), but {} is about {} (fingerprint {}); only "
        "files of the same model can be merged",
        path.string(), printable(theirs.model.name), escaped(theirs.model.fingerprint), database.path(),
        printable(before.model.name), escaped(before.model.fingerprint));
  Contents after = before;
  auto summary = join(after, theirs);
  if (!summary) return fail(summary.error().code, "{}: {}", path.string(), summary.error().message);
  QF_TRY(write_difference(database, before, after));
  QF_TRY(transaction.commit());
  return summary;
}

Result<MergeSummary> merge_files(const std::filesystem::path& into,
                                 const std::vector<std::filesystem::path>& others,
                                 const CancellationToken* cancel) {
  MergeSummary total;
  for (const std::filesystem::path& other : others) {
    if (cancel != nullptr && cancel->cancelled())
      return fail(ErrorCode::Interrupted, "interrupted before merging {}", other.string());
    // Their model names ours when the file is new; one that exists says itself what it is about.
    ModelIdentity model;
    {
      QF_ASSIGN(const auto theirs, StateStore::open_read_only(other, cancel));
      QF_ASSIGN(model, theirs.model());
    }
    std::error_code trouble;
    const bool same = std::filesystem::equivalent(into, other, trouble);
    if (!trouble && same) continue;
    QF_ASSIGN(auto store, StateStore::open(into, model, cancel));
    // The large files first: a state file never names one that is not there.
    QF_TRY(copy_statistics_files(other, into, cancel));
    QF_ASSIGN(const MergeSummary summary, store.merge(other));
    add(total, summary);
  }
  return total;
}

}  // namespace quantfit::state
