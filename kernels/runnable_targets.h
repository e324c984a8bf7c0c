// Internal: the compiled instruction sets that this CPU can run, in the order of every table.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "kernels/math/math_kernels.h"
#include "kernels/row_kernels.h"

namespace quantfit::kernels {

struct RunnableTarget {
  std::int64_t flag = 0;  // Highway's
  std::string_view isa;
  void (*fill_row_kernels)(RowKernels& table) = nullptr;
  void (*fill_math_kernels)(MathKernels& table) = nullptr;
};

// Best first; the last is the scalar reference, where the build has all sets (CMakeLists.txt).
[[nodiscard]] std::span<const RunnableTarget> runnable_targets();

}  // namespace quantfit::kernels
