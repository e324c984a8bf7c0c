#include "state/checks.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "core/checked.h"
#include "core/text.h"
#include "state/sqlite.h"

namespace quantfit::state {
namespace {

bool is_known(Format format) {
  return find_format(static_cast<std::uint32_t>(format)) != nullptr;
}

// A number that cannot be below zero.
Result<void> check_amount(double value, std::string_view tensor, std::string_view what) {
  if (std::isfinite(value) && value >= 0) return outcome::success();
  return fail(ErrorCode::InvalidArgument, "tensor {}: {} is {}, which is not a measurement",
              printable(tensor), what, value);
}

Result<void> check_texts(std::initializer_list<std::string_view> texts, std::string_view what) {
  for (const std::string_view text : texts) QF_TRY(check_text(text, what));
  return outcome::success();
}

}  // namespace

Result<void> check_text(std::string_view text, std::string_view what) {
  if (!is_utf8(text))
    return fail(ErrorCode::InvalidArgument, "{} {} is not UTF-8 text without zero bytes", what,
                printable(text));
  if (text.size() > kLongestTextBytes)
    return fail(ErrorCode::InvalidArgument, "{} {} has {} bytes, {} is the limit", what, printable(text),
                text.size(), kLongestTextBytes);
  return outcome::success();
}

Result<void> sound(const Database& database, const Result<void>& checked) {
  if (checked) return outcome::success();
  return fail(ErrorCode::Malformed, "{}: the file is damaged: {}", database.path(), checked.error().message);
}

std::string storable_name(std::string_view text) {
  return std::string(cut_utf8(to_utf8(text), kLongestNameBytes));
}

Result<std::uint64_t> bytes_of(const TensorInfo& shape) {
  const auto rows = checked_product(shape.ne[1], shape.ne[2], shape.ne[3]);
  if (!rows) return fail(ErrorCode::ShapeMismatch, "more than 2^64 rows");
  return tensor_bytes(shape.format, shape.ne[0], *rows);
}

Result<void> check(const RunParameters& parameters) {
  QF_TRY(check_text(parameters.importance_fingerprint, "the importance matrix's fingerprint"));
  QF_TRY(check_text(parameters.effort, "effort"));
  QF_TRY(check_text(parameters.sampling, "the sampling parameters"));
  QF_TRY(check_text(parameters.metric, "the metric's parameters"));
  if (parameters.unit != "nmse" && parameters.unit != "nats")
    return fail(ErrorCode::InvalidArgument, "unit {} is neither 'nmse' nor 'nats'",
                printable(parameters.unit));
  return outcome::success();
}

Result<void> check(const TensorMeasurement& measurement) {
  QF_TRY(check_text(measurement.tensor, "tensor name"));
  QF_TRY(check_text(measurement.role, "tensor role"));
  QF_TRY(check_text(measurement.saved, "time"));
  const std::string tensor = printable(measurement.tensor);
  if (measurement.shape.n_dims > 4 || !is_known(measurement.shape.format))
    return fail(ErrorCode::InvalidArgument, "tensor {}: {} dimensions, format id {}", tensor,
                measurement.shape.n_dims, static_cast<std::uint32_t>(measurement.shape.format));
  if (auto bytes = bytes_of(measurement.shape); !bytes)
    return fail(ErrorCode::ShapeMismatch, "tensor {} has an impossible shape: {}", tensor,
                bytes.error().message);
  std::vector<Format> formats;
  for (const FormatMeasurement& row : measurement.errors) {
    if (!is_known(row.format))
      return fail(ErrorCode::InvalidArgument, "tensor {}: format id {} does not exist", tensor,
                  static_cast<std::uint32_t>(row.format));
    if (std::ranges::find(formats, row.format) != formats.end())
      return fail(ErrorCode::InvalidArgument, "tensor {}: format {} is listed twice", tensor,
                  name_of(row.format));
    formats.push_back(row.format);
    QF_TRY(check_amount(row.nmse, measurement.tensor, "the NMSE"));
    QF_TRY(check_amount(row.standard_error, measurement.tensor, "the standard error"));
    QF_TRY(check_amount(row.bias_share, measurement.tensor, "the bias share"));
    QF_TRY(check_amount(row.seconds, measurement.tensor, "the time"));
  }
  return outcome::success();
}

Result<void> check(const SensitivitySet& set) {
  QF_TRY(check_texts({set.scope.method, set.scope.text_fingerprint, set.scope.importance_fingerprint,
                      set.scope.metric, set.scope.program_version, set.created},
                     "scope of a sensitivity set"));
  std::optional<std::string_view> previous;
  for (const Sensitivity& row : set.rows) {
    QF_TRY(check_text(row.tensor, "tensor name"));
    QF_TRY(check_text(row.obtained, "a sensitivity's origin"));
    QF_TRY(check_text(row.group, "a sensitivity's group"));
    QF_TRY(check_amount(row.value, row.tensor, "the sensitivity"));
    QF_TRY(check_amount(row.standard_error, row.tensor, "the sensitivity's standard error"));
    if (previous && *previous >= row.tensor)
      return fail(ErrorCode::InvalidArgument, "a sensitivity set lists tensor {} twice or out of order",
                  printable(row.tensor));
    previous = row.tensor;
  }
  return outcome::success();
}

Result<void> check(const SavedRecipe& saved) {
  QF_TRY(check_text(saved.target, "target"));
  QF_TRY(check_text(saved.created, "time"));
  if (!std::isfinite(saved.objective) || !std::isfinite(saved.lower_bound))
    return fail(ErrorCode::InvalidArgument, "recipe for {}: objective {} and lower bound {} must be finite",
                printable(saved.target), saved.objective, saved.lower_bound);
  for (const RecipeEntry& entry : saved.recipe.entries) {
    QF_TRY(check_text(entry.tensor, "tensor name"));
    if (!is_known(entry.format))
      return fail(ErrorCode::InvalidArgument, "recipe for {}, tensor {}: format id {} does not exist",
                  printable(saved.target), printable(entry.tensor), static_cast<std::uint32_t>(entry.format));
  }
  for (const auto& [key, value] : saved.recipe.provenance) {
    QF_TRY(check_text(key, "provenance key"));
    QF_TRY(check_text(value, "provenance value"));
  }
  return outcome::success();
}

Result<void> check(const Calibration& calibration) {
  return check_texts({calibration.parameters.text_fingerprint, calibration.text_name,
                      calibration.program_version, calibration.started, calibration.finished},
                     "calibration");
}

Result<void> check(const StatisticsFile& file) {
  QF_TRY(check_texts({file.fingerprint, file.name, file.kind, file.text_fingerprint, file.created},
                     "statistics file"));
  if (file.fingerprint.empty())
    return fail(ErrorCode::InvalidArgument, "a statistics file's fingerprint must not be empty");
  // A name that leads out of the folder would let a state file have any file copied or removed.
  if (file.name.empty() || file.name.find('/') != std::string::npos || file.name == "." || file.name == "..")
    return fail(ErrorCode::InvalidArgument, "{} is not the name of a file beside the state file",
                printable(file.name));
  return outcome::success();
}

Result<void> check(const Evaluation& evaluation) {
  const EvaluationIdentity& identity = evaluation.identity;
  QF_TRY(check_texts(
      {identity.base_fingerprint, identity.candidate_fingerprint, identity.text_fingerprint,
       evaluation.candidate_name, evaluation.text_name, evaluation.program_version, evaluation.created},
      "evaluation"));
  std::optional<std::string_view> previous;
  for (const Estimate& estimate : evaluation.estimates) {
    QF_TRY(check_text(estimate.quantity, "quantity"));
    if (!std::isfinite(estimate.value) ||
        (estimate.standard_error &&
         !(std::isfinite(*estimate.standard_error) && *estimate.standard_error >= 0)))
      return fail(ErrorCode::InvalidArgument, "evaluation of {}: {} is {}, which is not a measurement",
                  printable(evaluation.candidate_name), printable(estimate.quantity), estimate.value);
    if (previous && *previous >= estimate.quantity)
      return fail(ErrorCode::InvalidArgument, "evaluation of {}: {} is listed twice or out of order",
                  printable(evaluation.candidate_name), printable(estimate.quantity));
    previous = estimate.quantity;
  }
  return outcome::success();
}

Result<void> check(const WrittenFile& file) {
  return check_texts({file.name, file.recipe_fingerprint, file.importance_fingerprint, file.effort,
                      file.program_version, file.written},
                     "written file");
}

const Sensitivity* SensitivitySet::find(const std::string& tensor) const {
  const auto found = std::ranges::lower_bound(rows, tensor, {}, &Sensitivity::tensor);
  return found != rows.end() && found->tensor == tensor ? &*found : nullptr;
}

}  // namespace quantfit::state
