// What a result is asked to fit into.
#pragma once

#include <cstdint>
#include <string>
#include <variant>

#include "core/byte_size.h"
#include "core/recipe.h"
#include "optimizer/llama_cpp/memory_model.h"

namespace quantfit::optimizer {

// Bits per weight over all elements, tensors that are never quantized included; an exact decimal.
struct BpwTarget {
  std::string text;  // as written, for example "4.5678"
};
// The whole output file, metadata and padding included.
struct FileSizeTarget {
  std::uint64_t bytes = 0;
};
// What a GPU (and, when limited, RAM) has room for beside cache and buffers.
struct MemoryTarget {
  MemoryRequest request;
};
// No search: the formats are given, by a named mixture of llama.cpp or by a recipe file.
struct RecipeTarget {
  std::string name;
  Recipe recipe;
};
using Target = std::variant<BpwTarget, FileSizeTarget, MemoryTarget, RecipeTarget>;

// As people write it: "4.5 bpw", "file of 23.50 GiB (25.23 GB)".
[[nodiscard]] std::string to_text(const Target& target);

// How much of every budget must be used; an exact decimal.
struct FillShare {
  std::string text;  // as written, for example "99.99%"
  Decimal share;
};

}  // namespace quantfit::optimizer
