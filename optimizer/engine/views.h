// Parts of matrices in memory.
#pragma once

#include <cstddef>

#include "kernels/math/math_kernels.h"

namespace quantfit::engine {

using kernels::MatrixView;

[[nodiscard]] inline MatrixView<const float> constant(MatrixView<float> v) {
  return {v.data, v.rows, v.columns, v.stride};
}
template <class T>
[[nodiscard]] MatrixView<T> columns_of(MatrixView<T> v, std::size_t first, std::size_t columns) {
  return {v.data + first, v.rows, columns, v.stride};
}
template <class T>
[[nodiscard]] MatrixView<T> rows_of(MatrixView<T> v, std::size_t first, std::size_t rows) {
  return {v.data + first * v.stride, rows, v.columns, v.stride};
}

}  // namespace quantfit::engine
