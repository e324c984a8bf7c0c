// Reading and writing the tables, one record at a time. Inside state only: what others use is StateStore.
//
// Every function runs inside a transaction of its caller's. What is written was checked before
// (state/checks.h); what is read is checked here, and damage is Malformed.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "state/records.h"
#include "state/sqlite.h"

namespace quantfit::state {

// run_tables.cpp: the model, importance matrices, runs.

// Nothing when the file has no model yet.
[[nodiscard]] Result<std::optional<ModelIdentity>> select_model(const Database& database);
[[nodiscard]] Result<void> insert_model(Database& database, const ModelIdentity& model);
[[nodiscard]] Result<void> rename_model(Database& database, const std::string& name);
[[nodiscard]] Result<void> upsert_importance(Database& database, const ImportanceIdentity& importance);
[[nodiscard]] Result<void> delete_importance(Database& database, const std::string& fingerprint);
// In the order in which they were first seen.
[[nodiscard]] Result<std::vector<ImportanceIdentity>> select_importances(const Database& database);
[[nodiscard]] Result<std::optional<RunId>> find_run(const Database& database,
                                                    const RunParameters& parameters);
// `started` and `finished` empty: now, and not yet. `id` is not read.
[[nodiscard]] Result<RunId> insert_run(Database& database, const RunSummary& run);
// Program version and times; the parameters stay.
[[nodiscard]] Result<void> update_run(Database& database, const RunSummary& run);
[[nodiscard]] Result<void> finish_run_now(Database& database, RunId run);
[[nodiscard]] Result<void> delete_run(Database& database, RunId run);
[[nodiscard]] Result<std::vector<RunSummary>> select_runs(const Database& database);
// InvalidArgument when there is none of this number.
[[nodiscard]] Result<void> check_run_exists(const Database& database, RunId run);

// source_tables.cpp: the files that the model was read from.

// The digest of every weight. IdentityMismatch when another one is there.
[[nodiscard]] Result<void> write_model_digest(Database& database, const std::string& digest);
// What was proved of these files stays proved.
[[nodiscard]] Result<void> write_source(Database& database, const Source& source);
// Ordered by stamp_key().
[[nodiscard]] Result<std::vector<Source>> select_sources(const Database& database);

// measurement_tables.cpp

// What is stored of the tensor stays: formats that are not listed, the larger number of rows.
[[nodiscard]] Result<void> write_measurement(Database& database, RunId run,
                                             const TensorMeasurement& measurement);
[[nodiscard]] Result<std::map<std::string, TensorMeasurement>> select_measurements(const Database& database,
                                                                                   RunId run);

// Tensors that no run has measured.
[[nodiscard]] Result<void> delete_unmeasured_tensors(Database& database);

// sensitivity_tables.cpp

// Replaces the set of the same scope.
[[nodiscard]] Result<void> write_sensitivity_set(Database& database, const SensitivitySet& set);
// By scope, as the canonical key orders them.
[[nodiscard]] Result<std::vector<SensitivitySet>> select_sensitivity_sets(const Database& database);
[[nodiscard]] Result<void> delete_sensitivity_set(Database& database, const SensitivityScope& scope);

// recipe_tables.cpp

// False when the run has an equal one already; the earlier time of the two is kept.
[[nodiscard]] Result<bool> write_recipe(Database& database, RunId run, const SavedRecipe& recipe);
// In the order in which they were saved.
[[nodiscard]] Result<std::vector<SavedRecipe>> select_recipes(const Database& database, RunId run);
[[nodiscard]] Result<void> delete_recipe(Database& database, RunId run, const SavedRecipe& recipe);

// evaluation_tables.cpp: what came from running the model, and what was written. All replace the record of
// the same identity; lists are ordered by identity.
[[nodiscard]] Result<void> write_calibration(Database& database, const Calibration& calibration);
[[nodiscard]] Result<std::vector<Calibration>> select_calibrations(const Database& database);
[[nodiscard]] Result<void> write_statistics_file(Database& database, const StatisticsFile& file);
// The same, and what other bytes of that name were is forgotten.
[[nodiscard]] Result<void> replace_statistics_file(Database& database, const StatisticsFile& file);
[[nodiscard]] Result<std::vector<StatisticsFile>> select_statistics_files(const Database& database);
[[nodiscard]] Result<void> delete_statistics_file(Database& database, const std::string& fingerprint);
[[nodiscard]] Result<void> write_evaluation(Database& database, const Evaluation& evaluation);
[[nodiscard]] Result<std::vector<Evaluation>> select_evaluations(const Database& database);
[[nodiscard]] Result<void> write_written_file(Database& database, const WrittenFile& file);
[[nodiscard]] Result<std::vector<WrittenFile>> select_written_files(const Database& database);
[[nodiscard]] Result<void> delete_written_file(Database& database, const std::string& name);

// Format names are part of the file, written in the specification's spelling and read only in it:
// Unsupported otherwise.
[[nodiscard]] Result<Format> format_from_text(const std::string& text, const std::string& path);

}  // namespace quantfit::state
