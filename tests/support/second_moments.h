// The second moments E[x x^T] of a model's layer inputs, measured over texts: what error feedback encodes
// with and what judges it.
//
// A folder holds `index.json` and one sub-folder per set ("calibration", "heldout"). The index names, for
// each set, the inputs, their dimension and the tensors that read them; `SET/INPUT.moment2.f32` is the lower
// triangle by rows, little-endian binary32.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace quantfit::test {

// One set of a folder. Holds the index only; matrices are read when asked for.
// Immutable; threads may share it.
class SecondMoments {
 public:
  struct Input {
    std::string name;
    std::size_t columns = 0;
    std::vector<std::string> tensors;  // that multiply this input
  };

  // Io when the folder has no readable index.json, Malformed when that does not say what it should,
  // InvalidArgument when it has no such set.
  [[nodiscard]] static Result<SecondMoments> open(const std::filesystem::path& folder, std::string_view set);

  [[nodiscard]] std::span<const Input> inputs() const { return inputs_; }
  // The input of a tensor; null where the folder does not know it.
  [[nodiscard]] const Input* find(std::string_view tensor) const;
  // The full symmetric matrix, row by row. Io when the file cannot be read, ShapeMismatch when its size does
  // not fit the dimension.
  [[nodiscard]] Result<std::vector<float>> read(const Input& input) const;

 private:
  SecondMoments() = default;
  std::filesystem::path folder_;  // of the set
  std::vector<Input> inputs_;
};

}  // namespace quantfit::test
