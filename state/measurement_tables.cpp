// Tensors and what each format costs them.
#include <algorithm>

#include "core/text.h"
#include "state/checks.h"
#include "state/tables.h"

namespace quantfit::state {
namespace {

constexpr Sql kSelectTensor =
    "SELECT tensor_id, dimensions, ne0, ne1, ne2, ne3, source_format FROM tensor WHERE name = ?";
constexpr Sql kInsertTensor =
    "INSERT INTO tensor (name, role, layer, dimensions, ne0, ne1, ne2, ne3, source_format) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
constexpr Sql kUpdateTensor = "UPDATE tensor SET role = ?, layer = ? WHERE tensor_id = ?";

constexpr Sql kDeleteUnmeasured =
    "DELETE FROM tensor WHERE NOT EXISTS "
    "(SELECT 1 FROM measurement WHERE measurement.tensor_id = tensor.tensor_id)";

constexpr Sql kUpsertMeasurement =
    "INSERT INTO measurement (run_id, tensor_id, rows_sampled, saved) "
    "VALUES (?, ?, ?, coalesce(?, strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))) "
    "ON CONFLICT (run_id, tensor_id) DO UPDATE SET rows_sampled = max(rows_sampled, excluded.rows_sampled), "
    "saved = excluded.saved";
constexpr Sql kUpsertError =
    "INSERT INTO error (run_id, tensor_id, format, nmse, standard_error, bias_share, seconds) "
    "VALUES (?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (run_id, tensor_id, format) DO UPDATE SET nmse = excluded.nmse, "
    "standard_error = excluded.standard_error, bias_share = excluded.bias_share, seconds = excluded.seconds";

constexpr Sql kSelectMeasurements =
    "SELECT tensor.name, tensor.role, tensor.layer, tensor.dimensions, tensor.ne0, tensor.ne1, tensor.ne2, "
    "tensor.ne3, tensor.source_format, measurement.rows_sampled, measurement.saved "
    "FROM measurement JOIN tensor ON tensor.tensor_id = measurement.tensor_id "
    "WHERE measurement.run_id = ? ORDER BY tensor.name";
constexpr Sql kSelectErrors =
    "SELECT tensor.name, error.format, error.nmse, error.standard_error, error.bias_share, error.seconds "
    "FROM error JOIN tensor ON tensor.tensor_id = error.tensor_id "
    "WHERE error.run_id = ? ORDER BY tensor.name, error.format";

// The tensor's row, added when there is none.
Result<std::int64_t> tensor_id_of(Database& database, const TensorMeasurement& measurement) {
  const TensorInfo& shape = measurement.shape;
  QF_ASSIGN(auto select, Statement::prepare(database, kSelectTensor));
  QF_TRY(select.bind(measurement.tensor));
  QF_ASSIGN(const bool row, select.step());
  if (!row) {
    QF_ASSIGN(auto insert, Statement::prepare(database, kInsertTensor));
    QF_TRY(insert.run(measurement.tensor, measurement.role, measurement.layer, shape.n_dims, shape.ne[0],
                      shape.ne[1], shape.ne[2], shape.ne[3], name_of(shape.format)));
    return database.last_insert_rowid();
  }
  const std::int64_t id = select.integer(0);
  const std::uint32_t dimensions = select.unsigned_integer32(1);
  const std::array<std::uint64_t, 4> ne = {select.unsigned_integer(2), select.unsigned_integer(3),
                                           select.unsigned_integer(4), select.unsigned_integer(5)};
  const std::string source = select.text(6);
  QF_TRY(select.finish());
  if (dimensions != shape.n_dims || ne != shape.ne || source != name_of(shape.format))
    return fail(ErrorCode::ShapeMismatch, "{}: tensor {} is {} [{}] in the file, but {} [{}] is to be saved",
                database.path(), printable(measurement.tensor), escaped(source), fmt::join(ne, ", "),
                name_of(shape.format), fmt::join(shape.ne, ", "));
  QF_ASSIGN(auto update, Statement::prepare(database, kUpdateTensor));
  QF_TRY(update.run(measurement.role, measurement.layer, id));
  return id;
}

}  // namespace

Result<Format> format_from_text(const std::string& text, const std::string& path) {
  const std::optional<Format> format = parse_format(text);
  if (format && name_of(*format) == text) return *format;
  return fail(ErrorCode::Unsupported, "{}: format {} is unknown to this program; a newer one may know it",
              path, printable(text));
}

Result<void> write_measurement(Database& database, RunId run, const TensorMeasurement& measurement) {
  QF_ASSIGN(const std::int64_t tensor_id, tensor_id_of(database, measurement));
  QF_ASSIGN(auto upsert_measurement, Statement::prepare(database, kUpsertMeasurement));
  const auto saved = measurement.saved.empty() ? std::nullopt : std::optional<std::string>(measurement.saved);
  QF_TRY(upsert_measurement.run(run, tensor_id, measurement.rows_sampled, saved));
  QF_ASSIGN(auto upsert_error, Statement::prepare(database, kUpsertError));
  for (const FormatMeasurement& row : measurement.errors)
    QF_TRY(upsert_error.run(run, tensor_id, name_of(row.format), row.nmse, row.standard_error, row.bias_share,
                            row.seconds));
  return outcome::success();
}

Result<std::map<std::string, TensorMeasurement>> select_measurements(const Database& database, RunId run) {
  QF_TRY(check_run_exists(database, run));
  std::map<std::string, TensorMeasurement> measurements;
  QF_ASSIGN(auto tensors, Statement::prepare(database, kSelectMeasurements));
  QF_TRY(tensors.bind(run));
  while (true) {
    QF_ASSIGN(const bool row, tensors.step());
    if (!row) break;
    TensorMeasurement measurement;
    measurement.tensor = tensors.text(0);
    measurement.role = tensors.text(1);
    if (!tensors.is_null(2)) measurement.layer = tensors.unsigned_integer32(2);
    measurement.shape.name = measurement.tensor;
    measurement.shape.n_dims = tensors.unsigned_integer32(3);
    for (int dimension = 0; dimension < 4; ++dimension)
      measurement.shape.ne[static_cast<std::size_t>(dimension)] = tensors.unsigned_integer(4 + dimension);
    const std::string source = tensors.text(8);
    measurement.rows_sampled = tensors.unsigned_integer(9);
    measurement.saved = tensors.text(10);
    QF_ASSIGN(measurement.shape.format, format_from_text(source, database.path()));
    std::string name = measurement.tensor;
    measurements.insert_or_assign(std::move(name), std::move(measurement));
  }
  QF_ASSIGN(auto errors, Statement::prepare(database, kSelectErrors));
  QF_TRY(errors.bind(run));
  while (true) {
    QF_ASSIGN(const bool row, errors.step());
    if (!row) break;
    const auto measurement = measurements.find(errors.text(0));
    if (measurement == measurements.end())
      return fail(ErrorCode::Malformed, "{}: the file is damaged: errors without a measurement",
                  database.path());
    FormatMeasurement error;
    QF_ASSIGN(error.format, format_from_text(errors.text(1), database.path()));
    error.nmse = errors.real(2);
    error.standard_error = errors.real(3);
    error.bias_share = errors.real(4);
    error.seconds = errors.real(5);
    measurement->second.errors.push_back(error);
  }
  for (auto& [name, measurement] : measurements) {
    QF_TRY(sound(database, check(measurement)));
    measurement.shape.bytes = bytes_of(measurement.shape).value();
    std::ranges::sort(measurement.errors, {}, &FormatMeasurement::format);
  }
  return measurements;
}

Result<void> delete_unmeasured_tensors(Database& database) {
  QF_ASSIGN(auto statement, Statement::prepare(database, kDeleteUnmeasured));
  return statement.run();
}

}  // namespace quantfit::state
