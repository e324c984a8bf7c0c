// What a state file holds, as plain structs: one per table or group of tables. Fingerprints are lower-case
// hexadecimal (core/fingerprint.h, core/digest.h), times are UTC in ISO 8601.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/file_stamp.h"
#include "core/format_measurement.h"
#include "core/recipe.h"
#include "core/tensor_info.h"

namespace quantfit::state {

// Who the measurements are about.
struct ModelIdentity {
  std::string fingerprint;
  std::string name;  // file name, for people
  std::uint64_t elements = 0;
  std::string digest = {};  // of every weight (core/fingerprint.h); empty: nobody has read them all yet
};

// Files that the model was read from. Two of equal sizes, times and inodes are one (stamp_key).
struct Source {
  std::vector<FileStamp> files;  // in order; none: what was measured before anybody noted its files
  bool proved = false;           // every weight was read, and gave the digest of the model

  friend bool operator==(const Source&, const Source&) = default;
};

struct ImportanceIdentity {
  std::string fingerprint;  // empty: no importance matrix
  std::string name;
  std::string datasets;  // comma-separated
  std::optional<std::uint64_t> chunk_count;
  bool has_activations = false;

  friend auto operator<=>(const ImportanceIdentity&, const ImportanceIdentity&) = default;
};

// Everything that changes a measured value. Runs with equal parameters continue one another; others never
// mix.
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

struct RunSummary {
  RunId id = 0;
  RunParameters parameters;
  std::string program_version;
  std::string started;
  std::string finished;  // empty while unfinished
  std::uint64_t tensors = 0;
};

// All measurements of one tensor; stored in one transaction.
struct TensorMeasurement {
  std::string tensor;
  std::string role;
  std::optional<std::uint32_t> layer;
  TensorInfo shape;                       // dims and source format
  std::uint64_t rows_sampled = 0;         // the most that any format needed
  std::vector<FormatMeasurement> errors;  // ascending format id
  std::string saved;                      // when; empty in what is to be saved: now
};

enum class SensitivityUnit {
  Relative,  // only ratios inside the set mean something
  Nats,      // nats of KL divergence per unit of NMSE
};

// What a set of sensitivities was obtained from. Sets of equal scope are one set.
struct SensitivityScope {
  SensitivityUnit unit = SensitivityUnit::Relative;
  std::string method;                  // "perturbation", "fisher": how
  std::string text_fingerprint;        // of the text that was run; empty: none
  std::string importance_fingerprint;  // of the matrix in the metric of the errors; empty: none
  std::string metric;                  // canonical text of the error metric that the values multiply
  std::string program_version;
  std::uint32_t engine_version = 0;
  std::uint64_t tokens = 0;

  friend auto operator<=>(const SensitivityScope&, const SensitivityScope&) = default;
};

struct Sensitivity {
  std::string tensor;
  double value = 1;  // s_t, in the unit of the set
  double standard_error = 0;
  std::string obtained;  // for people: how this value came about
  std::string group;     // tensors that were perturbed together share a name and a value; empty: alone

  friend auto operator<=>(const Sensitivity&, const Sensitivity&) = default;
};

// Values that belong together: saved, loaded and used whole. Values of two sets are never mixed.
struct SensitivitySet {
  SensitivityScope scope;
  bool partial = false;           // tensors that may be quantized are missing: not for choosing formats
  std::string created;            // empty in what is to be saved: now
  std::vector<Sensitivity> rows;  // ascending by tensor

  // Null when the set has no value for the tensor.
  [[nodiscard]] const Sensitivity* find(const std::string& tensor) const;
};

struct SavedRecipe {
  std::string target;  // as the user wrote it
  std::uint64_t budget_bytes = 0;
  std::uint64_t bytes = 0;
  double objective = 0;
  double lower_bound = 0;
  std::string created;  // when it was first saved; empty in what is to be saved: now
  Recipe recipe;
};

// A pass of text through the model that gathers statistics. Equal parameters continue one another.
struct CalibrationParameters {
  std::string text_fingerprint;
  std::uint64_t tokens = 0;
  std::uint32_t context = 0;  // tokens per window
  std::uint32_t engine_version = 0;

  friend auto operator<=>(const CalibrationParameters&, const CalibrationParameters&) = default;
};

struct Calibration {
  CalibrationParameters parameters;
  std::string text_name;  // for people
  std::string program_version;
  std::string started;                // empty in what is to be saved: now
  std::string finished;               // empty while unfinished
  std::uint32_t layers_finished = 0;  // from the first one on
};

// A GGUF file in the folder of the state file, for what is too large for rows of a table: importance, second
// moments, row weights. The two are a pair: merge, prune and verify treat them as one.
struct StatisticsFile {
  std::string fingerprint;  // digest of its bytes (state/statistics_files.h)
  std::string name;         // file name without folder
  std::string kind;         // "importance", "moments", "row weights"
  std::uint64_t bytes = 0;
  std::string text_fingerprint;  // of the text it was gathered from; empty: unknown
  std::string created;           // empty in what is to be saved: now
};

// One number of an evaluation: "perplexity", "mean kl divergence", "same top token", ...
struct Estimate {
  std::string quantity;
  double value = 0;
  std::optional<double> standard_error;

  friend auto operator<=>(const Estimate&, const Estimate&) = default;
};

// What decides an evaluation's numbers. Equal identities are one evaluation.
struct EvaluationIdentity {
  std::string base_fingerprint;
  std::string candidate_fingerprint;  // the same as base: perplexity of the base itself
  std::string text_fingerprint;
  std::uint32_t context = 0;  // tokens per chunk
  std::uint64_t chunks = 0;
  std::uint32_t engine_version = 0;

  friend auto operator<=>(const EvaluationIdentity&, const EvaluationIdentity&) = default;
};

struct Evaluation {
  EvaluationIdentity identity;
  std::string candidate_name;  // for people
  std::string text_name;
  std::string program_version;
  std::string created;              // empty in what is to be saved: now
  std::vector<Estimate> estimates;  // ascending by quantity
};

// A file that was written from this model: where encoded tensors can be taken from again.
struct WrittenFile {
  std::string name;                    // path as it was given
  std::string recipe_fingerprint;      // state/keys.h
  std::string importance_fingerprint;  // empty: none
  std::string effort;
  std::uint32_t encoder_version = 0;
  std::uint64_t bytes = 0;
  std::string program_version;
  std::string written;  // empty in what is to be saved: now
};

}  // namespace quantfit::state
