// Activation statistics per weight matrix and input column, from either imatrix file format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/tensor_info.h"

namespace quantfit {

class MappedFile;  // core/mapped_file.h

// Little-endian F32 numbers where they stand in a file, at any alignment.
class FloatsInFile {
 public:
  FloatsInFile() = default;
  // A rest of fewer than 4 bytes does not count.
  explicit FloatsInFile(std::span<const std::byte> bytes)
      : bytes_(bytes.first(bytes.size() / sizeof(float) * sizeof(float))) {}

  [[nodiscard]] std::size_t size() const { return bytes_.size() / sizeof(float); }
  [[nodiscard]] bool empty() const { return bytes_.empty(); }
  [[nodiscard]] float operator[](std::size_t index) const {
    float value = 0;
    std::memcpy(&value, bytes_.data() + index * sizeof(float), sizeof(float));
    return value;
  }
  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

// Statistics of one tensor, kept as sums so that merging stays exact. The numbers stay in the file: those of
// a large model with means take gigabytes.
struct ImportanceEntry {
  std::uint64_t matrices = 1;  // m: experts with statistics of their own
  FloatsInFile sum_squares;    // m * columns: sum over rows of x_j^2 (legacy files: value, see counts)
  FloatsInFile sums;           // m * columns: sum over rows of x_j; empty when the file has none
  std::vector<double> counts;  // m: number of rows (legacy files: ncall, the same for all matrices)
};

// What encoders and the error model use for one matrix of one tensor.
struct ColumnStatistics {
  std::vector<float> mean_square;  // a_j = E[x_j^2], one per column
  std::vector<float> mean;         // m_j = E[x_j], or empty when unknown
  double tokens = 0;     // rows seen: the weight of an expert inside its tensor; 0 for an unseen one
  bool imputed = false;  // an unseen expert: mean of the seen experts' statistics
};

// Immutable; every method may be called from any thread. The file stays mapped while the object or a copy of
// it lives.
class ImportanceMatrix {
 public:
  // Reads GGUF or legacy format, decided by content. Everything of imatrix.md section 6 that concerns the
  // file alone is checked here: Malformed with a message that names the entry; Unsupported for a GGUF file of
  // another kind. Backend decorations of names are stripped.
  [[nodiscard]] static Result<ImportanceMatrix> read(const std::filesystem::path& path);

  [[nodiscard]] const std::map<std::string, ImportanceEntry, std::less<>>& entries() const {
    return entries_;
  }
  [[nodiscard]] const ImportanceEntry* find(std::string_view tensor_name) const;

  // ShapeMismatch naming the tensor when the entry does not fit its shape. Nothing when there is no entry (or
  // all its counts are zero). The result has one element per matrix of the tensor. When the tensor has no
  // entry, a sibling that shares its input (q/k/v, gate/up) serves. An unseen expert takes the mean of the
  // seen ones' vectors. Files with one count for all matrices give each the same number of tokens. mean^2 <=
  // mean_square holds in every column. A misfitting entry of a token embedding is ignored: embeddings are
  // looked up. Io when the file is not what it was when it was read.
  [[nodiscard]] Result<std::optional<std::vector<ColumnStatistics>>> statistics(
      const TensorInfo& tensor) const;

  // The same numbers under other names; entries for which `name_of` gives an empty one are left out.
  [[nodiscard]] ImportanceMatrix renamed(const std::function<std::string(const std::string&)>& name_of) const;

  // Io when the file was cut short or modified since it was read.
  [[nodiscard]] Result<void> check_unchanged() const;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::span<const std::string> datasets() const { return datasets_; }
  [[nodiscard]] std::optional<std::uint64_t> chunk_count() const { return chunk_count_; }
  [[nodiscard]] bool has_activations() const;  // at least one entry has plain sums
  // Sentences for a person: missing information, experts never reached, unknown content.
  [[nodiscard]] std::span<const std::string> warnings() const { return warnings_; }

 private:
  static Result<ImportanceMatrix> read_gguf(std::span<const std::byte> file,
                                            const std::filesystem::path& path);
  static Result<ImportanceMatrix> read_legacy(std::span<const std::byte> file,
                                              const std::filesystem::path& path);
  [[nodiscard]] Result<std::optional<std::vector<ColumnStatistics>>> find_statistics(
      const TensorInfo& tensor) const;
  // Nothing when the entry was never reached; ShapeMismatch when it does not fit.
  [[nodiscard]] Result<std::optional<std::vector<ColumnStatistics>>> statistics_of(
      const std::string& name, const ImportanceEntry& entry, const TensorInfo& tensor) const;

  std::filesystem::path path_;
  std::shared_ptr<const MappedFile> file_;  // holds what the entries refer to
  std::map<std::string, ImportanceEntry, std::less<>> entries_;
  std::vector<std::string> datasets_;
  std::optional<std::uint64_t> chunk_count_;
  bool legacy_ = false;
  std::vector<std::string> warnings_;
};

}  // namespace quantfit
