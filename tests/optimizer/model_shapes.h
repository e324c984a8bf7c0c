// Metadata and tensor lists of real models, without data.
#pragma once

#include <string>
#include <vector>

#include "core/gguf_value.h"
#include "core/tensor_info.h"

namespace quantfit::test {

struct ModelShape {
  GgufMetadata metadata;
  std::vector<TensorInfo> tensors;  // F32 vectors, F16 matrices

  void set(const std::string& suffix, std::uint32_t value);  // <architecture>.<suffix>
  void set_array(const std::string& suffix, const std::vector<std::uint32_t>& values);
  void add(const std::string& name, std::vector<std::uint64_t> dims);

  std::string architecture;
};

[[nodiscard]] ModelShape llama3_8b();
[[nodiscard]] ModelShape qwen3_30b_a3b();
[[nodiscard]] ModelShape deepseek_v3();
[[nodiscard]] ModelShape gemma3_27b();
[[nodiscard]] ModelShape qwen36_35b_a3b();

}  // namespace quantfit::test
