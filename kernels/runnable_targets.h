// Internal: the compiled instruction sets that this CPU can run, in the order of every table.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace quantfit::kernels {

struct RunnableTarget {
  std::int64_t flag = 0;  // Highway's
  std::string_view isa;
};

// Best first; the last is the scalar reference.
[[nodiscard]] std::span<const RunnableTarget> runnable_targets();

}  // namespace quantfit::kernels
