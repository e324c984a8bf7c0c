#include "core/importance_matrix.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <new>
#include <utility>

#include "core/checked.h"
#include "core/gguf_layout.h"
#include "core/gguf_reader.h"
#include "core/mapped_file.h"
#include "core/text.h"

namespace quantfit {
namespace {

constexpr double kMaxCount = 9007199254740992.0;  // 2^53
// Counts are whole numbers stored as F32.
constexpr double kCountTolerance = 0.01;
// Variances are not negative: mean^2 <= mean square, up to the rounding of sums that were accumulated in F32
// over up to millions of rows. More than this is no rounding: a warning, and the mean is clamped as always.
constexpr double kVarianceTolerance = 0.05;
constexpr double kUnderflowingSquare = 1e-30;  // squares of smaller numbers may have vanished in F32

// Backends decorate names: "A#NAME#B" and "A#NAME" mean NAME.
std::string_view undecorated(std::string_view name) {
  const auto first = name.find('#');
  if (first == std::string_view::npos) return name;
  name.remove_prefix(first + 1);
  return name.substr(0, name.find('#'));
}

bool is_embedding(std::string_view name) {
  return name == "token_embd.weight" || name == "per_layer_token_embd.weight";
}

// Parts of names "blk.N.PART.weight" whose tensors are multiplied with the same input.
constexpr std::array<std::array<std::string_view, 4>, 4> kSiblings = {{
    {"attn_q", "attn_k", "attn_v", "attn_qkv"},
    {"ffn_gate", "ffn_up", "", ""},
    {"ffn_gate_exps", "ffn_up_exps", "ffn_gate_up_exps", ""},
    {"ffn_gate_shexp", "ffn_up_shexp", "", ""},
}};

std::vector<std::string> sibling_names(std::string_view name) {
  constexpr std::string_view kEnding = ".weight";
  if (!name.starts_with("blk.") || !name.ends_with(kEnding)) return {};
  const std::string_view stem = name.substr(0, name.size() - kEnding.size());
  const auto dot = stem.rfind('.');
  const std::string_view layer = stem.substr(0, dot + 1);
  const std::string_view part = stem.substr(dot + 1);
  std::vector<std::string> names;
  for (const auto& group : kSiblings) {
    if (part.empty() || std::ranges::find(group, part) == group.end()) continue;
    for (const std::string_view other : group)
      if (!other.empty() && other != part) names.push_back(fmt::format("{}{}{}", layer, other, kEnding));
  }
  return names;
}

Result<void> check_sums(const FloatsInFile& values, bool non_negative, std::string_view what) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) return fail(ErrorCode::Malformed, "{}: value {} is not finite", what, i);
    if (non_negative && values[i] < 0)
      return fail(ErrorCode::Malformed, "{}: value {} is {}, a sum of squares cannot be negative", what, i,
                  values[i]);
  }
  return outcome::success();
}

// Largest magnitude m with m^2 <= square, sign of `mean`.
float clamped_mean(double mean, float square) {
  auto result = static_cast<float>(mean);
  if (static_cast<double>(result) * result <= square) return result;
  result = std::copysign(std::sqrt(square), result);
  while (static_cast<double>(result) * result > square) result = std::nextafter(result, 0.0F);
  return result;
}

}  // namespace

Result<ImportanceMatrix> ImportanceMatrix::read(const std::filesystem::path& path) {
  QF_ASSIGN(auto mapped, MappedFile::open(path));
  const std::shared_ptr<const MappedFile> file = std::move(mapped);
  const auto bytes = file->bytes();
  const FileWatch watch(*file);
  const bool gguf = bytes.size() >= kGgufMagic.size() &&
                    std::memcmp(bytes.data(), kGgufMagic.data(), kGgufMagic.size()) == 0;
  try {
    auto matrix = gguf ? read_gguf(bytes, path) : read_legacy(bytes, path);
    QF_TRY(file->check_unchanged());
    if (matrix) matrix.value().file_ = file;
    file->done_with(bytes);
    return matrix;
  } catch (const std::bad_alloc&) {
    return fail(ErrorCode::Io, "{}: not enough memory for its content", path.string());
  }
}

