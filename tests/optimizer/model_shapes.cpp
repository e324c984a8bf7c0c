#include "tests/optimizer/model_shapes.h"

#include <fmt/format.h>

#include <algorithm>

namespace quantfit::test {
namespace {

struct Sizes {
  std::uint32_t layers, embedding, heads, kv_heads, feed_forward, vocabulary, context;
};

ModelShape start(std::string architecture, const Sizes& sizes) {
  ModelShape shape;
  shape.architecture = std::move(architecture);
  shape.metadata.add(GgufKeyValue::of_string("general.architecture", shape.architecture));
  shape.set("block_count", sizes.layers);
  shape.set("context_length", sizes.context);
  shape.set("embedding_length", sizes.embedding);
  shape.set("attention.head_count", sizes.heads);
  shape.set("attention.head_count_kv", sizes.kv_heads);
  shape.set("feed_forward_length", sizes.feed_forward);
  shape.set("vocab_size", sizes.vocabulary);
  shape.add("token_embd.weight", {sizes.embedding, sizes.vocabulary});
  shape.add("output_norm.weight", {sizes.embedding});
  return shape;
}

std::string in_layer(std::uint32_t layer, std::string_view role) {
  return fmt::format("blk.{}.{}.weight", layer, role);
}

void add_attention(ModelShape& shape, std::uint32_t layer, const Sizes& sizes, std::uint64_t head_length) {
  shape.add(in_layer(layer, "attn_norm"), {sizes.embedding});
  shape.add(in_layer(layer, "attn_q"), {sizes.embedding, sizes.heads * head_length});
  shape.add(in_layer(layer, "attn_k"), {sizes.embedding, sizes.kv_heads * head_length});
  shape.add(in_layer(layer, "attn_v"), {sizes.embedding, sizes.kv_heads * head_length});
  shape.add(in_layer(layer, "attn_output"), {sizes.heads * head_length, sizes.embedding});
  shape.add(in_layer(layer, "ffn_norm"), {sizes.embedding});
}

void add_dense(ModelShape& shape, std::uint32_t layer, std::uint64_t embedding, std::uint64_t feed_forward,
               std::string_view suffix = "") {
  shape.add(in_layer(layer, fmt::format("ffn_gate{}", suffix)), {embedding, feed_forward});
  shape.add(in_layer(layer, fmt::format("ffn_up{}", suffix)), {embedding, feed_forward});
  shape.add(in_layer(layer, fmt::format("ffn_down{}", suffix)), {feed_forward, embedding});
}

void add_experts(ModelShape& shape, std::uint32_t layer, std::uint64_t embedding, std::uint64_t feed_forward,
                 std::uint64_t experts) {
  shape.add(in_layer(layer, "ffn_gate_inp"), {embedding, experts});
  shape.add(in_layer(layer, "ffn_gate_exps"), {embedding, feed_forward, experts});
  shape.add(in_layer(layer, "ffn_up_exps"), {embedding, feed_forward, experts});
  shape.add(in_layer(layer, "ffn_down_exps"), {feed_forward, embedding, experts});
}

}  // namespace

void ModelShape::set(const std::string& suffix, std::uint32_t value) {
  metadata.set(GgufKeyValue::of_uint32(architecture + "." + suffix, value));
}

void ModelShape::set_array(const std::string& suffix, const std::vector<std::uint32_t>& values) {
  metadata.set(GgufKeyValue::of_uint32_array(architecture + "." + suffix, values));
}

void ModelShape::add(const std::string& name, std::vector<std::uint64_t> dims) {
  TensorInfo tensor;
  tensor.name = name;
  tensor.n_dims = static_cast<std::uint32_t>(dims.size());
  std::ranges::copy(dims, tensor.ne.begin());
  tensor.format = dims.size() == 1 ? Format::F32 : Format::F16;
  tensor.bytes = tensor.elements() * (dims.size() == 1 ? 4 : 2);
  tensors.push_back(std::move(tensor));
}

ModelShape llama3_8b() {
  const Sizes sizes{.layers = 32,
                    .embedding = 4096,
                    .heads = 32,
                    .kv_heads = 8,
                    .feed_forward = 14336,
                    .vocabulary = 128256,
                    .context = 8192};
  ModelShape shape = start("llama", sizes);
  shape.add("output.weight", {sizes.embedding, sizes.vocabulary});
  for (std::uint32_t layer = 0; layer < sizes.layers; ++layer) {
    add_attention(shape, layer, sizes, 128);
    add_dense(shape, layer, sizes.embedding, sizes.feed_forward);
  }
  return shape;
}

ModelShape qwen3_30b_a3b() {
  const Sizes sizes{.layers = 48,
                    .embedding = 2048,
                    .heads = 32,
                    .kv_heads = 4,
                    .feed_forward = 6144,
                    .vocabulary = 151936,
                    .context = 40960};
  ModelShape shape = start("qwen3moe", sizes);
  shape.set("attention.key_length", 128);
  shape.set("attention.value_length", 128);
  shape.set("expert_count", 128);
  shape.set("expert_used_count", 8);
  shape.set("expert_feed_forward_length", 768);
  shape.add("output.weight", {sizes.embedding, sizes.vocabulary});
  for (std::uint32_t layer = 0; layer < sizes.layers; ++layer) {
    add_attention(shape, layer, sizes, 128);
    add_experts(shape, layer, sizes.embedding, 768, 128);
  }
  return shape;
}

ModelShape deepseek_v3() {
  const Sizes sizes{.layers = 61,
                    .embedding = 7168,
                    .heads = 128,
                    .kv_heads = 1,
                    .feed_forward = 18432,
                    .vocabulary = 129280,
                    .context = 163840};
  ModelShape shape = start("deepseek2", sizes);
  shape.set("attention.q_lora_rank", 1536);
  shape.set("attention.kv_lora_rank", 512);
  shape.set("attention.key_length", 576);
  shape.set("attention.value_length", 512);
  shape.set("attention.key_length_mla", 192);
  shape.set("attention.value_length_mla", 128);
  shape.set("rope.dimension_count", 64);
  shape.set("leading_dense_block_count", 3);
  shape.set("expert_count", 256);
  shape.set("expert_used_count", 8);
  shape.set("expert_feed_forward_length", 2048);
  shape.add("output.weight", {sizes.embedding, sizes.vocabulary});
  for (std::uint32_t layer = 0; layer < sizes.layers; ++layer) {
    shape.add(in_layer(layer, "attn_norm"), {7168});
    shape.add(in_layer(layer, "attn_q_a"), {7168, 1536});
    shape.add(in_layer(layer, "attn_q_b"), {1536, 24576});
    shape.add(in_layer(layer, "attn_kv_a_mqa"), {7168, 576});
    shape.add(in_layer(layer, "attn_k_b"), {128, 512, 128});
    shape.add(in_layer(layer, "attn_v_b"), {512, 128, 128});
    shape.add(in_layer(layer, "attn_output"), {16384, 7168});
    shape.add(in_layer(layer, "ffn_norm"), {7168});
    if (layer < 3) {
      add_dense(shape, layer, sizes.embedding, sizes.feed_forward);
    } else {
      add_experts(shape, layer, sizes.embedding, 2048, 256);
      add_dense(shape, layer, sizes.embedding, 2048, "_shexp");
    }
  }
  return shape;
}

ModelShape gemma3_27b() {
  const Sizes sizes{.layers = 62,
                    .embedding = 5376,
                    .heads = 32,
                    .kv_heads = 16,
                    .feed_forward = 21504,
                    .vocabulary = 262208,
                    .context = 131072};
  ModelShape shape = start("gemma3", sizes);
  shape.set("attention.key_length", 128);
  shape.set("attention.value_length", 128);
  shape.set("attention.sliding_window", 1024);
  for (std::uint32_t layer = 0; layer < sizes.layers; ++layer) {
    add_attention(shape, layer, sizes, 128);
    add_dense(shape, layer, sizes.embedding, sizes.feed_forward);
  }
  return shape;
}

ModelShape qwen36_35b_a3b() {
  const Sizes sizes{.layers = 40,
                    .embedding = 2048,
                    .heads = 16,
                    .kv_heads = 2,
                    .feed_forward = 5632,
                    .vocabulary = 248320,
                    .context = 262144};
  ModelShape shape = start("qwen35moe", sizes);
  shape.set("attention.key_length", 256);
  shape.set("attention.value_length", 256);
  shape.set("full_attention_interval", 4);
  shape.set("ssm.conv_kernel", 4);
  shape.set("ssm.inner_size", 4096);
  shape.set("ssm.state_size", 128);
  shape.set("ssm.group_count", 16);
  shape.set("ssm.time_step_rank", 32);
  shape.set("expert_count", 256);
  shape.set("expert_used_count", 8);
  shape.set("expert_feed_forward_length", 512);
  shape.set("expert_shared_feed_forward_length", 512);
  shape.add("output.weight", {sizes.embedding, sizes.vocabulary});
  for (std::uint32_t layer = 0; layer < sizes.layers; ++layer) {
    if (layer % 4 == 3) {
      add_attention(shape, layer, sizes, 256);
    } else {
      shape.add(in_layer(layer, "attn_norm"), {2048});
      shape.add(in_layer(layer, "attn_qkv"), {2048, 8192});
      shape.add(in_layer(layer, "attn_gate"), {2048, 4096});
      shape.add(in_layer(layer, "ssm_conv1d"), {4, 8192});
      shape.add(in_layer(layer, "ssm_alpha"), {2048, 32});
      shape.add(in_layer(layer, "ssm_beta"), {2048, 32});
      shape.add(in_layer(layer, "ssm_out"), {4096, 2048});
    }
    add_experts(shape, layer, sizes.embedding, 512, 256);
    add_dense(shape, layer, sizes.embedding, 512, "_shexp");
  }
  return shape;
}

}  // namespace quantfit::test
