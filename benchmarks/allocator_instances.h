// Knapsack instances with the tensor shapes of real models: a dense model of 8 billion weights (254 tensors,
// the shapes of Qwen3-8B), a hybrid mixture of experts of 35 billion (432, Qwen3.5-35B-A3B) and one of 671
// billion with latent attention (725, DeepSeek-V3). Errors are drawn: typical levels of each format times a
// lognormal factor per tensor and a smaller one per format; tensor weights are those of priors/role_alpha.csv
// times a lognormal factor. One seed, one instance.
#pragma once

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <string>
#include <string_view>
#include <vector>

#include "core/format.h"
#include "optimizer/allocation/allocator.h"

namespace quantfit::benchmarks {

// SplitMix64 (Steele, Lea, Flood 2014): equal on every platform, unlike the distributions of <random>.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = state_ += 0x9E3779B97F4A7C15ULL;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
  }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  double normal() {
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(2 * std::numbers::pi * uniform());
  }
  double lognormal(double sigma) { return std::exp(sigma * normal()); }

 private:
  std::uint64_t state_;
};

struct Shape {
  std::string name;
  std::string_view role;
  std::uint64_t row_length;
  std::uint64_t rows;
  double weight;  // typical weight of the relative error in the model's KL divergence
};

struct Instance {
  std::string name;
  std::uint64_t elements = 0;
  std::vector<optimizer::CandidateClass> classes;
  std::uint64_t smallest = 0;  // bytes of the smallest and of the largest choice
  std::uint64_t largest = 0;
};

// Typical relative output error of each default candidate, in the order of default_candidate_formats().
inline constexpr std::array kTypicalError = {0.24,   0.19,    0.10,    0.079,   0.061,   0.058,  0.030,
                                             0.0185, 0.0205,  0.0053,  0.0050,  0.0068,  0.0043, 0.0052,
                                             0.0017, 0.00112, 0.00128, 0.00029, 0.000019};

inline Instance make_instance(std::string name, const std::vector<Shape>& shapes, std::uint64_t seed) {
  Instance instance;
  instance.name = std::move(name);
  Random random(seed);
  for (const Shape& shape : shapes) {
    optimizer::CandidateClass tensor;
    tensor.name = shape.name;
    const double weight = shape.weight * random.lognormal(0.35) * random.lognormal(0.2);
    std::uint64_t least = ~std::uint64_t{0};
    std::uint64_t most = 0;
    const auto formats = default_candidate_formats();
    for (std::size_t f = 0; f < formats.size(); ++f) {
      const double error = kTypicalError[f] * random.lognormal(0.06);
      const auto bytes = tensor_bytes(formats[f], shape.row_length, shape.rows);
      if (!bytes) continue;
      tensor.candidates.push_back({formats[f], bytes.value(), weight * error});
      least = std::min(least, bytes.value());
      most = std::max(most, bytes.value());
    }
    instance.elements += shape.row_length * shape.rows;
    instance.smallest += least;
    instance.largest += most;
    instance.classes.push_back(std::move(tensor));
  }
  return instance;
}

// The same instance where every tensor may also stay F16, as in the source file: no
// error, 16 bits per weight.
inline Instance with_source_format(Instance instance) {
  instance.name += "+F16";
  instance.largest = 0;
  for (optimizer::CandidateClass& tensor : instance.classes) {
    // Q8_0 is the last candidate: 34 bytes per 32 weights.
    const std::uint64_t bytes = tensor.candidates.back().bytes / 34 * 64;
    tensor.candidates.push_back({Format::F16, bytes, 0});
    instance.largest += bytes;
  }
  return instance;
}

inline Instance dense_8b(std::uint64_t seed) {
  std::vector<Shape> shapes = {{"token_embd", "token_embd", 4096, 151936, 10.9},
                               {"output", "output", 4096, 151936, 57}};
  for (int layer = 0; layer < 36; ++layer) {
    const std::string blk = fmt::format("blk.{}.", layer);
    shapes.push_back({blk + "attn_q", "attn_q", 4096, 4096, 0.71});
    shapes.push_back({blk + "attn_k", "attn_k", 4096, 1024, 0.28});
    shapes.push_back({blk + "attn_v", "attn_v", 4096, 1024, 0.57});
    shapes.push_back({blk + "attn_output", "attn_output", 4096, 4096, 0.92});
    shapes.push_back({blk + "ffn_gate", "ffn_gate", 4096, 12288, 1.0});
    shapes.push_back({blk + "ffn_up", "ffn_up", 4096, 12288, 1.15});
    shapes.push_back({blk + "ffn_down", "ffn_down", 12288, 4096, 1.27});
  }
  return make_instance("dense-8b", shapes, seed);
}

