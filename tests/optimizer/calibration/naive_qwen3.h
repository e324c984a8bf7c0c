// A qwen3 model forward and backward in double, one token and one head at a time, written from the formulas
// and sharing nothing with the engine: the reference for figures of the trained example model.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/model.h"

namespace quantfit::test {

using Vector = std::vector<double>;
using Rows = std::vector<Vector>;  // one vector per token

// Sums over tokens for one matrix.
struct NaiveSums {
  Vector gradient;  // per output: of (dL / dy)^2
  Vector output;    // of y^2
  Vector input;     // per input: of x^2
};

class NaiveQwen3 {
 public:
  explicit NaiveQwen3(const Model& model);

  // Runs one window forward and backward and adds to `sums`, and the squared gradients at the embedding's
  // output to `embedding` (per token of the window, summed over columns) and `embedding_columns`. `label(t,
  // probabilities)` chooses the label of token t; the loss is the sum of -ln p(label).
  void run(const std::vector<std::int32_t>& tokens,
           const std::function<std::size_t(std::size_t, const Vector&)>& label,
           std::map<std::string, NaiveSums>& sums, Vector& embedding, Vector& embedding_columns) const;

  [[nodiscard]] const Vector& values(const std::string& name) const { return tensors_.at(name).values; }
  [[nodiscard]] std::size_t columns(const std::string& name) const { return tensors_.at(name).columns; }

 private:
  struct Tensor {
    std::size_t columns = 0;
    Vector values;
  };
  // y = W x for every token.
  [[nodiscard]] Rows multiply(const std::string& name, const Rows& x,
                              std::map<std::string, NaiveSums>& sums) const;
  // W^T dy.
  [[nodiscard]] Rows back(const std::string& name, const Rows& dy,
                          std::map<std::string, NaiveSums>& sums) const;

  std::map<std::string, Tensor> tensors_;
  std::size_t layers_ = 0, heads_ = 0, kv_heads_ = 0, head_dim_ = 0, width_ = 0;
  double epsilon_ = 0, base_ = 0;
};

}  // namespace quantfit::test
