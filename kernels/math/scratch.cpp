// How much scratch the operations need; the same on every instruction set.

#include "kernels/math/attention_layout.h"
#include "kernels/math/math_kernels.h"
#include "kernels/math/recurrence_layout.h"

namespace quantfit::kernels {

std::size_t attention_scratch(const AttentionShape& shape) {
  namespace layout = attention_layout;
  return (layout::padded_dim(shape.key_dim) + layout::padded_dim(shape.value_dim)) * layout::kPanelLanes +
         layout::kTileFloats + layout::kScoreFloats;
}

std::size_t attention_backward_scratch(const AttentionShape& shape) {
  namespace layout = attention_layout;
  const std::size_t panel_floats = layout::kPanelLanes * layout::kPanelLanes;
  const auto panels = [](std::size_t dim) { return (dim + layout::kPanelLanes - 1) / layout::kPanelLanes; };
  return (2 * layout::padded_dim(shape.key_dim) + layout::padded_dim(shape.value_dim)) * layout::kPanelLanes +
         (panels(shape.key_dim) + panels(shape.value_dim)) * panel_floats + 2 * layout::kTileFloats +
         3 * layout::kScoreFloats;
}

std::size_t delta_net_scratch(const DeltaNetShape& shape) {
  const std::size_t width = (shape.value_dim + 15) / 16 * 16;
  return shape.key_dim * width + (shape.key_dim + 15) / 16 * 16 + width;
}

std::size_t delta_net_backward_scratch(const DeltaNetShape& shape) {
  namespace layout = recurrence_layout;
  const std::size_t width = layout::padded(shape.value_dim);
  const std::size_t blocks = (shape.tokens + layout::kBlock - 1) / layout::kBlock;
  return (blocks + layout::kBlock + 2) * shape.key_dim * width +
         layout::kBlock * (layout::padded(shape.key_dim) + width) + 2 * width;
}

std::size_t mamba2_scratch(const Mamba2Shape& shape) {
  return shape.state_dim * ((shape.head_dim + 15) / 16 * 16);
}

std::size_t mamba2_backward_scratch(const Mamba2Shape& shape) {
  namespace layout = recurrence_layout;
  const std::size_t width = layout::padded(shape.head_dim);
  const std::size_t blocks = (shape.tokens + layout::kBlock - 1) / layout::kBlock;
  return (blocks + layout::kBlock + 2) * shape.state_dim * width + 3 * width;
}

}  // namespace quantfit::kernels