Result<ImportanceMatrix> ImportanceMatrix::read_gguf(std::span<const std::byte> file,
                                                     const std::filesystem::path& path) {
  const std::string file_name = path.string();
  QF_ASSIGN(const GgufContents gguf, parse_gguf(file, file_name));
  if (const GgufKeyValue* type = gguf.metadata.find("general.type");
      type != nullptr && type->as_string() != "imatrix")
    return fail(ErrorCode::Unsupported,
                "{}: not an importance matrix: general.type is {}, expected 'imatrix'", file_name,
                type->as_string() ? printable(*type->as_string()) : "not a string");

  ImportanceMatrix matrix;
  matrix.path_ = path;
  if (const GgufKeyValue* datasets = gguf.metadata.find("imatrix.datasets"); datasets != nullptr) {
    if (auto names = datasets->as_string_array())
      matrix.datasets_ = std::move(*names);
    else
      matrix.warnings_.push_back("imatrix.datasets is not an array of strings and was ignored");
  }
  matrix.chunk_count_ = gguf.metadata.uint("imatrix.chunk_count");
  for (const std::string_view key : {"imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"})
    if (gguf.metadata.find(key) == nullptr)
      matrix.warnings_.push_back(fmt::format("the importance matrix lacks the key {}", key));

  // The tensors of each weight, by its name.
  struct Group {
    const TensorInfo* sum_squares = nullptr;
    const TensorInfo* sums = nullptr;
    const TensorInfo* counts = nullptr;
  };
  std::map<std::string, Group, std::less<>> groups;
  constexpr std::array<std::pair<std::string_view, const TensorInfo * Group::*>, 3> kSuffixes = {{
      {".in_sum2", &Group::sum_squares},
      {".in_sum", &Group::sums},
      {".counts", &Group::counts},
  }};
  std::uint64_t unknown = 0;
  for (const TensorInfo& tensor : gguf.tensors) {
    const std::string_view name = tensor.name;
    if (name.ends_with(".stats")) continue;  // a summary of the rest
    const auto suffix =
        std::ranges::find_if(kSuffixes, [&](const auto& s) { return name.ends_with(s.first); });
    if (suffix == kSuffixes.end()) {
      ++unknown;
      continue;
    }
    const std::string weight(undecorated(name.substr(0, name.size() - suffix->first.size())));
    if (weight.empty())
      return fail(ErrorCode::Malformed, "{}: tensor {} belongs to no weight", file_name, printable(name));
    if (tensor.format != Format::F32)
      return fail(ErrorCode::Malformed, "{}: tensor {} is {}, expected F32", file_name, printable(name),
                  name_of(tensor.format));
    const TensorInfo*& place = groups[weight].*(suffix->second);
    if (place != nullptr)
      return fail(ErrorCode::Malformed, "{}: entry {} has two tensors {}", file_name, printable(weight),
                  suffix->first);
    place = &tensor;
  }
  if (unknown != 0)
    matrix.warnings_.push_back(
        fmt::format("{} tensors of the importance matrix are of no known kind", unknown));
  if (groups.empty())
    return fail(ErrorCode::Malformed, "{}: no importance entries (tensors named NAME.in_sum2)", file_name);

  const auto values_of = [&](const TensorInfo& tensor) {
    return FloatsInFile(file.subspan(gguf.data_offset + tensor.offset, tensor.bytes));
  };
  std::uint64_t never = 0;
  std::uint64_t impossible = 0;  // columns of negative variance
  for (const auto& [name, group] : groups) {
    const std::string what = fmt::format("{}: entry {}", file_name, printable(name));
    if (group.sum_squares == nullptr) return fail(ErrorCode::Malformed, "{} has no .in_sum2", what);
    if (group.counts == nullptr) return fail(ErrorCode::Malformed, "{} has no .counts", what);
    ImportanceEntry entry;
    entry.sum_squares = values_of(*group.sum_squares);
    const FloatsInFile counts = values_of(*group.counts);
    if (counts.empty()) return fail(ErrorCode::Malformed, "{}: .counts is empty", what);
    if (entry.sum_squares.empty() || entry.sum_squares.size() % counts.size() != 0)
      return fail(ErrorCode::Malformed, "{}: {} values in .in_sum2 do not divide into {} matrices", what,
                  entry.sum_squares.size(), counts.size());
    if (group.sums != nullptr) {
      entry.sums = values_of(*group.sums);
      if (entry.sums.size() != entry.sum_squares.size())
        return fail(ErrorCode::Malformed, "{}: .in_sum has {} values, .in_sum2 has {}", what,
                    entry.sums.size(), entry.sum_squares.size());
    }
    QF_TRY(check_sums(entry.sum_squares, true, what + " .in_sum2"));
    QF_TRY(check_sums(entry.sums, false, what + " .in_sum"));
    entry.matrices = counts.size();
    std::uint64_t zero = 0;
    for (std::size_t e = 0; e < counts.size(); ++e) {
      const double count = counts[e];
      // The comparison is false for NaN too.
      if (!(count >= 0 && count < kMaxCount && std::abs(count - std::round(count)) <= kCountTolerance))
        return fail(ErrorCode::Malformed, "{}: count {} is {}, expected a whole number from 0 to 2^53", what,
                    e, count);
      entry.counts.push_back(std::round(count));
      zero += entry.counts.back() == 0 ? 1 : 0;
    }
    const std::size_t columns = entry.sum_squares.size() / counts.size();
    for (std::size_t i = 0; i < entry.sums.size(); ++i) {
      const double count = entry.counts[i / columns];
      if (count == 0) continue;
      const double mean = entry.sums[i] / count;
      const double square = entry.sum_squares[i] / count;
      impossible += mean * mean > square * (1 + kVarianceTolerance) + kUnderflowingSquare ? 1 : 0;
    }
    never += zero == counts.size() ? 1 : 0;
    matrix.entries_.emplace(name, std::move(entry));
  }
  if (impossible != 0)
    matrix.warnings_.push_back(fmt::format(
        "{} columns have a mean activation above the root of their mean square, which no data can have; "
        "the means were cut to what is possible",
        impossible));
  if (never != 0)
    matrix.warnings_.push_back(fmt::format("{} importance entries were never reached by calibration", never));
  return matrix;
}

