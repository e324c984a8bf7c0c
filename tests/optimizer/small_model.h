// Small GGUF files made of random numbers, for tests of sampler and writer.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/importance_matrix.h"
#include "core/model.h"
#include "tests/support/test_paths.h"

namespace quantfit::test {

// A matrix (or several stacked) to be made; heavy-tailed weights in F16 unless `values` are given.
struct SmallTensor {
  std::string name;
  std::array<std::uint64_t, 3> ne = {256, 64, 1};
  Format format = Format::F16;     // F16 or F32
  std::vector<float> values = {};  // row-major, or empty
  std::vector<float> tokens = {};  // per matrix: its count in the importance matrix; empty: no entry
};

// Random weights of a trained layer's kind: Student's t with 5 degrees of freedom, rows of different size.
[[nodiscard]] std::vector<float> heavy_tailed(std::uint64_t rows, std::uint64_t columns, std::uint64_t seed);

// Writes model.gguf and, when a tensor has tokens, imatrix.gguf into a folder of its own and opens them.
class SmallModel {
 public:
  explicit SmallModel(const std::vector<SmallTensor>& tensors);

  [[nodiscard]] const Model& model() const { return *model_; }
  [[nodiscard]] const ImportanceMatrix* importance() const { return importance_ ? &*importance_ : nullptr; }
  [[nodiscard]] const std::filesystem::path& folder() const { return folder_.path(); }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  TemporaryFolder folder_;
  std::filesystem::path path_;
  std::optional<Model> model_;
  std::optional<ImportanceMatrix> importance_;
};

}  // namespace quantfit::test