inline Instance moe_35b(std::uint64_t seed) {
  std::vector<Shape> shapes = {{"token_embd", "token_embd", 2048, 248320, 17.3},
                               {"output", "output", 2048, 248320, 49}};
  for (int layer = 0; layer < 40; ++layer) {
    const std::string blk = fmt::format("blk.{}.", layer);
    if (layer % 4 == 3) {
      shapes.push_back({blk + "attn_q", "attn_q", 2048, 8192, 1.49});
      shapes.push_back({blk + "attn_k", "attn_k", 2048, 512, 0.67});
      shapes.push_back({blk + "attn_v", "attn_v", 2048, 512, 1.07});
      shapes.push_back({blk + "attn_output", "attn_output", 4096, 2048, 1.56});
    } else {
      shapes.push_back({blk + "attn_qkv", "attn_qkv", 2048, 8192, 1.42});
      shapes.push_back({blk + "attn_gate", "attn_gate", 2048, 4096, 1.13});
      shapes.push_back({blk + "ssm_out", "ssm_out", 4096, 2048, 1.29});
      shapes.push_back({blk + "ssm_alpha", "ssm_alpha", 2048, 32, 0.36});
      shapes.push_back({blk + "ssm_beta", "ssm_beta", 2048, 32, 0.40});
    }
    shapes.push_back({blk + "ffn_gate_exps", "ffn_gate_exps", 2048, 512 * 256, 1.0});
    shapes.push_back({blk + "ffn_up_exps", "ffn_up_exps", 2048, 512 * 256, 1.01});
    shapes.push_back({blk + "ffn_down_exps", "ffn_down_exps", 512, 2048 * 256, 1.12});
    shapes.push_back({blk + "ffn_gate_shexp", "ffn_gate_shexp", 2048, 512, 0.78});
    shapes.push_back({blk + "ffn_up_shexp", "ffn_up_shexp", 2048, 512, 0.91});
    shapes.push_back({blk + "ffn_down_shexp", "ffn_down_shexp", 512, 2048, 0.94});
  }
  return make_instance("moe-35b", shapes, seed);
}

inline Instance moe_671b(std::uint64_t seed) {
  std::vector<Shape> shapes = {{"token_embd", "token_embd", 7168, 129280, 17.3},
                               {"output", "output", 7168, 129280, 24}};
  for (int layer = 0; layer < 61; ++layer) {
    const std::string blk = fmt::format("blk.{}.", layer);
    shapes.push_back({blk + "attn_q_a", "attn_q", 7168, 1536, 1.2});
    shapes.push_back({blk + "attn_q_b", "attn_q", 1536, 24576, 1.2});
    shapes.push_back({blk + "attn_kv_a_mqa", "attn_k", 7168, 576, 1.16});
    shapes.push_back({blk + "attn_k_b", "attn_k", 128, 512 * 128, 0.67});
    shapes.push_back({blk + "attn_v_b", "attn_v", 512, 128 * 128, 1.27});
    shapes.push_back({blk + "attn_output", "attn_output", 16384, 7168, 1.18});
    if (layer < 3) {
      shapes.push_back({blk + "ffn_gate", "ffn_gate", 7168, 18432, 4.0});
      shapes.push_back({blk + "ffn_up", "ffn_up", 7168, 18432, 4.0});
      shapes.push_back({blk + "ffn_down", "ffn_down", 18432, 7168, 4.0});
      continue;
    }
    shapes.push_back({blk + "ffn_gate_exps", "ffn_gate_exps", 7168, 2048 * 256, 1.0});
    shapes.push_back({blk + "ffn_up_exps", "ffn_up_exps", 7168, 2048 * 256, 1.01});
    shapes.push_back({blk + "ffn_down_exps", "ffn_down_exps", 2048, 7168 * 256, 1.12});
    shapes.push_back({blk + "ffn_gate_shexp", "ffn_gate_shexp", 7168, 2048, 0.78});
    shapes.push_back({blk + "ffn_up_shexp", "ffn_up_shexp", 7168, 2048, 0.91});
    shapes.push_back({blk + "ffn_down_shexp", "ffn_down_shexp", 2048, 7168, 0.94});
  }
  return make_instance("moe-671b", shapes, seed);
}

}  // namespace quantfit::benchmarks
