// What llama.cpp's conventions need to know about a model besides its tensors.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "core/error.h"
#include "core/gguf_value.h"
#include "core/tensor_info.h"

namespace quantfit::optimizer {

struct ModelTraits {
  std::string architecture;             // general.architecture
  std::uint32_t block_count = 0;        // layers, next-token-prediction layers included
  std::uint32_t nextn_layers = 0;       // how many of the last layers are such extra layers
  std::uint32_t head_count = 0;         // attention heads of layer 0
  std::uint32_t head_count_kv = 0;      // key/value heads of layer 0; 0 when it has none
  std::uint32_t expert_count = 0;       // per layer, 0 for dense models
  std::uint32_t expert_used_count = 0;  // of them, per token
  bool tied = false;                    // no tensor output.weight: the embedding serves as output head
};

// Reads the traits from metadata and tensor names. Absent keys count as 0, head_count_kv then equals
// head_count, and block_count is the highest layer number of the tensors plus one. Malformed when a key has a
// wrong type or a value of 2^31 or more.
[[nodiscard]] Result<ModelTraits> model_traits(const GgufMetadata& metadata,
                                               std::span<const TensorInfo> tensors);

}  // namespace quantfit::optimizer
