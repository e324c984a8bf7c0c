// What is slow where a model runs: formats without fast kernels, the time to read a
// weight, how often it is read.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "core/format.h"
#include "core/tensor_info.h"
#include "optimizer/llama_cpp/model_traits.h"

namespace quantfit::optimizer {

// Where the file will run.
enum class Runtime : std::uint8_t { Cpu, Cuda, Metal, Vulkan };
[[nodiscard]] std::string_view to_string(Runtime runtime);
[[nodiscard]] std::optional<Runtime> parse_runtime(std::string_view name);  // "cpu", any case

// Formats that are slow or not implemented there: what `--runtime` leaves out. See README.md, "Speed".
[[nodiscard]] std::span<const Format> slow_formats(Runtime runtime);

// Time to read and unpack one weight while generating, relative to Q8_0 on the same runtime: memory traffic
// plus a coarse class of unpacking work. See README.md, "Speed".
[[nodiscard]] double decode_cost(Format format, Runtime runtime);

// The part that each tensor has in all weights read per generated token; sums to 1 (all 0 when nothing is
// read). Routed experts count with `expert_used_count / expert_count`, embeddings not at all (one row is
// read) unless tied. A penalty of speed_weight * share * decode_cost is additive over tensors like the
// predicted error is.
[[nodiscard]] std::vector<double> read_shares(const ModelTraits& model, std::span<const TensorInfo> tensors);

}  // namespace quantfit::optimizer
