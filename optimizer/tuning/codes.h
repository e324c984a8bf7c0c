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
  // `bytes`. `scales`: the gradients at the blocks' scales, kernels::block_scales() of each, are written
  // there, at scales and codes as they were; nothing where it is empty.
  void step(const StepRule& rule, std::uint64_t tokens, std::span<std::byte> bytes,
            std::span<double> scales = {});

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
  struct Grid;
  struct Lines {  // of one block
    float slope[kernels::kMostBlockWeights], base[kernels::kMostBlockWeights];
  };
  // `codes`: those of `block`.
  void find_lines(const std::byte* block, const std::uint16_t* codes, Lines& lines) const;
  // dL/ds_k of block b, with w = s_k u_k summed over k: what depends on s_k of each weight, over s_k. Formats
  // of two such numbers have the minimum in their bases alone.
  void scale_gradients(std::size_t b, const std::byte* block, const std::uint16_t* codes, const Lines& lines,
                       std::span<double> out) const;
  // The code nearest to the group's latents; of equally near ones `current`, else the lowest. `slack`: how
  // far the latents may move before another one can be nearer. Not for uniform levels.
  [[nodiscard]] std::uint16_t nearest(const float* latents, std::uint16_t current, float& slack) const;
  // The codes of a block nearest to its latents, in place; whether any has changed. round_moved() where
  // `change` has been added to the latents of the block whose groups begin at `first_group`.
  bool round_uniform(const float* latents, std::uint16_t* codes) const;
  bool round_moved(std::size_t first_group, const float* latents, const float* change, std::uint16_t* codes);
  [[nodiscard]] float level(std::uint16_t code, std::size_t i) const {
    return shape_->levels[code * shape_->group + i];
  }

  const kernels::RowKernels* rows_;
  const FormatTraits* format_;
  const kernels::CodeShape* shape_;
  const Grid* grid_ = nullptr;  // none where levels are uniform
  std::vector<float> latent_, gradient_;
  Moments moments_;           // blocks are the format's
  std::vector<float> slack_;  // per group; none where levels are uniform
};

}  // namespace quantfit::tuning
