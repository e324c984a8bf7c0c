// Which experts every token of a text chooses, and what their matrices read: in llama.cpp and in our engine.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "optimizer/engine/forward.h"
#include "tests/client/llama_library.h"

namespace quantfit::test {

// One layer of a mixture; `tokens` of the text in order.
struct ExpertLayer {
  std::vector<float> output;          // tokens x width: the residual stream behind the layer
  std::vector<float> expert_input;    // tokens x width: what the router and the experts' first matrices read
  std::vector<float> scores;          // tokens x experts: the router's outputs
  std::vector<std::uint32_t> chosen;  // tokens x used, rising
  std::vector<float> hidden;  // tokens x used x hidden width: what the last matrices read, as `chosen`
};

struct ExpertTrace {
  std::size_t tokens = 0, width = 0, hidden_width = 0, experts = 0, used = 0;
  std::vector<ExpertLayer> layers;
  // Of every matrix that is not an expert's: sums of squares of its inputs, column by column.
  std::map<std::string, std::vector<double>> squares;

  // By how much the last expert chosen is ahead of the first one left out.
  [[nodiscard]] float gap(std::size_t layer, std::size_t token) const;
  [[nodiscard]] std::span<const std::uint32_t> chosen(std::size_t layer, std::size_t token) const {
    return std::span(layers[layer].chosen).subspan(token * used, used);
  }
};

// Windows of the text one after another, each as one sequence. Malformed for models that are no mixtures with
// a router "ffn_gate_inp" and experts "ffn_down_exps" in every layer; errors of LlamaModel.
[[nodiscard]] Result<ExpertTrace> trace_client(const std::filesystem::path& model,
                                               const engine::TokenWindows& windows, int threads);
// The same by our engine, one layer alone: `input` is the residual stream in front of it, tokens x width, and
// empty for the first one. The other layers stay empty.
[[nodiscard]] Result<ExpertTrace> trace_layer(const engine::Engine& engine,
                                              const engine::TokenWindows& windows, std::uint32_t layer,
                                              std::span<const float> input);
// All layers. With `inputs`, every layer reads what it read there.
[[nodiscard]] Result<ExpertTrace> trace_engine(const engine::Engine& engine,
                                               const engine::TokenWindows& windows,
                                               const ExpertTrace* inputs = nullptr);

}  // namespace quantfit::test
