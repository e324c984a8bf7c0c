// Importance matrices of our own, written in the two formats that the field's tools read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/atomic_file.h"
#include "core/error.h"

namespace quantfit {

// What was summed for one tensor of m matrices (experts, heads of a latent projection) with n columns each.
struct ImportanceSums {
  std::vector<double> sum_squares;    // m * n: sum over rows of x_j^2
  std::vector<double> sums;           // m * n: sum over rows of x_j; may be empty: unknown
  std::vector<std::uint64_t> counts;  // m: rows

  friend bool operator==(const ImportanceSums&, const ImportanceSums&) = default;
};

struct ImportanceData {
  std::map<std::string, ImportanceSums, std::less<>> tensors;  // by the name of the weight
  std::vector<std::string> datasets;                           // names of the texts, for people
  std::uint32_t chunk_count = 0;
  std::uint32_t chunk_size = 0;  // tokens
};

enum class ImportanceFormat {
  Gguf,    // with plain sums, where they are known
  Legacy,  // mean squares only
};

// The format that a file name asks for: ".dat" the legacy one, everything else GGUF.
[[nodiscard]] ImportanceFormat importance_format(const std::filesystem::path& path);

// Writes the whole file or nothing. Tensors in ascending order of names, sums rounded to F32 once: the same
// data give the same bytes. InvalidArgument for sizes that do not fit together, a chunk size of 0, no tensor
// or a name too long for GGUF; Io and NoSpace of the file.
[[nodiscard]] Result<void> write_importance(const std::filesystem::path& path, const ImportanceData& data,
                                            ImportanceFormat format, Existing existing = Existing::Replace);

}  // namespace quantfit
