// What an Engine holds, and the parts of its runs that forward and backward passes share. Internal to the
// engine.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "optimizer/engine/forward.h"
#include "optimizer/engine/layer.h"
#include "optimizer/engine/weights.h"

namespace quantfit::engine {

struct Engine::State {
  const Model* model;
  ModelGraph graph;
  const kernels::MathKernels* math;
  Weights weights;
};

// Batches of whole windows, of at most `most` tokens where a window allows.
[[nodiscard]] std::vector<Batch> cut_batches(const TokenWindows& windows, std::uint64_t most);
// Layers whose keys and values later layers use.
[[nodiscard]] std::vector<bool> kept_layers(const ModelGraph& graph);
// Bytes of those of all tokens.
[[nodiscard]] std::uint64_t kept_bytes(const ModelGraph& graph, std::uint64_t tokens);
// Multiply-adds of products and scores, logits not included.
[[nodiscard]] double work_of(const ModelGraph& graph, const TokenWindows& windows);
// Tokens of a batch where memory allows.
[[nodiscard]] std::uint64_t comfortable_batch(const ModelGraph& graph);
// For people: "1.50 GiB".
[[nodiscard]] std::string size_text(std::uint64_t bytes);
[[nodiscard]] std::uint64_t sum_of(const std::vector<RunPlan::Item>& items);

}  // namespace quantfit::engine
