#include "state/contents.h"

#include <algorithm>
#include <tuple>

#include "core/text.h"
#include "state/keys.h"
#include "state/tables.h"

namespace quantfit::state {
namespace {

// The earlier of two times; an empty one is no time.
void keep_earlier(std::string& ours, const std::string& theirs) {
  if (ours.empty() || (!theirs.empty() && theirs < ours)) ours = theirs;
}

void keep_later(std::string& ours, const std::string& theirs) {
  ours = std::max(ours, theirs);
}

// Of two names for one thing: any, as long as it is the same one for everybody. Empty ones lose.
void keep_name(std::string& ours, const std::string& theirs) {
  if (ours.empty() || (!theirs.empty() && theirs < ours)) ours = theirs;
}

// The value that is known better: the smaller standard error, then an order without meaning.
auto rank(const FormatMeasurement& row) {
  return std::tie(row.standard_error, row.nmse, row.bias_share, row.seconds);
}

auto values_of(const SensitivitySet& set) {
  return std::tie(set.partial, set.rows);  // a whole set before a partial one
}

void join_importance(ImportanceIdentity& ours, const ImportanceIdentity& theirs) {
  // One that was only referred to has no name yet.
  if (ours.name.empty() || (!theirs.name.empty() && theirs < ours)) ours = theirs;
}

Result<void> join_measurement(TensorMeasurement& ours, const TensorMeasurement& theirs,
                              MergeSummary& summary) {
  if (ours.shape.n_dims != theirs.shape.n_dims || ours.shape.ne != theirs.shape.ne ||
      ours.shape.format != theirs.shape.format)
    return fail(ErrorCode::ShapeMismatch, "tensor {} is {} [{}] in one file and {} [{}] in the other",
                printable(ours.tensor), name_of(ours.shape.format), fmt::join(ours.shape.ne, ", "),
                name_of(theirs.shape.format), fmt::join(theirs.shape.ne, ", "));
  if (std::tie(theirs.role, theirs.layer) < std::tie(ours.role, ours.layer)) {
    ours.role = theirs.role;
    ours.layer = theirs.layer;
  }
  ours.rows_sampled = std::max(ours.rows_sampled, theirs.rows_sampled);
  keep_later(ours.saved, theirs.saved);
  for (const FormatMeasurement& row : theirs.errors) {
    const auto own = std::ranges::find(ours.errors, row.format, &FormatMeasurement::format);
    if (own == ours.errors.end()) {
      ours.errors.push_back(row);
      ++summary.errors_added;
      continue;
    }
    if (own->nmse != row.nmse || own->standard_error != row.standard_error) ++summary.differing;
    if (rank(row) < rank(*own)) *own = row;
  }
  std::ranges::sort(ours.errors, {}, &FormatMeasurement::format);
  return outcome::success();
}

Result<void> join_run(RunContents& ours, const RunContents& theirs, MergeSummary& summary) {
  keep_name(ours.run.program_version, theirs.run.program_version);
  keep_earlier(ours.run.started, theirs.run.started);
  keep_later(ours.run.finished, theirs.run.finished);
  for (const auto& [tensor, measurement] : theirs.measurements) {
    const auto [own, added] = ours.measurements.try_emplace(tensor, measurement);
    if (added) {
      ++summary.tensors_added;
      summary.errors_added += measurement.errors.size();
    } else {
      QF_TRY(join_measurement(own->second, measurement, summary));
    }
  }
  ours.run.tensors = ours.measurements.size();
  for (const auto& [fingerprint, recipe] : theirs.recipes) {
    const auto [own, added] = ours.recipes.try_emplace(fingerprint, recipe);
    if (added)
      ++summary.recipes_added;
    else
      keep_earlier(own->second.created, recipe.created);
  }
  return outcome::success();
}

// Adds what `ours` has not and calls `both(own, theirs)` for what it has.
template <class Map, class Both>
std::uint64_t join_maps(Map& ours, const Map& theirs, const Both& both) {
  std::uint64_t count = 0;
  for (const auto& [key, value] : theirs) {
    const auto [own, added] = ours.try_emplace(key, value);
    if (added)
      ++count;
    else
      both(own->second, value);
  }
  return count;
}

}  // namespace

Result<MergeSummary> join(Contents& ours, const Contents& theirs) {
  MergeSummary summary;
  keep_name(ours.model.name, theirs.model.name);
  if (!ours.model.digest.empty() && !theirs.model.digest.empty() && ours.model.digest != theirs.model.digest)
    return fail(
        ErrorCode::IdentityMismatch,
        "the samples of both models agree, but not every weight does (digest {} and {}); only files of "
        "the same model can be merged",
        escaped(ours.model.digest), escaped(theirs.model.digest));
  keep_name(ours.model.digest, theirs.model.digest);
  join_maps(ours.sources, theirs.sources, [](Source& own, const Source& other) {
    own.proved = own.proved || other.proved;
    for (std::size_t i = 0; i < std::min(own.files.size(), other.files.size()); ++i)
      keep_name(own.files[i].name, other.files[i].name);
  });
  join_maps(ours.importances, theirs.importances, join_importance);
  for (const auto& [key, run] : theirs.runs) {
    auto own = ours.runs.find(key);
    if (own == ours.runs.end()) {
      own = ours.runs.try_emplace(key).first;
      own->second.run = run.run;
      ++summary.runs_added;
    }
    QF_TRY(join_run(own->second, run, summary));
  }
  summary.sensitivities_added = join_maps(ours.sensitivities, theirs.sensitivities,
                                          [&](SensitivitySet& own, const SensitivitySet& other) {
                                            if (own.rows != other.rows) ++summary.differing;
                                            std::string created = own.created;
                                            keep_earlier(created, other.created);
                                            if (values_of(other) < values_of(own)) own = other;
                                            own.created = created;
                                          });
  summary.calibrations_added =
      join_maps(ours.calibrations, theirs.calibrations, [](Calibration& own, const Calibration& other) {
        keep_name(own.text_name, other.text_name);
        keep_name(own.program_version, other.program_version);
        keep_earlier(own.started, other.started);
        keep_later(own.finished, other.finished);
        own.layers_finished = std::max(own.layers_finished, other.layers_finished);
      });
  summary.statistics_files_added = join_maps(ours.statistics_files, theirs.statistics_files,
                                             [](StatisticsFile& own, const StatisticsFile& other) {
                                               keep_name(own.name, other.name);
                                               keep_name(own.kind, other.kind);
                                               keep_name(own.text_fingerprint, other.text_fingerprint);
                                               own.bytes = std::max(own.bytes, other.bytes);
                                               keep_earlier(own.created, other.created);
                                             });
  summary.evaluations_added =
      join_maps(ours.evaluations, theirs.evaluations, [&](Evaluation& own, const Evaluation& other) {
        keep_name(own.candidate_name, other.candidate_name);
        keep_name(own.text_name, other.text_name);
        keep_name(own.program_version, other.program_version);
        keep_earlier(own.created, other.created);
        if (own.estimates != other.estimates) ++summary.differing;
        own.estimates = std::min(own.estimates, other.estimates);
      });
  // A file of one name was written over: the last one is there.
  const auto age = [](const WrittenFile& file) {
    return std::tie(file.written, file.recipe_fingerprint, file.importance_fingerprint, file.effort,
                    file.encoder_version, file.bytes, file.program_version);
  };
  summary.written_files_added =
      join_maps(ours.written_files, theirs.written_files, [&](WrittenFile& own, const WrittenFile& other) {
        if (age(own) < age(other)) own = other;
      });
  return summary;
}

Result<Contents> select_contents(const Database& database) {
  Contents contents;
  QF_ASSIGN(auto model, select_model(database));
  if (!model) return fail(ErrorCode::Malformed, "{}: holds no model yet", database.path());
  contents.model = std::move(*model);
  QF_ASSIGN(auto sources, select_sources(database));
  for (Source& source : sources) {
    std::string key = stamp_key(source.files);
    contents.sources.emplace(std::move(key), std::move(source));
  }
  QF_ASSIGN(auto importances, select_importances(database));
  for (ImportanceIdentity& importance : importances)
    contents.importances.emplace(importance.fingerprint, std::move(importance));
  QF_ASSIGN(auto runs, select_runs(database));
  for (RunSummary& run : runs) {
    RunContents& run_contents = contents.runs[canonical_key(run.parameters)];
    QF_ASSIGN(run_contents.measurements, select_measurements(database, run.id));
    QF_ASSIGN(auto recipes, select_recipes(database, run.id));
    for (SavedRecipe& recipe : recipes)
      run_contents.recipes.emplace(recipe_fingerprint(recipe), std::move(recipe));
    run_contents.run = std::move(run);
  }
  QF_ASSIGN(auto sets, select_sensitivity_sets(database));
  for (SensitivitySet& set : sets) contents.sensitivities.emplace(canonical_key(set.scope), std::move(set));
  QF_ASSIGN(auto calibrations, select_calibrations(database));
  for (Calibration& calibration : calibrations)
    contents.calibrations.emplace(calibration.parameters, std::move(calibration));
  QF_ASSIGN(auto files, select_statistics_files(database));
  for (StatisticsFile& file : files) contents.statistics_files.emplace(file.fingerprint, std::move(file));
  QF_ASSIGN(auto evaluations, select_evaluations(database));
  for (Evaluation& evaluation : evaluations)
    contents.evaluations.emplace(evaluation.identity, std::move(evaluation));
  QF_ASSIGN(auto written, select_written_files(database));
  for (WrittenFile& file : written) contents.written_files.emplace(file.name, std::move(file));
  return contents;
}

Result<Contents> read_contents(Database& database) {
  QF_ASSIGN(auto transaction, Transaction::begin_read(database));
  QF_ASSIGN(auto contents, select_contents(database));
  QF_TRY(transaction.commit());
  return contents;
}

}  // namespace quantfit::state
