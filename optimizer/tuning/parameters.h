// The numbers of a quantized model that can change without changing its size, as one list of tensors: values
// of small F32 tensors, and the binary16 scales and minimums of blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "core/error.h"
#include "core/model.h"
#include "kernels/row_kernels.h"
#include "optimizer/engine/forward.h"
#include "optimizer/engine/graph.h"
#include "optimizer/tuning/adam.h"
#include "optimizer/tuning/codes.h"
#include "optimizer/tuning/level.h"

namespace quantfit::tuning {

// The trained numbers of one tensor. Number i is start[i] + unit(i) * offset[i], rounded to what the tensor
// stores; offsets begin at zero, so that they are relative changes: of scales by their own size, of values by
// the root mean square of their tensor.
struct Parameter {
  enum class Kind : std::uint8_t {
    Values,  // of an F32 tensor, in its order
    Scales,  // of blocks in file order, kernels::block_scales() of each
  };
  const TensorInfo* tensor = nullptr;
  Kind kind = Kind::Values;
  std::vector<float> start;
  float value_unit = 0;  // of Values
  // The relative error of the tensor's weights against the original's; of Values that of all tensors that are
  // tuned. Rates are in proportion to it (Parameters::step). 1 where it is not known.
  float error = 1;
  std::vector<float> offset;
  std::vector<float> mean, square;  // Adam's moments of the gradient
  std::vector<double> gradient;     // of the loss at the numbers themselves; added to during a pass
  std::optional<Codes> codes;       // of Scales, where they are tuned, too
  std::vector<std::byte> bytes;     // of the tensor, as the numbers are now

  [[nodiscard]] std::size_t size() const { return start.size(); }
  [[nodiscard]] float unit(std::size_t i) const;
  // Writes the numbers as the offsets say into `bytes`.
  void store();
  // Everything that a step changes, but gradients: what is saved and put back when a tuning is interrupted.
  [[nodiscard]] std::vector<std::span<std::byte>> state();
};

// How many there are, and the bytes that Parameters takes for them.
struct ParameterSizes {
  std::uint64_t values = 0, scales = 0, codes = 0, bytes = 0;
};

class Parameters {
 public:
  // Of the tensors of `graph`'s model, as far as `level` goes: None has none. Codes need the original's
  // tensor of the same name, dimensions and a float format; `moments`: of these alone. `only`: of these
  // tensors, of all where it is empty; `start`: bytes that they begin with in the places of the model's.
  // Malformed where a stored number is not finite; NoSpace.
  [[nodiscard]] static Result<Parameters> collect(const Model& model, const engine::ModelGraph& graph,
                                                  const Model& original, const kernels::RowKernels& rows,
                                                  Level level, MomentForm moments = MomentForm::Whole,
                                                  std::span<const TensorInfo* const> only = {},
                                                  const engine::ReplacedTensors& start = {});

  [[nodiscard]] std::vector<Parameter>& all() { return all_; }
  [[nodiscard]] const std::vector<Parameter>& all() const { return all_; }
  // Null where the tensor has none.
  [[nodiscard]] Parameter* find(const TensorInfo* tensor);

  // Of what collect() would give for a model of these tensors, `graph` that of a model of the same names.
  [[nodiscard]] static ParameterSizes sizes(std::span<const TensorInfo> tensors,
                                            const engine::ModelGraph& graph, const Model& original,
                                            Level level, MomentForm moments = MomentForm::Whole);

  void clear_gradients();
  // One step of Adam on everything, from gradients that are sums over `tokens` tokens; then the bytes. Rates
  // are those of tensors of large errors, exact ones take less (parameters.cpp).
  // `stiffness`: the mean loss has stiffness / 2 * offset^2 for every value and scale besides.
  struct Rates {
    double values = 0, scales = 0, codes = 0, stiffness = 0;
  };
  void step(const Rates& rates, std::uint64_t step, std::uint64_t tokens);

  // The bytes of all tensors, in order.
  [[nodiscard]] std::vector<std::vector<std::byte>> snapshot() const;
  void restore(const std::vector<std::vector<std::byte>>& bytes);

 private:
  std::vector<Parameter> all_;
  std::unordered_map<const TensorInfo*, std::size_t> index_;
};

}  // namespace quantfit::tuning