// Entries, then optionally the number of chunks and one data set name; all integers 32-bit signed.
Result<ImportanceMatrix> ImportanceMatrix::read_legacy(std::span<const std::byte> file,
                                                       const std::filesystem::path& path) {
  const std::string file_name = path.string();
  constexpr std::string_view kNeither = "neither a GGUF file nor a legacy importance matrix";
  std::uint64_t position = 0;
  const auto malformed = [&](std::string_view cause) {
    return fail(ErrorCode::Malformed, "{}: at byte {}: {}", file_name, position, cause);
  };
  const auto integer = [&](std::string_view what, std::int32_t smallest) -> Result<std::uint32_t> {
    std::int32_t value = 0;
    if (file.size() - position < sizeof(value))
      return malformed(fmt::format("the file ends inside {}", what));
    std::memcpy(&value, file.data() + position, sizeof(value));
    if (value < smallest)
      return malformed(fmt::format("{} is {}, expected at least {}", what, value, smallest));
    position += sizeof(value);
    return static_cast<std::uint32_t>(value);
  };
  const auto take = [&](std::uint64_t count, std::string_view what) -> Result<std::span<const std::byte>> {
    if (count > file.size() - position)
      return malformed(fmt::format("{} claims {} bytes, but {} are left in the file", what, count,
                                   file.size() - position));
    const auto bytes = file.subspan(position, count);
    position += count;
    return bytes;
  };
  const auto text = [&](std::uint64_t length, std::string_view what) -> Result<std::string> {
    QF_ASSIGN(const auto bytes, take(length, what));
    std::string value(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (value.find('\0') != std::string::npos) return malformed(fmt::format("{} contains a zero byte", what));
    return value;
  };

  ImportanceMatrix matrix;
  matrix.path_ = path;
  matrix.legacy_ = true;
  auto entry_count = integer("the number of entries", 1);
  if (!entry_count) return fail(ErrorCode::Malformed, "{} ({})", entry_count.error().message, kNeither);
  constexpr std::uint64_t kSmallestEntry = 17;  // three integers, a name of one byte, one value
  if (entry_count.value() > (file.size() - position) / kSmallestEntry)
    return malformed(fmt::format("{} entries do not fit into the {} bytes that follow ({})",
                                 entry_count.value(), file.size() - position, kNeither));
  for (std::uint32_t i = 0; i < entry_count.value(); ++i) {
    QF_ASSIGN(const auto name_bytes, integer(fmt::format("the name length of entry {}", i), 1));
    QF_ASSIGN(const std::string stored_name, text(name_bytes, fmt::format("the name of entry {}", i)));
    const std::string name(undecorated(stored_name));
    if (name.empty()) return malformed(fmt::format("entry {}, {}, has no name", i, printable(stored_name)));
    const std::string what = fmt::format("entry {}", printable(name));
    QF_ASSIGN(const auto calls, integer(fmt::format("the call count of {}", what), 0));
    QF_ASSIGN(const auto value_count, integer(fmt::format("the number of values of {}", what), 1));
    QF_ASSIGN(const auto values,
              take(std::uint64_t{value_count} * sizeof(float), fmt::format("the values of {}", what)));
    ImportanceEntry entry;
    entry.sum_squares = FloatsInFile(values);
    QF_TRY(check_sums(entry.sum_squares, true, fmt::format("{}: {}", file_name, what)));
    // Without calls the values are means already, that is sums over one row.
    entry.counts = {std::max(1.0, static_cast<double>(calls))};
    if (!matrix.entries_.emplace(name, std::move(entry)).second)
      return malformed(fmt::format("{} occurs twice", what));
  }
  if (position == file.size()) return matrix;  // the tail is optional
  QF_ASSIGN(matrix.chunk_count_, integer("the number of chunks", 0));
  QF_ASSIGN(const auto dataset_bytes, integer("the length of the data set name", 0));
  QF_ASSIGN(std::string dataset, text(dataset_bytes, "the data set name"));
  if (!dataset.empty()) matrix.datasets_.push_back(std::move(dataset));
  if (position != file.size())
    return malformed(fmt::format("{} bytes follow the end", file.size() - position));
  return matrix;
}

const ImportanceEntry* ImportanceMatrix::find(std::string_view tensor_name) const {
  const auto at = entries_.find(tensor_name);
  return at == entries_.end() ? nullptr : &at->second;
}

bool ImportanceMatrix::has_activations() const {
  return std::ranges::any_of(entries_, [](const auto& entry) { return !entry.second.sums.empty(); });
}

Result<void> ImportanceMatrix::check_unchanged() const {
  return file_->check_unchanged();
}

ImportanceMatrix ImportanceMatrix::renamed(
    const std::function<std::string(const std::string&)>& name_of) const {
  ImportanceMatrix copy = *this;
  copy.entries_.clear();
  for (const auto& [name, entry] : entries_)
    if (std::string other = name_of(name); !other.empty()) copy.entries_.emplace(std::move(other), entry);
  return copy;
}

Result<std::optional<std::vector<ColumnStatistics>>> ImportanceMatrix::statistics(
    const TensorInfo& tensor) const {
  const FileWatch watch(*file_);
  auto found = find_statistics(tensor);
  QF_TRY(check_unchanged());  // the numbers were sound when they were read first
  return found;
}

Result<std::optional<std::vector<ColumnStatistics>>> ImportanceMatrix::find_statistics(
    const TensorInfo& tensor) const {
  if (const auto own = entries_.find(tensor.name); own != entries_.end()) {
    auto result = statistics_of(own->first, own->second, tensor);
    if (!result) {
      if (is_embedding(tensor.name)) return std::nullopt;
      return std::move(result).error();
    }
    if (result.value()) return result;
  }
  for (const std::string& name : sibling_names(tensor.name)) {
    const auto at = entries_.find(name);
    if (at == entries_.end()) continue;
    auto result = statistics_of(at->first, at->second, tensor);
    if (result && result.value()) return result;
  }
  return std::nullopt;
}

Result<std::optional<std::vector<ColumnStatistics>>> ImportanceMatrix::statistics_of(
    const std::string& name, const ImportanceEntry& entry, const TensorInfo& tensor) const {
  const std::uint64_t columns = tensor.row_length();
  const std::uint64_t matrices = tensor.matrices();
  // A dimension of 0 or an overflowing product cannot match the values that were really read.
  const std::uint64_t wanted = saturating_product(columns, matrices);
  if (wanted == 0 || entry.sum_squares.size() != wanted)
    return fail(ErrorCode::ShapeMismatch,
                "{}: entry {} has {} values, but tensor {} has {} columns and {} matrices ({} values): this "
                "importance matrix belongs to another model",
                path_.string(), printable(name), entry.sum_squares.size(), printable(tensor.name), columns,
                matrices, wanted);
  if (entry.counts.size() != 1 && entry.counts.size() != matrices)
    return fail(ErrorCode::ShapeMismatch, "{}: entry {} has {} counts, but tensor {} has {} matrices",
                path_.string(), printable(name), entry.counts.size(), printable(tensor.name), matrices);

  const bool with_means = !entry.sums.empty();
  std::vector<ColumnStatistics> result(matrices);
  std::vector<std::uint64_t> unseen;
  for (std::uint64_t e = 0; e < matrices; ++e) {
    const double count = entry.counts[entry.counts.size() == 1 ? 0 : e];
    const std::uint64_t first = e * columns;
    // Legacy files hold 1 in every column of an expert that was never reached, times the count.
    const auto placeholder = [&] {
      for (std::uint64_t j = 0; j < columns; ++j)
        if (entry.sum_squares[first + j] != static_cast<float>(count)) return false;
      return true;
    };
    if (count == 0 || (legacy_ && matrices > 1 && placeholder())) {
      unseen.push_back(e);
      continue;
    }
    ColumnStatistics& statistics = result[e];
    statistics.tokens = count;
    statistics.mean_square.resize(columns);
    for (std::uint64_t j = 0; j < columns; ++j)
      statistics.mean_square[j] = static_cast<float>(entry.sum_squares[first + j] / count);
    if (!with_means) continue;
    statistics.mean.resize(columns);
    for (std::uint64_t j = 0; j < columns; ++j)
      statistics.mean[j] = clamped_mean(entry.sums[first + j] / count, statistics.mean_square[j]);
  }
  file_->done_with(entry.sum_squares.bytes());
  file_->done_with(entry.sums.bytes());
  if (unseen.size() == matrices) return std::nullopt;
  if (unseen.empty()) return result;

  const auto seen = static_cast<double>(matrices - unseen.size());
  std::vector<double> square_sum(columns);
  std::vector<double> mean_sum(with_means ? columns : 0);
  for (const ColumnStatistics& statistics : result) {
    for (std::size_t j = 0; j < statistics.mean_square.size(); ++j)
      square_sum[j] += statistics.mean_square[j];
    for (std::size_t j = 0; j < statistics.mean.size(); ++j) mean_sum[j] += statistics.mean[j];
  }
  ColumnStatistics substitute;
  substitute.imputed = true;
  for (const double sum : square_sum) substitute.mean_square.push_back(static_cast<float>(sum / seen));
  for (std::size_t j = 0; j < mean_sum.size(); ++j)
    substitute.mean.push_back(clamped_mean(mean_sum[j] / seen, substitute.mean_square[j]));
  for (const std::uint64_t e : unseen) result[e] = substitute;
  return result;
}

}  // namespace quantfit
