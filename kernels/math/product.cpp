// Matrix products with weights in any format, their gradient, and sums of outer products.
//
// A call makes one tile of the result. Per block of 256 terms the weights are decoded once into a panel of
// binary32 (rows of 1 KiB, so that twelve of them fall into different sets of the first-level cache), the
// activations are transposed once into panels of 32 tokens; both are then used for the whole tile. A panel of
// tokens (32 KiB) stays near the core while all rows of weights go by. The tile's sums lie transposed in
// scratch until the last block.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/math/product.cpp"
#include <hwy/foreach_target.h>
// foreach_target first: it decides which targets the following headers are compiled for.
#include "kernels/lanes-inl.h"
#include "kernels/math/panel-inl.h"
#include "kernels/math/rows-inl.h"
#include "kernels/math/targets.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {
namespace {

constexpr std::size_t kBlock = kProductBlock;

HWY_INLINE std::size_t round_up(std::size_t n, std::size_t unit) {
  return (n + unit - 1) / unit * unit;
}

// `rows` rows of `columns` weights from column `first` on, rows of the panel kBlock apart.
HWY_INLINE void decode_panel(const WeightRows& w, std::size_t first_row, std::size_t rows, std::size_t first,
                             std::size_t columns, float* panel) {
  const std::byte* from = w.data + first_row * w.row_bytes + first / w.block_columns * w.block_bytes;
  for (std::size_t j = 0; j < rows; ++j) w.decode(from + j * w.row_bytes, columns, panel + j * kBlock);
}

void product(MatrixView<const float> x, const WeightRows& w, MatrixView<float> y, bool add, float* scratch) {
  if (x.rows == 0 || w.rows == 0) return;
  const std::size_t padded_rows = round_up(w.rows, 48);
  const std::size_t groups = round_up(x.rows, kPanelLanes) / kPanelLanes;
  float* panel = scratch;
  float* packed = panel + kBlock * padded_rows;
  float* sums = packed + kBlock * kPanelLanes * groups;
  // The rows that only pad the last tile.
  std::fill(panel + w.rows * kBlock, panel + round_up(w.rows, kPanelRowPadding) * kBlock, 0.0F);
  if (w.columns == 0) std::fill(sums, sums + groups * padded_rows * kPanelLanes, 0.0F);
  for (std::size_t k = 0; k < w.columns; k += kBlock) {
    const std::size_t steps = std::min(kBlock, w.columns - k);
    decode_panel(w, 0, w.rows, k, steps, panel);
    for (std::size_t g = 0; g < groups; ++g) {
      const std::size_t tokens = std::min(kPanelLanes, x.rows - g * kPanelLanes);
      float* columns = packed + g * kBlock * kPanelLanes;
      pack_transposed(x.row(g * kPanelLanes) + k, x.stride, tokens, steps, columns);
      panel_product<kBlock, 1>(w.rows, tokens, steps, panel, columns, k > 0,
                               sums + g * padded_rows * kPanelLanes);
    }
  }
  for (std::size_t g = 0; g < groups; ++g) {
    const std::size_t tokens = std::min(kPanelLanes, x.rows - g * kPanelLanes);
    unpack_transposed(sums + g * padded_rows * kPanelLanes, tokens, w.rows, add, y.row(g * kPanelLanes),
                      y.stride);
  }
}

// kBlock columns or fewer, see product_backward.
HWY_INLINE void backward_columns(MatrixView<const float> dy, const WeightRows& w, std::size_t first_column,
                                 MatrixView<float> dx, bool add, float* scratch) {
  const std::size_t padded_columns = round_up(kBlock, 48);
  const std::size_t groups = round_up(dy.rows, kPanelLanes) / kPanelLanes;
  float* panel = scratch;
  float* packed = panel + kBlock * padded_columns;
  float* sums = packed + kBlock * kPanelLanes * groups;
  std::fill(panel + kBlock * kBlock, packed, 0.0F);
  if (w.rows == 0) std::fill(sums, sums + groups * padded_columns * kPanelLanes, 0.0F);
  for (std::size_t j = 0; j < w.rows; j += kBlock) {
    const std::size_t steps = std::min(kBlock, w.rows - j);
    decode_panel(w, j, steps, first_column, dx.columns, panel);
    for (std::size_t g = 0; g < groups; ++g) {
      const std::size_t tokens = std::min(kPanelLanes, dy.rows - g * kPanelLanes);
      float* columns = packed + g * kBlock * kPanelLanes;
      pack_transposed(dy.row(g * kPanelLanes) + j, dy.stride, tokens, steps, columns);
      panel_product<1, kBlock>(dx.columns, tokens, steps, panel, columns, j > 0,
                               sums + g * padded_columns * kPanelLanes);
    }
  }
  for (std::size_t g = 0; g < groups; ++g) {
    const std::size_t tokens = std::min(kPanelLanes, dy.rows - g * kPanelLanes);
    unpack_transposed(sums + g * padded_columns * kPanelLanes, tokens, dx.columns, add,
                      dx.row(g * kPanelLanes), dx.stride);
  }
}

void product_backward(MatrixView<const float> dy, const WeightRows& w, std::size_t first_column,
                      MatrixView<float> dx, bool add, float* scratch) {
  if (dy.rows == 0) return;
  for (std::size_t k = 0; k < dx.columns; k += kBlock) {
    const MatrixView<float> part{dx.data + k, dx.rows, std::min(kBlock, dx.columns - k), dx.stride};
    backward_columns(dy, w, first_column + k, part, add, scratch);
  }
}

void add_outer_products(MatrixView<const float> a, MatrixView<const float> b, MatrixView<float> c,
                        float* scratch) {
  const std::size_t groups = round_up(b.columns, kPanelLanes) / kPanelLanes;
  float* panel = scratch;
  float* sums = panel + kBlock * kBlock + kPanelRowPadding;
  float* packed = scratch + kBlock * round_up(kBlock, 48);
  for (std::size_t t = 0; t < a.rows; t += kBlock) {
    const std::size_t steps = std::min(kBlock, a.rows - t);
    for (std::size_t g = 0; g < groups; ++g) {
      const std::size_t width = std::min(kPanelLanes, b.columns - g * kPanelLanes);
      float* to = packed + g * kBlock * kPanelLanes;
      for (std::size_t s = 0; s < steps; ++s) {
        const float* from = b.row(t + s) + g * kPanelLanes;
        store(load_first(from, std::min<std::size_t>(width, 16)), to + s * kPanelLanes);
        store(width > 16 ? load_first(from + 16, width - 16) : zero(), to + s * kPanelLanes + 16);
      }
    }
    for (std::size_t i = 0; i < a.columns; i += kBlock) {
      const std::size_t rows = std::min(kBlock, a.columns - i);
      for (std::size_t s = 0; s < steps; ++s)
        std::memcpy(panel + s * kBlock, a.row(t + s) + i, rows * sizeof(float));
      for (std::size_t g = 0; g < groups; ++g) {
        const std::size_t width = std::min(kPanelLanes, b.columns - g * kPanelLanes);
        // Tiles of 12 rows: few enough to stay in the first-level cache on their way into c.
        for (std::size_t r = 0; r < rows; r += kPanelRowPadding) {
          const std::size_t height = std::min(kPanelRowPadding, rows - r);
          panel_product<1, kBlock>(height, width, steps, panel + r, packed + g * kBlock * kPanelLanes, false,
                                   sums);
          for (std::size_t e = 0; e < height; ++e) {
            float* to = c.row(i + r + e) + g * kPanelLanes;
            const float* from = sums + e * kPanelLanes;
            const std::size_t low = std::min<std::size_t>(width, 16);
            store_first(load_first(to, low) + load(from), to, low);
            if (width > 16)
              store_first(load_first(to + 16, width - 16) + load(from + 16), to + 16, width - 16);
          }
        }
      }
    }
  }
}

template <bool kSquared>
void add_columns(MatrixView<const float> x, double* total) {
  for (std::size_t c = 0; c < x.columns; c += 16) {
    const std::size_t width = std::min<std::size_t>(16, x.columns - c);
    for (std::size_t t = 0; t < x.rows; t += kBlock) {
      const std::size_t end = std::min(x.rows, t + kBlock);
      F block = zero();
      for (std::size_t s = t; s < end; ++s) {
        const F value = load_first(x.row(s) + c, width);
        block = kSquared ? fma(value, value, block) : block + value;
      }
      HWY_ALIGN float lanes[16];
      store(block, lanes);
      for (std::size_t l = 0; l < width; ++l) total[c + l] += static_cast<double>(lanes[l]);
    }
  }
}

}  // namespace

void fill_products(MathKernels& table) {
  table.product = product;
  table.product_backward = product_backward;
  table.add_outer_products = add_outer_products;
  table.add_column_sums = add_columns<false>;
  table.add_column_squares = add_columns<true>;
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
QF_DEFINE_MATH_FILL(fill_products)
#endif
