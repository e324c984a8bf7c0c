// How much memory llama.cpp takes besides weights, from a model's metadata alone, and what is left for
// weights on the GPU and in RAM. The formulas and their sources are in memory_model.md.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/format.h"
#include "core/gguf_value.h"
#include "core/tensor_info.h"
#include "optimizer/llama_cpp/pattern.h"

namespace quantfit::optimizer {

enum class Device : std::uint8_t { Gpu, Host };
[[nodiscard]] std::string_view to_string(Device device);

// Where tensors live whose name the pattern is found in.
struct PlacementRule {
  Pattern pattern;
  Device device = Device::Host;
};
// Parses comma-separated `regex=BUFFER` rules, BUFFER in any case: CPU and its kinds (CPU_REPACK) and the
// pinned memory of a device (CUDA_Host) are the host; the name of a device of llama.cpp, with or without a
// number (CUDA0, Metal, Vulkan1, ROCm0), is the GPU. InvalidArgument naming the rule for anything else.
[[nodiscard]] Result<std::vector<PlacementRule>> parse_placement_rules(std::string_view text);

// What a front end calls the rules of placement, for sentences to its users.
struct PlacementNames {
  std::string overrides = "placement rule";
  std::string cpu_moe = "keeping routed experts in RAM";
  std::string n_cpu_moe = "keeping routed experts of some layers in RAM";
};

inline constexpr std::uint32_t kMaxParallel = 256;  // sequences at a time

// What the model will run with. Defaults are llama.cpp's.
struct MemoryRequest {
  std::optional<std::uint64_t> vram_bytes = {};  // nothing: no GPU, everything in RAM
  std::optional<std::uint64_t> ram_bytes = {};   // nothing: RAM is not limited
  std::uint64_t ctx_size = 0;  // tokens of all sequences together; 0: what the model was trained with
  Format cache_type_k = Format::F16;
  Format cache_type_v = Format::F16;
  std::uint32_t parallel = 1;  // sequences; each gets ctx_size / parallel tokens unless kv_unified
  std::uint32_t ubatch = 512;  // tokens computed at once
  bool flash_attention = true;
  bool kv_unified = false;
  bool swa_full = false;  // sliding-window layers cache the whole context
  // Placement. The first rule that applies: overrides, cpu_moe and n_cpu_moe, gpu_layers.
  std::vector<PlacementRule> overrides = {};
  bool cpu_moe = false;         // all routed experts in RAM
  std::uint32_t n_cpu_moe = 0;  // routed experts of the first N layers in RAM
  std::optional<std::uint32_t> gpu_layers =
      {};  // the last N of layers and output head on the GPU; nothing: all
  // Kept free on the GPU. llama.cpp's own fitting keeps 1024 MiB per device for both.
  std::uint64_t runtime_overhead_bytes = std::uint64_t{512}
                                         << 20;  // driver context and libraries: 0.2 to 0.6 GiB
  std::uint64_t margin_bytes = std::uint64_t{512} << 20;
  std::uint64_t other_vram_bytes = 0;  // projector, draft model, adapters, the desktop
  std::uint64_t host_reserve_bytes = std::uint64_t{512} << 20;  // process, vocabulary, host buffers
  PlacementNames names = {};
};

// One line of the breakdown.
struct MemoryItem {
  std::string what;  // "KV cache, full attention"
  std::uint64_t bytes = 0;
  Device device = Device::Gpu;
  std::string how;  // the multiplication, with its numbers
};

struct TensorPlacement {
  Device device = Device::Gpu;
  bool copied_to_gpu = false;  // a tied embedding: stays in RAM, and a second copy serves as output head
  std::string_view reason;  // "a rule", "routed experts", "input layer", "layers in RAM", "" for the default
};

struct MemoryEstimate {
  std::vector<MemoryItem> items;           // everything but weights
  std::vector<TensorPlacement> placement;  // one per tensor, in order
  std::uint64_t gpu_other_bytes = 0;       // sum of the items on the GPU
  std::uint64_t host_other_bytes = 0;      // sum of the items in RAM
  // What is left for weights; nothing where no limit was given. 0 together with a shortfall when the items
  // alone exceed the limit: an answer, not an error.
  std::optional<std::uint64_t> gpu_weight_budget_bytes;
  std::optional<std::uint64_t> host_weight_budget_bytes;
  std::uint64_t gpu_shortfall_bytes = 0;
  std::uint64_t host_shortfall_bytes = 0;
  std::uint64_t ctx_size = 0;  // tokens of all sequences, as padded by the runtime
};

// Malformed when metadata lack what the architecture needs (layers, heads, embedding length) or hold
// values of a wrong type or absurd size; InvalidArgument for impossible requests (a cache type that
// is no cache type, a quantized V cache without flash attention); ShapeMismatch when a cache row is
// not a whole number of blocks.
[[nodiscard]] Result<MemoryEstimate> estimate_memory(const GgufMetadata& metadata,
                                                     std::span<const TensorInfo> tensors,
                                                     const MemoryRequest& request);

struct DeviceBytes {
  std::uint64_t gpu = 0;
  std::uint64_t host = 0;
};

// Bytes of the weights on each device when tensor i is stored as formats[i]; a copied tensor counts on both.
// ShapeMismatch when the lists differ in length or a format does not fit a row.
[[nodiscard]] Result<DeviceBytes> weight_bytes(const MemoryEstimate& estimate,
                                               std::span<const TensorInfo> tensors,
                                               std::span<const Format> formats);

}  // namespace quantfit::optimizer
