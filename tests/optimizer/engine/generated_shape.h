// Small models of any family, made of random numbers: what a case of a test says about its shape becomes a
// GGUF file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <ostream>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "core/format.h"

namespace quantfit::test {

using KeyValue = std::variant<std::uint32_t, float, bool, std::string, std::vector<std::uint32_t>>;

struct ExtraTensor {
  std::string name;  // "blk.*." stands for every block
  std::vector<std::uint64_t> ne;
  float scale = 0;  // of normal numbers; 0: 1 / sqrt(ne[0])
  float offset = 0;
};

// The parts that most families share. Names of tensors are those of GGUF; those of `without` are not written,
// `extra` ones are.
struct GeneratedShape {
  std::string name = "";  // of the case
  std::string architecture = "llama";
  std::uint32_t layers = 2, width = 32, heads = 4, kv_heads = 2, head_dim = 8, ffn = 48, vocabulary = 40;
  bool write_head_dim = false;  // attention.key_length and value_length
  bool layer_norm = false;      // epsilon of layer norms, and biases
  bool norm_bias = false;
  std::string attn_norm = "attn_norm", post_attn_norm = "", ffn_norm = "ffn_norm", post_ffn_norm = "";
  std::string output_norm = "output_norm";
  bool fused_qkv = false, qkv_bias = false, output_bias = false;
  enum class QkNorm { None, PerHead, WholeRow, OwnPerHead } qk_norm = QkNorm::None;
  bool gated = true, fused_gate = false, ffn_bias = false;
  std::uint32_t experts = 0, experts_used = 2, expert_ffn = 24, shared_ffn = 0, leading_dense = 0;
  bool shared_gate = false, choice_bias = false;
  bool tied = false;
  // "KEY" gets the architecture's prefix, ":KEY" stands as it is.
  std::vector<std::pair<std::string, KeyValue>> keys = {};
  std::vector<ExtraTensor> extra = {};
  std::vector<std::string> without = {};  // ends of names
  Format format = Format::F32;            // of the matrices of blocks and of output.weight
};
// For the names of failed tests.
inline void PrintTo(const GeneratedShape& one, std::ostream* out) {
  *out << one.name;
}

// Writes the model; the same shape gives the same file. Values do not depend on the format: they are rounded.
void write_generated(const GeneratedShape& shape, const std::filesystem::path& path);

}  // namespace quantfit::test
