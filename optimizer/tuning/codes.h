// Codes of a tensor that are rounded anew while it is tuned: a real number behind every level.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/error.h"
#include "core/model.h"
#include "kernels/block_codes.h"
#include "kernels/row_kernels.h"
#include "optimizer/tuning/adam.h"
#include "optimizer/tuning/moments.h"

namespace quantfit::tuning {

// The latent level of every weight of one tensor, in the units of its format's levels: w = slope * level +
// base, with slope and base of the block as it is. A block has the codes whose levels are nearest to its
// latents (of grids: the nearest vector of magnitudes); signs stay. Latents begin at the original's weight,
// pulled as far towards the level that the file has as keeps it the nearest, so that nothing changes by
// itself.
class Codes {
 public:
  // `bytes`: of the tensor; `source`: the original's tensor of the same dimensions in a float format.
  Codes(const kernels::RowKernels& rows, const TensorInfo& tensor, std::span<const std::byte> bytes,
        const Model& original, const TensorInfo& source, MomentForm moments = MomentForm::Whole);

  // Per weight, of the loss at the weight as it is decoded; added to during a pass.
  [[nodiscard]] std::vector<float>& gradient() { return gradient_; }

  // One step of Adam on every latent, StepRule::rate in usual distances of levels, and the codes into
  // `bytes`.
  void step(const StepRule& rule, std::uint64_t tokens, std::span<std::byte> bytes);

  // Codes that differ from those of `before`, bytes of the same tensor, and all.
  [[nodiscard]] std::uint64_t count() const { return latent_.size() / shape_->group; }
  [[nodiscard]] std::uint64_t moved(std::span<const std::byte> before, std::span<const std::byte> now) const;

  // As Parameter::state().
  [[nodiscard]] std::vector<std::span<std::byte>> state();

  // Whether the codes of a tensor of `format` can be tuned.
  [[nodiscard]] static bool can(Format format) { return kernels::code_shape(format).count != 0; }
  // Bytes that an object for the tensor takes.
  [[nodiscard]] static std::uint64_t memory(const TensorInfo& tensor, MomentForm moments = MomentForm::Whole);

 private:
  struct Lines {  // of one block
    float slope[kernels::kMostBlockWeights], base[kernels::kMostBlockWeights];
  };
  // `codes`: those of `block`, which is changed and put back.
  void find_lines(std::byte* block, const std::uint16_t* codes, Lines& lines) const;
  // The code nearest to the group's latents; of equally near ones `current`, else the lowest. `slack`: how
  // far the latents may move before another one can be nearer.
  [[nodiscard]] std::uint16_t nearest(const float* latents, std::uint16_t current, float& slack) const;
  [[nodiscard]] float level(std::uint16_t code, std::size_t i) const {
    return shape_->levels[code * shape_->group + i];
  }

  const kernels::RowKernels* rows_;
  const FormatTraits* format_;
  const kernels::CodeShape* shape_;
  // Of grids: elements of all vectors side by side, and half the squared lengths of the vectors.
  std::vector<float> across_, half_length_;
  std::vector<float> latent_, gradient_;
  Moments moments_;           // blocks are the format's
  std::vector<float> slack_;  // per group
  float longest_ = 0;         // no two levels or vectors are farther apart
};

}  // namespace quantfit::tuning
