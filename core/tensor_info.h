// What a tensor is, as the container describes it.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "core/format.h"

namespace quantfit {

struct TensorInfo {
  std::string name;
  std::uint32_t n_dims = 1;                        // as stored, 0 to 4
  std::array<std::uint64_t, 4> ne = {1, 1, 1, 1};  // ne[0] is contiguous: the row length, the input features
  Format format = Format::F32;
  std::uint64_t offset = 0;  // bytes from the start of the data section of its shard
  std::uint64_t bytes = 0;   // data bytes, padding not included
  std::uint32_t shard = 0;   // index of the file that holds it

  // Products are proven not to overflow when the tensor was read.
  [[nodiscard]] std::uint64_t row_length() const { return ne[0]; }
  [[nodiscard]] std::uint64_t rows() const { return ne[1] * ne[2] * ne[3]; }
  [[nodiscard]] std::uint64_t elements() const { return ne[0] * rows(); }
  // Matrices stacked in one tensor: experts, or heads of a latent projection. Rows of matrix `e` are
  // e * ne[1] .. (e + 1) * ne[1] - 1.
  [[nodiscard]] std::uint64_t matrices() const { return ne[2] * ne[3]; }
  // Dimensions left after dropping trailing ones: a matrix has 2, stacked experts 3.
  [[nodiscard]] std::uint32_t significant_dims() const {
    std::uint32_t dims = 4;
    while (dims > 1 && ne[dims - 1] == 1) --dims;
    return dims;
  }
};

}  // namespace quantfit
