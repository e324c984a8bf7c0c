// What resolve() decided, as text for people.

#include "optimizer/engine/graph.h"

namespace quantfit::engine {
namespace {

std::string text_of(const Norm& norm) {
  if (!norm) return "none";
  return fmt::format("{} of {}, epsilon {}{}{}", norm.kind == NormKind::Rms ? "rms" : "layer norm", norm.size,
                     norm.epsilon, norm.bias != nullptr ? ", bias" : "",
                     norm.weight_rows > 1 ? ", own weights per head" : "");
}

std::string text_of(const FfnGraph& ffn) {
  constexpr std::string_view kNames[] = {"silu", "gelu", "relu", "relu squared", "clamped swiglu", "xielu"};
  return fmt::format("{} wide, {}{}{}", ffn.width, kNames[static_cast<std::size_t>(ffn.activation)],
                     ffn.gated ? ", gated" : "", ffn.limit > 0 ? fmt::format(", limit {}", ffn.limit) : "");
}

std::string text_of(const AttentionGraph& a) {
  constexpr std::string_view kRopes[] = {"no rope", "rope of pairs (2i, 2i+1), table",
                                         "rope of pairs (i, i+n/2), table"};
  std::string out =
      fmt::format("attention of {} heads, {} of keys and values, dimensions {} and {}, scale {}, {}", a.heads,
                  a.kv_heads, a.key_dim, a.value_dim, a.scale, kRopes[static_cast<std::size_t>(a.rope)]);
  if (a.rope != Rope::None) out += fmt::format(" {}", a.rope_index);
  if (a.window != 0)
    out += fmt::format(", {} of {}", a.window_shape == WindowShape::Chunked ? "chunks" : "window", a.window);
  if (a.softcap != 0) out += fmt::format(", softcap {}", a.softcap);
  if (a.clamp != 0) out += fmt::format(", clamp {}", a.clamp);
  if (a.alibi_bias != 0) out += fmt::format(", ALiBi {}", a.alibi_bias);
  if (a.q_norm) out += fmt::format(", queries {}", text_of(a.q_norm));
  if (a.k_norm) out += fmt::format(", keys {}", text_of(a.k_norm));
  if (a.value_norm) out += ", values normed";
  if (a.value_is_key) out += ", values are keys";
  if (a.kv_layer) out += fmt::format(", keys of block {}", *a.kv_layer);
  if (a.temperature_scale != 0)
    out += fmt::format(", temperature {} per {} tokens", a.temperature_scale, a.temperature_length);
  if (a.sinks != nullptr) out += ", sinks";
  if (a.gate != AttentionGate::None) out += ", gated";
  return out;
}

std::string mixer_text(const LayerGraph& layer) {
  const Mamba2Graph& m = layer.mamba2;
  std::string mamba = fmt::format("state space of {} heads of {}, state {}, {} groups", m.heads, m.head_dim,
                                  m.state, m.groups);
  switch (layer.mixer) {
    case Mixer::Attention:
      return text_of(layer.attention);
    case Mixer::LatentAttention: {
      const LatentGraph& a = layer.latent;
      return fmt::format("latent attention of {} heads, rank {}, dimensions {} + {} and {}, scale {}{}",
                         a.heads, a.latent, a.nope_dims, a.rope_dims, a.value_dim, a.scale,
                         a.kv_b ? ", expanded" : "");
    }
    case Mixer::GatedDelta:
      return fmt::format("gated delta net of {} key heads, {} value heads of {}", layer.gated_delta.key_heads,
                         layer.gated_delta.value_heads, layer.gated_delta.head_dim);
    case Mixer::KeyDelta:
      return fmt::format("delta net of {} heads of {}, decay per key", layer.key_delta.heads,
                         layer.key_delta.head_dim);
    case Mixer::Mamba2:
      return mamba;
    case Mixer::ShortConvolution:
      return fmt::format("convolution of {} taps", layer.short_convolution.kernel);
    case Mixer::AttentionAndMamba2:
      return text_of(layer.attention) + " + " + mamba;
    case Mixer::None:
      break;
  }
  return "no mixer";
}

std::string text_of(const ExpertsGraph& e) {
  constexpr std::string_view kScores[] = {"softmax", "sigmoid", "softmax of the chosen", "sqrt of softplus"};
  return fmt::format("{} of {}, {}{}{}{}, {}", e.used, e.count, kScores[static_cast<std::size_t>(e.score)],
                     e.normalize ? ", weights normalized" : "",
                     e.weight_scale != 1 ? fmt::format(", times {}", e.weight_scale) : "",
                     e.groups > 1 ? fmt::format(", from {} of {} groups", e.groups_used, e.groups) : "",
                     text_of(e.experts));
}

}  // namespace

std::string describe(const ModelGraph& graph) {
  std::string out = fmt::format("{} blocks, {} wide, vocabulary of {}{}\n", graph.layers.size(), graph.width,
                                graph.vocabulary, graph.tied ? ", output tied to the embedding" : "");
  if (graph.embedding_scale != 1) out += fmt::format("embedding times {}\n", graph.embedding_scale);
  for (std::size_t i = 0; i < graph.ropes.size(); ++i) {
    const RopeSpec& r = graph.ropes[i];
    out += fmt::format("rope table {}: {} dimensions, base {}, frequencies times {}, magnitude {}", i, r.dims,
                       r.base, r.frequency_scale, r.magnitude);
    if (r.extrapolation != 0) out += fmt::format(", yarn from {} to {}", r.ramp_low, r.ramp_high);
    if (r.factors != nullptr) out += fmt::format(", factors of '{}'", r.factors->name);
    if (r.factors_long != nullptr)
      out += fmt::format(", beyond {} tokens of '{}'", r.long_context, r.factors_long->name);
    out += "\n";
  }
  for (const LayerGraph& layer : graph.layers) {
    out += fmt::format("block {}: {}{}\n", layer.index, mixer_text(layer),
                       layer.parallel ? "; branches parallel" : "");
    out += fmt::format("  norms: mixer {}; after it {}; ffn {}; after it {}\n", text_of(layer.attn_norm),
                       text_of(layer.post_attn_norm), text_of(layer.ffn_norm), text_of(layer.post_ffn_norm));
    if (layer.residual_scale != 1) out += fmt::format("  branches times {}\n", layer.residual_scale);
    if (layer.ffn) out += fmt::format("  ffn: {}\n", text_of(layer.ffn));
    if (layer.experts) {
      out += fmt::format("  experts: {}\n", text_of(layer.experts));
      if (layer.experts.shared)
        out += fmt::format("  shared experts: {}{}\n", text_of(layer.experts.shared),
                           layer.experts.shared_gate ? ", with a gate" : "");
    }
  }
  out += fmt::format("final norm: {}", text_of(graph.output_norm));
  if (graph.logit_factor != 1) out += fmt::format("; logits times {}", graph.logit_factor);
  if (graph.final_softcap != 0) out += fmt::format("; softcap {}", graph.final_softcap);
  return out + "\n";
}

}  // namespace quantfit::engine
