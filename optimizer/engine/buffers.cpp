#include "optimizer/engine/buffers.h"

#include <algorithm>

namespace quantfit::engine {
namespace {

// Distinct rows begin at distinct cache lines.
std::size_t padded(std::size_t columns) {
  return (columns + 15) / 16 * 16;
}

std::size_t gate_up_width(const FfnGraph& ffn) {
  return ffn.gated ? 2 * std::size_t{ffn.width} : ffn.width;
}

}  // namespace

std::vector<BufferSpec> buffers_of(const ModelGraph& graph, const LayerGraph& layer) {
  std::vector<BufferSpec> out;
  const std::size_t width = graph.width;
  const auto need = [&](Buffer buffer, std::string_view name, std::size_t columns,
                        std::size_t rows_per_token = 1) {
    if (columns != 0) out.push_back({buffer, name, columns, rows_per_token});
  };
  if (layer.attn_norm) need(Buffer::MixerInput, "normed input", width);
  if (layer.mixer_norm) need(Buffer::FfnInput, "normed ffn input", width);

  if (layer.mixer == Mixer::Attention || layer.mixer == Mixer::AttentionAndMamba2) {
    const AttentionGraph& a = layer.attention;
    const std::size_t heads_width = std::size_t{a.heads} * a.value_dim;
    need(Buffer::Qkv, "queries, keys and values", a.row_width);
    need(Buffer::Queries, "rotated queries", std::size_t{a.heads} * a.key_dim);
    need(Buffer::Keys, "rotated keys", std::size_t{a.kv_heads} * a.key_dim);
    if (a.value_is_key || a.value_norm) need(Buffer::Values, "values", std::size_t{a.kv_heads} * a.value_dim);
    need(Buffer::Statistics, "attention statistics", 2 * std::size_t{a.heads});
    need(Buffer::Heads, "heads", heads_width);
    if (a.gate != AttentionGate::None) {
      need(Buffer::GateValues, "attention gate",
           a.gate == AttentionGate::InQuery ? heads_width : a.gate_matrix.rows);
      need(Buffer::GatedHeads, "gated heads", heads_width);
    }
  }
  if (layer.mixer == Mixer::LatentAttention) {
    const LatentGraph& a = layer.latent;
    const std::size_t key_dim = std::size_t{a.nope_dims} + a.rope_dims;
    if (a.q_a) {
      need(Buffer::LatentQueryLow, "low-rank queries", a.q_a.rows);
      need(Buffer::LatentQueryLowNormed, "normed low-rank queries", a.q_a.rows);
    }
    need(Buffer::LatentQueries, "queries", a.heads * key_dim);
    need(Buffer::LatentKeyValue, "latent keys and values", std::size_t{a.latent} + a.rope_dims);
    need(Buffer::Statistics, "attention statistics", 2 * std::size_t{a.heads});
    if (a.kv_b) {
      need(Buffer::GateValues, "normed latent", a.latent);
      need(Buffer::LatentExpanded, "expanded keys and values",
           std::size_t{a.heads} * (std::size_t{a.nope_dims} + a.value_dim));
      need(Buffer::Queries, "rotated queries", a.heads * key_dim);
      need(Buffer::Keys, "rotated keys", a.heads * key_dim);
      need(Buffer::Values, "values", std::size_t{a.heads} * a.value_dim);
    } else {
      need(Buffer::Queries, "absorbed queries", std::size_t{a.heads} * (std::size_t{a.latent} + a.rope_dims));
      need(Buffer::Keys, "latent keys", std::size_t{a.latent} + a.rope_dims);
      need(Buffer::LatentHeads, "latent heads", std::size_t{a.heads} * a.latent);
    }
    need(Buffer::Heads, "heads", std::size_t{a.heads} * a.value_dim);
  }
  if (layer.mixer == Mixer::GatedDelta) {
    const GatedDeltaGraph& d = layer.gated_delta;
    const std::size_t inner = std::size_t{d.value_heads} * d.head_dim;
    need(Buffer::DeltaInput, "delta net inputs", d.qkv.rows);
    need(Buffer::DeltaConvolved, "convolved", d.qkv.rows);
    need(Buffer::DeltaActivated, "activated", d.qkv.rows);
    need(Buffer::DeltaKeys, "normed queries and keys", 2 * std::size_t{d.key_heads} * d.head_dim);
    need(Buffer::DeltaGate, "delta net gate", inner);
    need(Buffer::DeltaRaw, "rates", 2 * std::size_t{d.value_heads});
    need(Buffer::DeltaBeta, "betas", d.value_heads);
    need(Buffer::DeltaDecay, "decays", d.value_heads);
    need(Buffer::DeltaHeads, "heads", inner);
    need(Buffer::DeltaNormed, "normed heads", inner);
    need(Buffer::DeltaGated, "gated heads", inner);
  }
  if (layer.mixer == Mixer::KeyDelta) {
    const KeyDeltaGraph& d = layer.key_delta;
    const std::size_t inner = std::size_t{d.heads} * d.head_dim;
    need(Buffer::DeltaInput, "delta net inputs", 3 * inner);
    need(Buffer::DeltaConvolved, "convolved", 3 * inner);
    need(Buffer::DeltaActivated, "activated", 3 * inner);
    need(Buffer::DeltaKeys, "normed queries and keys", 2 * inner);
    need(Buffer::DeltaLow, "low-rank decay and gate", std::size_t{d.f_a.rows} + d.g_a.rows);
    need(Buffer::DeltaGate, "delta net gate", inner);
    need(Buffer::DeltaRaw, "rates", inner + d.heads);
    need(Buffer::DeltaBeta, "betas", d.heads);
    need(Buffer::DeltaDecay, "decays", inner);
    need(Buffer::DeltaHeads, "heads", inner);
    need(Buffer::DeltaNormed, "normed heads", inner);
    need(Buffer::DeltaGated, "gated heads", inner);
  }
  if (layer.mixer == Mixer::Mamba2 || layer.mixer == Mixer::AttentionAndMamba2) {
    const Mamba2Graph& m = layer.mamba2;
    const std::size_t inner = std::size_t{m.heads} * m.head_dim;
    const std::size_t channels = inner + 2 * std::size_t{m.groups} * m.state;
    need(Buffer::MambaInput, "state space inputs", m.input.rows);
    need(Buffer::MambaConvolved, "convolved", channels);
    need(Buffer::MambaActivated, "activated", channels);
    need(Buffer::MambaDelta, "time steps", m.heads);
    need(Buffer::MambaHeads, "heads", inner);
    need(Buffer::MambaGated, "gated heads", inner);
    if (m.norm) need(Buffer::MambaNormed, "normed heads", inner);
  }
  if (layer.mixer == Mixer::ShortConvolution) {
    need(Buffer::ShortInput, "convolution inputs", 3 * width);
    need(Buffer::ShortProduct, "gated inputs", width);
    need(Buffer::ShortConvolved, "convolved", width);
    need(Buffer::ShortGated, "gated outputs", width);
  }
  if (layer.mixer != Mixer::None) need(Buffer::MixerOutput, "mixer output", width);
  if (layer.mixer == Mixer::AttentionAndMamba2) need(Buffer::SecondMixerOutput, "second mixer output", width);
  if (layer.post_attn_norm) need(Buffer::MixerNormed, "normed mixer output", width);

  if (layer.ffn || layer.experts) {
    need(Buffer::Middle, "residual stream", width);
    if (layer.ffn_norm) need(Buffer::FfnInput, "normed ffn input", width);
  }
  if (layer.ffn) {
    need(Buffer::GateUp, "gate and up", gate_up_width(layer.ffn));
    need(Buffer::Hidden, "ffn activations", layer.ffn.width);
    need(Buffer::FfnOutput, "ffn output", width);
  }
  if (layer.experts) {
    const ExpertsGraph& e = layer.experts;
    if (e.router_input_scale != nullptr) need(Buffer::RouterInput, "router input", width);
    need(Buffer::RouterLogits, "router logits", e.count);
    need(Buffer::RouterProbabilities, "router probabilities", e.count);
    need(Buffer::RouterWeights, "expert weights", e.used);
    if (e.pre_norm) need(Buffer::ExpertSource, "normed expert input", width);
    const std::size_t columns = e.latent_down ? e.latent_down.rows : width;
    if (e.latent_down) {
      need(Buffer::ExpertLatent, "latent expert input", columns);
      need(Buffer::ExpertLatentSum, "latent expert sum", columns);
    }
    need(Buffer::ExpertInput, "expert inputs", columns, e.used);
    need(Buffer::ExpertGateUp, "expert gate and up", gate_up_width(e.experts), e.used);
    need(Buffer::ExpertHidden, "expert activations", e.experts.width, e.used);
    need(Buffer::ExpertOutput, "expert outputs", columns, e.used);
    need(Buffer::ExpertSum, "expert sum", width);
    if (e.post_norm) need(Buffer::ExpertNormed, "normed expert sum", width);
    if (e.shared) {
      need(Buffer::SharedGateUp, "shared gate and up", gate_up_width(e.shared));
      need(Buffer::SharedHidden, "shared activations", e.shared.width);
      need(Buffer::SharedOutput, "shared output", width);
      if (e.shared_gate) need(Buffer::SharedGate, "shared gate", 1);
    }
  }
  if (layer.dual_ffn) need(Buffer::DenseNormed, "normed dense output", width);
  if (layer.ffn && layer.experts) need(Buffer::FfnSum, "ffn sum", width);
  if ((layer.ffn || layer.experts) && layer.post_ffn_norm)
    need(Buffer::FfnNormed, "normed ffn output", width);
  if (layer.layer_embedding.gate) {
    need(Buffer::Embedded, "embeddings", width);
    need(Buffer::LayerEmbedding, "per-layer embeddings", layer.layer_embedding.gate.rows);
    need(Buffer::LayerGate, "per-layer gate", layer.layer_embedding.gate.rows);
    need(Buffer::LayerGated, "gated per-layer embeddings", layer.layer_embedding.gate.rows);
    need(Buffer::LayerOutput, "per-layer output", width);
    need(Buffer::LayerNormed, "normed per-layer output", width);
  }
  return out;
}

std::uint64_t buffer_bytes(const std::vector<BufferSpec>& specs, std::uint64_t tokens) {
  std::uint64_t floats = 0;
  for (const BufferSpec& spec : specs) floats += padded(spec.columns) * spec.rows_per_token * tokens;
  return floats * sizeof(float);
}

void Buffers::arrange(const std::vector<BufferSpec>& specs, std::size_t tokens) {
  const std::size_t floats = buffer_bytes(specs, tokens) / sizeof(float);
  if (memory_.size() < floats) {
    memory_ = AlignedFloats();  // given back first
    memory_ = AlignedFloats(floats);
  }
  views_ = {};
  std::size_t at = 0;
  for (const BufferSpec& spec : specs) {
    const std::size_t stride = padded(spec.columns);
    const std::size_t rows = spec.rows_per_token * tokens;
    views_[static_cast<std::size_t>(spec.buffer)] = {memory_.data() + at, rows, spec.columns, stride};
    at += stride * rows;
  }
}

}  // namespace quantfit::engine
