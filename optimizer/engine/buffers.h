// The arrays of one layer and one batch of tokens: one list makes sizes, memory and printout.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "kernels/math/math_kernels.h"
#include "optimizer/engine/aligned_floats.h"
#include "optimizer/engine/graph.h"

namespace quantfit::engine {

// No two share memory, and none is overwritten by a step whose backward pass would need the old values: what
// the forward pass leaves in them is what a backward pass of the same batch starts from. In place are only
// what can be undone from the result (scales, sums, sigmoid and softplus of gates) and norms and rotations of
// Queries, Keys and Values, whose raw values stay in Qkv.
enum class Buffer : std::uint8_t {
  MixerInput,  // normed input of the mixer
  // Attention.
  Qkv,         // the products, bias and clamp included: [queries | keys | values]
  Queries,     // normed, rotated, with temperature
  Keys,        // normed, rotated; latent attention: [normed latent | rotated], or all heads' keys
  Values,      // where they are not those of Qkv as they stand
  Statistics,  // per window [2][heads][tokens]: largest score, sum of exponentials
  Heads,       // concatenated outputs of the heads, value scale included
  GateValues,  // sigmoid or softplus of the gate
  GatedHeads,
  // Latent attention.
  LatentQueryLow,
  LatentQueryLowNormed,
  LatentQueries,
  LatentKeyValue,
  LatentExpanded,
  LatentHeads,
  // Delta nets.
  DeltaInput,
  DeltaConvolved,
  DeltaActivated,
  DeltaKeys,
  DeltaGate,
  DeltaRaw,
  DeltaBeta,
  DeltaDecay,
  DeltaLow,
  DeltaHeads,
  DeltaNormed,
  DeltaGated,
  // State spaces.
  MambaInput,
  MambaConvolved,
  MambaActivated,
  MambaDelta,
  MambaHeads,
  MambaGated,
  MambaNormed,
  // Short convolution.
  ShortInput,
  ShortProduct,
  ShortConvolved,
  ShortGated,
  // Joining.
  MixerOutput,
  SecondMixerOutput,
  MixerNormed,
  Middle,  // the residual stream between the branches
  FfnInput,
  GateUp,
  Hidden,
  FfnOutput,
  DenseNormed,  // gemma4: the dense branch
  FfnSum,       // of dense ffn and experts, where both exist
  FfnNormed,
  // Experts; from ExpertInput to ExpertOutput rows are sorted by expert, `used` per token.
  RouterInput,
  RouterLogits,
  RouterProbabilities,
  RouterWeights,
  ExpertSource,
  ExpertLatent,
  ExpertInput,
  ExpertGateUp,
  ExpertHidden,
  ExpertOutput,
  ExpertLatentSum,
  ExpertSum,
  ExpertNormed,
  SharedGateUp,
  SharedHidden,
  SharedOutput,
  SharedGate,
  // Per-layer embeddings.
  Embedded,
  LayerEmbedding,
  LayerGate,
  LayerGated,
  LayerOutput,
  LayerNormed,
  // Of the backward pass only (layer_backward.h).
  SeparateInput,  // gradient at the mixer's own normed input
  RawQueries,     // queries, and keys or values, as their norm read them
  RawKeys,
  DeltaHeadKeys,      // gradients at queries and keys of every value head
  StreamBefore,       // the stream as the per-layer embedding met it
  LayerEmbeddingRaw,  // the per-layer embedding before its norm
  Count,
};

struct BufferSpec {
  Buffer buffer;
  std::string_view name;
  std::size_t columns = 0;
  std::size_t rows_per_token = 1;
};

// What a layer needs, in order of first use; rows = tokens of the batch * rows_per_token.
[[nodiscard]] std::vector<BufferSpec> buffers_of(const ModelGraph& graph, const LayerGraph& layer);

// Bytes of all of them per token; rows are padded to whole cache lines, so that tokens do not share one.
[[nodiscard]] std::uint64_t buffer_bytes(const std::vector<BufferSpec>& specs, std::uint64_t tokens);

// The memory of one layer at a time.
class Buffers {
 public:
  // Lays out `specs` for `tokens` tokens; allocates when what there is is too small.
  void arrange(const std::vector<BufferSpec>& specs, std::size_t tokens);
  // The buffer's rows; no rows where the layer has no such buffer.
  [[nodiscard]] kernels::MatrixView<float> operator[](Buffer buffer) const {
    return views_[static_cast<std::size_t>(buffer)];
  }

 private:
  AlignedFloats memory_;
  std::array<kernels::MatrixView<float>, static_cast<std::size_t>(Buffer::Count)> views_{};
};

}  // namespace quantfit::engine
