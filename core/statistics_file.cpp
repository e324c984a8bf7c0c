#include "core/statistics_file.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <numeric>
#include <optional>
#include <string_view>

#include "core/text.h"

namespace quantfit {
namespace {

constexpr std::string_view kType = "quantfit.statistics";
constexpr std::uint32_t kVersion = 1;
constexpr std::string_view kPrefix = "statistics.";

// The parts of a matrix or table, in the order of the file. `per` says how many values there are.
enum class Per { Row, Matrix, Window, Column };
template <class Owner>
struct Part {
  std::string_view suffix;
  Per per;
  std::vector<float> Owner::*floats;
  std::vector<double> Owner::*doubles;
  bool optional = false;
};
constexpr std::array<Part<MatrixStatistics>, 6> kMatrixParts = {{
    {".gradient", Per::Row, &MatrixStatistics::gradient, nullptr},
    {".gradient_error", Per::Row, &MatrixStatistics::gradient_error, nullptr},
    {".output", Per::Row, &MatrixStatistics::output, nullptr, true},
    {".energy", Per::Row, &MatrixStatistics::energy, nullptr},
    {".tokens", Per::Matrix, nullptr, &MatrixStatistics::tokens},
    {".nats", Per::Window, nullptr, &MatrixStatistics::nats_by_window},
}};
constexpr std::array<Part<TableStatistics>, 5> kTableParts = {{
    {".lookup_gradient", Per::Column, &TableStatistics::gradient, nullptr},
    {".lookup_gradient_error", Per::Column, &TableStatistics::gradient_error, nullptr},
    {".lookup_row_gradient", Per::Row, nullptr, &TableStatistics::row_gradient},
    {".lookup_row_tokens", Per::Row, nullptr, &TableStatistics::row_tokens},
    {".lookup_nats", Per::Window, nullptr, &TableStatistics::nats_by_window},
}};

std::uint64_t expected(const MatrixStatistics& one, Per per, std::size_t windows) {
  switch (per) {
    case Per::Row:
      return std::uint64_t{one.rows} * one.matrices;
    case Per::Matrix:
      return one.matrices;
    case Per::Window:
      return windows;
    case Per::Column:
      break;
  }
  return 0;
}
std::uint64_t expected(const TableStatistics& one, Per per, std::size_t windows) {
  switch (per) {
    case Per::Row:
      return one.rows;
    case Per::Column:
      return one.columns;
    case Per::Window:
      return windows;
    case Per::Matrix:
      break;
  }
  return 0;
}

// One value vector of a file to be written.
struct Written {
  TensorInfo info;
  std::span<const std::byte> bytes;
};

template <class Owner, std::size_t kParts>
Result<void> add_parts(const std::filesystem::path& path, const std::string& name, const Owner& one,
                       const std::array<Part<Owner>, kParts>& parts, std::size_t windows,
                       std::vector<Written>& out) {
  for (const Part<Owner>& part : parts) {
    const std::size_t have = part.floats != nullptr ? (one.*part.floats).size() : (one.*part.doubles).size();
    if (have == 0 && part.optional) continue;
    if (have == 0 || have != expected(one, part.per, windows)) {
      return fail(ErrorCode::InvalidArgument, "{}: {} values of '{}{}', {} expected", path.string(), have,
                  name, part.suffix, expected(one, part.per, windows));
    }
    Written written;
    written.info.name = name + std::string(part.suffix);
    written.info.n_dims = 1;
    written.info.ne[0] = have;
    if constexpr (std::is_same_v<Owner, MatrixStatistics>) {
      if (part.per == Per::Row) {
        written.info.n_dims = 2;
        written.info.ne = {one.rows, one.matrices, 1, 1};
      }
    }
    if (part.floats != nullptr) {
      written.bytes = std::as_bytes(std::span(one.*part.floats));
    } else {
      written.info.format = Format::F64;
      written.bytes = std::as_bytes(std::span(one.*part.doubles));
    }
    out.push_back(std::move(written));
  }
  return outcome::success();
}

template <class T>
Result<std::vector<T>> values_of(const Model& file, const TensorInfo& tensor) {
  const std::span<const std::byte> bytes = file.data(tensor);
  std::vector<T> out(bytes.size() / sizeof(T));
  if (!out.empty()) std::memcpy(out.data(), bytes.data(), out.size() * sizeof(T));
  for (const T value : out) {
    if (!std::isfinite(value) || value < 0) {
      return fail(ErrorCode::Malformed, "{}: tensor {}: a value is {}, expected a number of at least 0",
                  file.shards()[0].path.string(), printable(tensor.name), value);
    }
  }
  return out;
}

// Reads the parts of `name`; the first part decides nothing, sizes come from `one`.
template <class Owner, std::size_t kParts>
Result<void> read_parts(const Model& file, const std::string& name,
                        const std::array<Part<Owner>, kParts>& parts, std::size_t windows, Owner& one) {
  const std::string path = file.shards()[0].path.string();
  for (const Part<Owner>& part : parts) {
    const std::string full = name + std::string(part.suffix);
    const TensorInfo* tensor = file.find(full);
    if (tensor == nullptr) {
      if (part.optional) continue;
      return fail(ErrorCode::Malformed, "{}: tensor {} is missing", path, printable(full));
    }
    const Format format = part.floats != nullptr ? Format::F32 : Format::F64;
    if (tensor->format != format || tensor->elements() != expected(one, part.per, windows)) {
      return fail(ErrorCode::Malformed, "{}: tensor {} has {} values of {}, expected {} of {}", path,
                  printable(full), tensor->elements(), name_of(tensor->format),
                  expected(one, part.per, windows), name_of(format));
    }
    if (part.floats != nullptr) {
      QF_ASSIGN(one.*part.floats, values_of<float>(file, *tensor));
    } else {
      QF_ASSIGN(one.*part.doubles, values_of<double>(file, *tensor));
    }
  }
  return outcome::success();
}

}  // namespace

std::uint64_t ModelStatistics::tokens() const {
  return std::accumulate(window_tokens.begin(), window_tokens.end(), std::uint64_t{0});
}

NatsEstimate mean_of_windows(std::span<const double> by_window,
                             std::span<const std::uint32_t> window_tokens) {
  const std::size_t windows = std::min(by_window.size(), window_tokens.size());
  double sum = 0, tokens = 0;
  for (std::size_t w = 0; w < windows; ++w) {
    sum += by_window[w] * window_tokens[w];
    tokens += window_tokens[w];
  }
  if (tokens == 0) return {};
  NatsEstimate out;
  out.value = sum / tokens;
  if (windows < 2) return out;
  double squares = 0;
  for (std::size_t w = 0; w < windows; ++w) {
    const double off = (by_window[w] - out.value) * window_tokens[w];
    squares += off * off;
  }
  const auto count = static_cast<double>(windows);
  out.standard_error = std::sqrt(squares * count / (count - 1)) / tokens;
  return out;
}

NatsEstimate predicted_divergence(const ModelStatistics& statistics,
                                  const std::map<std::string, double, std::less<>>& relative_errors) {
  std::vector<double> sum(statistics.window_tokens.size(), 0.0);
  const auto add = [&](const std::vector<double>& by_window, double factor) {
    for (std::size_t w = 0; w < std::min(sum.size(), by_window.size()); ++w) sum[w] += factor * by_window[w];
  };
  for (const auto& [name, error] : relative_errors) {
    if (const auto matrix = statistics.matrices.find(name); matrix != statistics.matrices.end())
      add(matrix->second.nats_by_window, error);
    if (const auto table = statistics.tables.find(name); table != statistics.tables.end())
      add(table->second.nats_by_window, error);
  }
  return mean_of_windows(sum, statistics.window_tokens);
}

Result<StatisticsWriter> StatisticsWriter::create(const std::filesystem::path& path,
                                                  const ModelStatistics& statistics,
                                                  std::span<const GgufKeyValue> keys,
                                                  std::span<const TensorInfo> extra) {
  GgufMetadata metadata;
  const auto key = [](std::string_view name) { return std::string(kPrefix) + std::string(name); };
  metadata.set(GgufKeyValue::of_string("general.type", kType));
  metadata.set(GgufKeyValue::of_uint32(key("version"), kVersion));
  metadata.set(GgufKeyValue::of_string(key("model"), statistics.model_fingerprint));
  metadata.set(GgufKeyValue::of_string(key("text"), statistics.text_fingerprint));
  metadata.set(GgufKeyValue::of_uint32(key("seed"), statistics.seed));
  metadata.set(GgufKeyValue::of_uint32(key("engine_version"), statistics.engine_version));
  metadata.set(GgufKeyValue::of_float32(key("choice_error"), statistics.choice_error));
  metadata.set(GgufKeyValue::of_float64(key("choice_cost"), statistics.choice_cost));
  metadata.set(GgufKeyValue::of_uint32_array(key("window_tokens"), statistics.window_tokens));
  for (const GgufKeyValue& one : keys) metadata.set(one);
  std::vector<Written> parts;
  const std::size_t windows = statistics.window_tokens.size();
  for (const auto& [name, one] : statistics.matrices)
    QF_TRY(add_parts(path, name, one, kMatrixParts, windows, parts));
  for (const auto& [name, one] : statistics.tables)
    QF_TRY(add_parts(path, name, one, kTableParts, windows, parts));
  std::vector<TensorInfo> infos;
  infos.reserve(parts.size() + extra.size());
  for (const Written& part : parts) infos.push_back(part.info);
  infos.insert(infos.end(), extra.begin(), extra.end());
  QF_ASSIGN(GgufWriter writer, GgufWriter::create(path, metadata, infos));
  for (const Written& part : parts) QF_TRY(writer.append(part.bytes));
  return StatisticsWriter(std::move(writer));
}

Result<void> write_statistics(const std::filesystem::path& path, const ModelStatistics& statistics) {
  QF_ASSIGN(StatisticsWriter writer, StatisticsWriter::create(path, statistics));
  return writer.commit();
}

Result<ModelStatistics> read_statistics(const std::filesystem::path& path) {
  QF_ASSIGN(const Model file, Model::open(path));
  if (file.metadata().find("checkpoint.layer") != nullptr) {
    return fail(ErrorCode::Unsupported, "{}: holds a pass that was interrupted; run it to its end",
                path.string());
  }
  return read_statistics(file);
}

Result<ModelStatistics> read_statistics(const Model& file) {
  const std::string path = file.shards()[0].path.string();
  const GgufMetadata& metadata = file.metadata();
  const auto key = [](std::string_view name) { return std::string(kPrefix) + std::string(name); };
  const auto type = metadata.string("general.type");
  if (type != kType) {
    return fail(ErrorCode::Unsupported, "{}: not a statistics file: general.type is {}, expected '{}'", path,
                type ? printable(*type) : "absent", kType);
  }
  if (metadata.uint(key("version")) != kVersion) {
    return fail(ErrorCode::Unsupported, "{}: a statistics file of another version, expected {}", path,
                kVersion);
  }
  ModelStatistics out;
  const auto model = metadata.string(key("model")), text = metadata.string(key("text"));
  const auto seed = metadata.uint(key("seed")), engine = metadata.uint(key("engine_version"));
  const auto choice_error = metadata.number(key("choice_error"));
  const double choice_cost = metadata.number(key("choice_cost")).value_or(0);
  const GgufKeyValue* windows = metadata.find(key("window_tokens"));
  const auto lengths = windows == nullptr ? std::nullopt : windows->as_int_array();
  constexpr std::uint64_t kMost = std::numeric_limits<std::uint32_t>::max();
  if (!model || !text || !seed || !engine || !choice_error || !(*choice_error >= 0 && *choice_error < 1e6) ||
      !(choice_cost >= 0 && choice_cost < 1e300) || !lengths || *seed > kMost || *engine > kMost)
    return fail(ErrorCode::Malformed, "{}: a key of statistics.* is missing or of another kind", path);
  out.model_fingerprint = *model;
  out.text_fingerprint = *text;
  out.seed = static_cast<std::uint32_t>(*seed);
  out.engine_version = static_cast<std::uint32_t>(*engine);
  out.choice_error = static_cast<float>(*choice_error);
  out.choice_cost = choice_cost;
  for (const std::int64_t length : *lengths) {
    if (length < 1 || static_cast<std::uint64_t>(length) > kMost)
      return fail(ErrorCode::Malformed, "{}: statistics.window_tokens: a window of {} tokens", path, length);
    out.window_tokens.push_back(static_cast<std::uint32_t>(length));
  }
  try {
    for (const TensorInfo& tensor : file.tensors()) {
      const auto stem = [&](std::string_view suffix) {
        return tensor.name.substr(0, tensor.name.size() - suffix.size());
      };
      if (tensor.rows() > kMost || tensor.ne[0] > kMost) continue;  // of no part: too large
      if (constexpr std::string_view kEnding = ".lookup_gradient"; tensor.name.ends_with(kEnding)) {
        const std::string name = stem(kEnding);
        const TensorInfo* rows = file.find(name + ".lookup_row_gradient");
        if (rows == nullptr || rows->elements() > kMost)
          return fail(ErrorCode::Malformed, "{}: tensor {} is missing or too large", path,
                      printable(name + ".lookup_row_gradient"));
        TableStatistics one;
        one.columns = static_cast<std::uint32_t>(tensor.ne[0]);
        one.rows = static_cast<std::uint32_t>(rows->elements());
        QF_TRY(read_parts(file, name, kTableParts, out.window_tokens.size(), one));
        out.tables.emplace(name, std::move(one));
      } else if (constexpr std::string_view kOther = ".gradient"; tensor.name.ends_with(kOther)) {
        const std::string name = stem(kOther);
        MatrixStatistics one;
        one.rows = static_cast<std::uint32_t>(tensor.ne[0]);
        one.matrices = static_cast<std::uint32_t>(tensor.rows());
        QF_TRY(read_parts(file, name, kMatrixParts, out.window_tokens.size(), one));
        out.matrices.emplace(name, std::move(one));
      }
    }
  } catch (const std::bad_alloc&) {
    return fail(ErrorCode::Io, "{}: not enough memory for its content", path);
  }
  return out;
}

}  // namespace quantfit
