#include "core/importance_writer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string_view>

#include "core/gguf_writer.h"

namespace quantfit {
namespace {

Result<void> check(const std::filesystem::path& path, const ImportanceData& data) {
  if (data.tensors.empty() || data.chunk_size == 0)
    return fail(ErrorCode::InvalidArgument, "{}: an importance matrix without tensors or chunk size",
                path.string());
  for (const auto& [name, sums] : data.tensors) {
    const std::size_t values = sums.sum_squares.size();
    if (values == 0 || sums.counts.empty() || values % sums.counts.size() != 0 ||
        (!sums.sums.empty() && sums.sums.size() != values))
      return fail(ErrorCode::InvalidArgument, "{}: {} sums of squares, {} sums and {} counts of '{}'",
                  path.string(), values, sums.sums.size(), sums.counts.size(), name);
  }
  return outcome::success();
}

template <class T>
std::vector<float> rounded(std::span<const T> values) {
  return {values.begin(), values.end()};
}

Result<void> write_gguf(const std::filesystem::path& path, const ImportanceData& data, Existing existing) {
  GgufMetadata metadata;
  metadata.add(GgufKeyValue::of_string("general.type", "imatrix"));
  metadata.add(GgufKeyValue::of_string_array("imatrix.datasets", data.datasets));
  metadata.add(GgufKeyValue::of_uint32("imatrix.chunk_count", data.chunk_count));
  metadata.add(GgufKeyValue::of_uint32("imatrix.chunk_size", data.chunk_size));
  std::vector<TensorInfo> infos;
  std::vector<std::vector<float>> values;
  const auto add = [&](const std::string& name, std::uint64_t columns, std::vector<float> numbers) {
    TensorInfo info;
    info.name = name;
    info.n_dims = 2;
    info.ne = {columns, numbers.size() / columns, 1, 1};
    infos.push_back(std::move(info));
    values.push_back(std::move(numbers));
  };
  for (const auto& [name, sums] : data.tensors) {
    const std::uint64_t columns = sums.sum_squares.size() / sums.counts.size();
    add(name + ".in_sum2", columns, rounded(std::span(sums.sum_squares)));
    if (!sums.sums.empty()) add(name + ".in_sum", columns, rounded(std::span(sums.sums)));
    add(name + ".counts", 1, rounded(std::span(sums.counts)));
  }
  QF_ASSIGN(GgufWriter writer, GgufWriter::create(path, metadata, infos, 32, existing));
  for (const std::vector<float>& numbers : values) QF_TRY(writer.append(std::as_bytes(std::span(numbers))));
  return writer.commit();
}

// Little-endian, as every machine this program runs on.
class LegacyBytes {
 public:
  void integer(std::uint64_t value) {
    constexpr std::uint64_t kMost = std::numeric_limits<std::int32_t>::max();
    fits_ = fits_ && value <= kMost;
    const auto small = static_cast<std::int32_t>(std::min(value, kMost));
    append(&small, sizeof small);
  }
  void number(float value) { append(&value, sizeof value); }
  void text(std::string_view value) {
    integer(value.size());
    append(value.data(), value.size());
  }
  [[nodiscard]] bool fits() const { return fits_; }
  [[nodiscard]] std::string_view bytes() const { return bytes_; }

 private:
  void append(const void* data, std::size_t size) { bytes_.append(static_cast<const char*>(data), size); }
  std::string bytes_;
  bool fits_ = true;  // every number so far fits into 31 bits
};

Result<void> write_legacy(const std::filesystem::path& path, const ImportanceData& data, Existing existing) {
  LegacyBytes out;
  const auto seen = [](const auto& tensor) { return std::ranges::max(tensor.second.counts) != 0; };
  out.integer(static_cast<std::uint64_t>(std::ranges::count_if(data.tensors, seen)));
  for (const auto& tensor : data.tensors) {
    const auto& [name, sums] = tensor;
    if (!seen(tensor)) continue;
    const std::size_t columns = sums.sum_squares.size() / sums.counts.size();
    const std::uint64_t calls = (std::ranges::max(sums.counts) + data.chunk_size - 1) / data.chunk_size;
    out.text(name);
    out.integer(calls);
    out.integer(sums.sum_squares.size());
    for (std::size_t i = 0; i < sums.sum_squares.size(); ++i) {
      const auto count = static_cast<double>(sums.counts[i / columns]);
      const double mean = count == 0 ? 1 : sums.sum_squares[i] / count;
      out.number(static_cast<float>(mean * static_cast<double>(calls)));
    }
  }
  out.integer(data.chunk_count);
  out.text(data.datasets.empty() ? std::string_view{} : std::string_view(data.datasets.front()));
  if (!out.fits())
    return fail(ErrorCode::InvalidArgument, "{}: the legacy format cannot hold so many values",
                path.string());
  return write_file_atomically(path, out.bytes(), existing);
}

}  // namespace

ImportanceFormat importance_format(const std::filesystem::path& path) {
  return path.extension() == ".dat" ? ImportanceFormat::Legacy : ImportanceFormat::Gguf;
}

Result<void> write_importance(const std::filesystem::path& path, const ImportanceData& data,
                              ImportanceFormat format, Existing existing) {
  QF_TRY(check(path, data));
  return format == ImportanceFormat::Gguf ? write_gguf(path, data, existing)
                                          : write_legacy(path, data, existing);
}

}  // namespace quantfit
