#include "tests/optimizer/engine/generated_shape.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "core/gguf_writer.h"
#include "kernels/row_quantizer.h"

namespace quantfit::test {
namespace {

struct Made {
  TensorInfo info;
  std::vector<std::byte> data;
};

class Maker {
 public:
  explicit Maker(const GeneratedShape& shape) : shape_(shape) {}

  void tensor(const std::string& name, const std::vector<std::uint64_t>& ne, float scale = 0,
              float offset = 0) {
    Made made;
    made.info.name = name;
    made.info.n_dims = static_cast<std::uint32_t>(ne.size());
    for (std::size_t i = 0; i < ne.size(); ++i) made.info.ne[i] = ne[i];
    const bool matrix = ne.size() > 1 && (name.starts_with("blk.") || name == "output.weight") &&
                        name.find("ffn_gate_inp") == std::string::npos &&
                        name.find("norm") == std::string::npos && name.ends_with(".weight");
    made.info.format = matrix ? shape_.format : Format::F32;
    // Values follow from the name alone.
    std::uint64_t seed = 1469598103934665603ULL;
    for (const char c : name) seed = (seed ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal;
    if (scale == 0) scale = 1 / std::sqrt(static_cast<float>(ne[0]));
    std::vector<float> values(made.info.elements());
    for (float& value : values) value = offset + scale * normal(random);
    made.data = encode(made.info, values);
    made.info.bytes = made.data.size();
    tensors_.push_back(std::move(made));
  }
  // One of the usual tensors: not made where the shape leaves it out.
  void usual(const std::string& name, const std::vector<std::uint64_t>& ne, float scale = 0,
             float offset = 0) {
    for (const std::string& suffix : shape_.without)
      if (name.ends_with(suffix)) return;
    tensor(name, ne, scale, offset);
  }
  void norm(const std::string& name, std::uint64_t size, std::uint64_t rows = 1) {
    usual(name + ".weight", rows == 1 ? std::vector{size} : std::vector{size, rows}, 0.2F, 1);
    if (shape_.layer_norm || shape_.norm_bias)
      if (rows == 1) usual(name + ".bias", {size}, 0.1F);
  }
  void matrix(const std::string& name, std::vector<std::uint64_t> ne, bool bias) {
    usual(name + ".weight", ne);
    if (bias) usual(name + ".bias", {ne[1]}, 0.3F);
  }

  std::vector<Made>& tensors() { return tensors_; }

 private:
  static std::vector<std::byte> encode(const TensorInfo& info, const std::vector<float>& values) {
    std::vector<std::byte> out;
    const std::size_t columns = info.ne[0];
    if (info.format == Format::F32) {
      out.resize(values.size() * sizeof(float));
      std::memcpy(out.data(), values.data(), out.size());
      return out;
    }
    const auto kernels = kernels::default_kernels();
    EXPECT_TRUE(kernels);
    kernels::RowQuantizer quantizer(*kernels.value(), columns);
    const kernels::ColumnMetric metric(columns, {}, {}, 1);
    const std::uint64_t bytes = row_bytes(info.format, columns).value();
    out.resize(bytes * info.rows());
    for (std::size_t row = 0; row < info.rows(); ++row) {
      const auto* from = reinterpret_cast<const std::byte*>(values.data() + row * columns);
      EXPECT_TRUE(quantizer.load(Format::F32, {from, columns * sizeof(float)}, metric));
      quantizer.encode(info.format, kernels::Effort::Default, out.data() + row * bytes);
    }
    return out;
  }

  const GeneratedShape& shape_;
  std::vector<Made> tensors_;
};

}  // namespace

void write_generated(const GeneratedShape& s, const std::filesystem::path& path) {
  GgufMetadata metadata;
  const std::string prefix = s.architecture + ".";
  const auto uint = [&](const std::string& key, std::uint32_t value) {
    metadata.set(GgufKeyValue::of_uint32(prefix + key, value));
  };
  metadata.set(GgufKeyValue::of_string("general.architecture", s.architecture));
  metadata.set(GgufKeyValue::of_string("tokenizer.ggml.model", "none"));
  uint("vocab_size", s.vocabulary);
  uint("context_length", 4096);
  uint("embedding_length", s.width);
  uint("block_count", s.layers);
  uint("feed_forward_length", s.ffn);
  uint("attention.head_count", s.heads);
  uint("attention.head_count_kv", s.kv_heads);
  metadata.set(GgufKeyValue::of_float32(
      prefix + (s.layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon"), 1e-5F));
  if (s.write_head_dim) {
    uint("attention.key_length", s.head_dim);
    uint("attention.value_length", s.head_dim);
  }
  if (s.experts != 0) {
    uint("expert_count", s.experts);
    uint("expert_used_count", s.experts_used);
    uint("expert_feed_forward_length", s.expert_ffn);
    if (s.leading_dense != 0) uint("leading_dense_block_count", s.leading_dense);
    if (s.shared_ffn != 0) uint("expert_shared_feed_forward_length", s.shared_ffn);
  }
  for (const auto& [key, value] : s.keys) {
    const std::string full = key.starts_with(":") ? key.substr(1) : prefix + key;
    if (const auto* number = std::get_if<std::uint32_t>(&value))
      metadata.set(GgufKeyValue::of_uint32(full, *number));
    else if (const auto* real = std::get_if<float>(&value))
      metadata.set(GgufKeyValue::of_float32(full, *real));
    else if (const auto* truth = std::get_if<bool>(&value))
      metadata.set(GgufKeyValue::of_bool(full, *truth));
    else if (const auto* text = std::get_if<std::string>(&value))
      metadata.set(GgufKeyValue::of_string(full, *text));
    else
      metadata.set(GgufKeyValue::of_uint32_array(full, std::get<std::vector<std::uint32_t>>(value)));
  }

  Maker make(s);
  const std::uint64_t width = s.width;
  make.usual("token_embd.weight", {width, s.vocabulary}, 1);
  for (std::uint32_t il = 0; il < s.layers; ++il) {
    const std::string b = fmt::format("blk.{}.", il);
    for (const std::string& norm : {s.attn_norm, s.post_attn_norm, s.ffn_norm, s.post_ffn_norm})
      if (!norm.empty()) make.norm(b + norm, width);
    const std::uint64_t q = std::uint64_t{s.heads} * s.head_dim, kv = std::uint64_t{s.kv_heads} * s.head_dim;
    if (s.fused_qkv) {
      make.matrix(b + "attn_qkv", {width, q + 2 * kv}, s.qkv_bias);
    } else {
      make.matrix(b + "attn_q", {width, q}, s.qkv_bias);
      make.matrix(b + "attn_k", {width, kv}, s.qkv_bias);
      make.matrix(b + "attn_v", {width, kv}, s.qkv_bias);
    }
    make.matrix(b + "attn_output", {q, width}, s.output_bias);
    using QkNorm = GeneratedShape::QkNorm;
    if (s.qk_norm != QkNorm::None) {
      const bool whole = s.qk_norm == QkNorm::WholeRow, own = s.qk_norm == QkNorm::OwnPerHead;
      make.norm(b + "attn_q_norm", whole ? q : s.head_dim, own ? s.heads : 1);
      make.norm(b + "attn_k_norm", whole ? kv : s.head_dim, own ? s.kv_heads : 1);
    }
    if (s.experts != 0 && il >= s.leading_dense) {
      const std::uint64_t e = s.experts, f = s.expert_ffn;
      make.matrix(b + "ffn_gate_inp", {width, e}, false);
      if (s.gated) make.matrix(b + "ffn_gate_exps", {width, f, e}, false);
      make.matrix(b + "ffn_up_exps", {width, f, e}, false);
      make.matrix(b + "ffn_down_exps", {f, width, e}, false);
      if (s.choice_bias) make.usual(b + "exp_probs_b.bias", {e}, 0.3F);
      if (s.shared_ffn != 0) {
        if (s.gated) make.matrix(b + "ffn_gate_shexp", {width, s.shared_ffn}, false);
        make.matrix(b + "ffn_up_shexp", {width, s.shared_ffn}, false);
        make.matrix(b + "ffn_down_shexp", {s.shared_ffn, width}, false);
        if (s.shared_gate) make.usual(b + "ffn_gate_inp_shexp.weight", {width});
      }
    } else if (s.ffn != 0) {
      if (s.gated && !s.fused_gate) make.matrix(b + "ffn_gate", {width, s.ffn}, s.ffn_bias);
      make.matrix(b + "ffn_up", {width, std::uint64_t{s.ffn} * (s.fused_gate ? 2 : 1)}, s.ffn_bias);
      make.matrix(b + "ffn_down", {s.ffn, width}, s.ffn_bias);
    }
    for (const ExtraTensor& extra : s.extra)
      if (extra.name.starts_with("blk.*."))
        make.tensor(b + extra.name.substr(6), extra.ne, extra.scale, extra.offset);
  }
  for (const ExtraTensor& extra : s.extra)
    if (!extra.name.starts_with("blk.*.")) make.tensor(extra.name, extra.ne, extra.scale, extra.offset);
  make.norm(s.output_norm, width);
  if (!s.tied) make.matrix("output", {width, s.vocabulary}, false);

  std::vector<TensorInfo> infos;
  for (const Made& made : make.tensors()) infos.push_back(made.info);
  auto writer = GgufWriter::create(path, metadata, infos);
  ASSERT_TRUE(writer) << writer.error().message;
  for (const Made& made : make.tensors()) ASSERT_TRUE(writer.value().append(made.data));
  ASSERT_TRUE(writer.value().commit());
}

}  // namespace quantfit::test
