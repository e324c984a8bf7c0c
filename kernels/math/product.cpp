// Matrix products with weights in any format, their gradient, and sums of outer products.
//
// A call makes one tile of the result. Per block of 256 terms the weights are decoded once into a panel of
// binary32, which stays in the second-level cache; then 32 tokens at a time are transposed into a panel (32
// KiB, near the core) that meets all rows of weights. The tile's sums lie transposed in scratch until the
// last block.

#include "kernels/instruction_set.h"
// First: it decides which instruction set the following headers are compiled for.
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
// Rows of the tile's sums per group of tokens; the last tiles of a product write a few too many.
HWY_INLINE std::size_t padded_outputs(std::size_t outputs) {
  return round_up(outputs, kPanelRowPadding);
}

// `rows` rows of `columns` weights from column `first` on.
HWY_INLINE void decode_panel(const WeightRows& w, std::size_t first_row, std::size_t rows, std::size_t first,
                             std::size_t columns, float* panel) {
  const std::byte* from = w.data + first_row * w.row_bytes + first / w.block_columns * w.block_bytes;
  for (std::size_t j = 0; j < rows; ++j) w.decode(from + j * w.row_bytes, columns, panel + j * kPanelStride);
}

// The tokens of group g.
HWY_INLINE std::size_t group_size(std::size_t tokens, std::size_t g) {
  return std::min(kPanelLanes, tokens - g * kPanelLanes);
}

// 32 values; fewer are as if zeros followed.
HWY_INLINE void round_block32(const float* x, std::size_t n, float* out) {
  const F low = load_first(x, n), high = n > 16 ? load_first(x + 16, n - 16) : zero();
  const float most = max_lane(max(abs(low), abs(high)));
  const F inverse = set(most == 0 ? 0.0F : 127.0F / most), unit = set(round_to_half(most / 127.0F));
  store_first(round(low * inverse) * unit, out, n);
  if (n > 16) store_first(round(high * inverse) * unit, out + 16, n - 16);
}

// Up to 256 values.
HWY_INLINE void round_block256(const float* x, std::size_t n, float* out) {
  F largest = zero();
  for (std::size_t i = 0; i < n; i += 16) largest = max(largest, abs(load_first(x + i, n - i)));
  const float most = max_lane(largest);
  std::size_t at = 0;
  while (at + 1 < n && std::fabs(x[at]) != most) ++at;
  const float inverse = most == 0 ? 0.0F : -127.0F / x[at];
  const F scale = set(inverse), unit = set(most == 0 ? 0.0F : 1.0F / inverse), top = set(127.0F);
  for (std::size_t i = 0; i < n; i += 16)
    store_first(min(top, round(load_first(x + i, n - i) * scale)) * unit, out + i, n - i);
}

// `rows` rows of up to kBlock values, a whole block of the product, one after another in `out`.
HWY_INLINE void round_activations(ActivationRounding rounding, const float* x, std::size_t stride,
                                  std::size_t rows, std::size_t columns, float* out) {
  for (std::size_t t = 0; t < rows; ++t) {
    const float* from = x + t * stride;
    float* to = out + t * kBlock;
    switch (rounding) {
      case ActivationRounding::None:
        std::memcpy(to, from, columns * sizeof(float));
        break;
      case ActivationRounding::Half:
        for (std::size_t i = 0; i < columns; ++i) to[i] = round_to_half(from[i]);
        break;
      case ActivationRounding::Bfloat16:
        for (std::size_t i = 0; i < columns; ++i) to[i] = bfloat16_to_float(float_to_bfloat16(from[i]));
        break;
      case ActivationRounding::Blocks32:
        for (std::size_t i = 0; i < columns; i += 32)
          round_block32(from + i, std::min<std::size_t>(32, columns - i), to + i);
        break;
      case ActivationRounding::Blocks256:
        round_block256(from, columns, to);
        break;
    }
  }
}

void product(MatrixView<const float> x, const WeightRows& w, MatrixView<float> y, bool add, float* scratch) {
  if (x.rows == 0 || w.rows == 0) return;
  const std::size_t outputs = padded_outputs(w.rows);
  const std::size_t groups = round_up(x.rows, kPanelLanes) / kPanelLanes;
  float* packed = scratch;
  float* rounded = packed + kBlock * kPanelLanes;
  float* panel = rounded + kBlock * kPanelLanes;
  float* sums = panel + kPanelStride * outputs;
  // The rows that only pad the last tile.
  std::fill(panel + w.rows * kPanelStride, sums, 0.0F);
  if (w.columns == 0) std::fill(sums, sums + groups * outputs * kPanelLanes, 0.0F);
  for (std::size_t k = 0; k < w.columns; k += kBlock) {
    const std::size_t steps = std::min(kBlock, w.columns - k);
    decode_panel(w, 0, w.rows, k, steps, panel);
    for (std::size_t g = 0; g < groups; ++g) {
      const std::size_t tokens = group_size(x.rows, g);
      if (w.rounding == ActivationRounding::None) {
        pack_transposed(x.row(g * kPanelLanes) + k, x.stride, tokens, steps, packed);
      } else {
        round_activations(w.rounding, x.row(g * kPanelLanes) + k, x.stride, tokens, steps, rounded);
        pack_transposed(rounded, kBlock, tokens, steps, packed);
      }
      panel_product<kPanelStride, 1>(w.rows, tokens, steps, panel, packed, k > 0,
                                     sums + g * outputs * kPanelLanes);
    }
  }
  for (std::size_t g = 0; g < groups; ++g)
    unpack_transposed(sums + g * outputs * kPanelLanes, group_size(x.rows, g), w.rows, add,
                      y.row(g * kPanelLanes), y.stride);
}

// kProductColumns columns or fewer, see product_backward.
HWY_INLINE void backward_columns(MatrixView<const float> dy, const WeightRows& w, std::size_t first_column,
                                 MatrixView<float> dx, bool add, float* scratch) {
  const std::size_t columns = kProductColumns + kPanelRowPadding;
  const std::size_t groups = round_up(dy.rows, kPanelLanes) / kPanelLanes;
  float* packed = scratch;
  float* panel = packed + kBlock * kPanelLanes;  // one panel per block of columns
  float* sums = panel + kPanelStride * kProductColumns + kPanelRowPadding;
  if (w.rows == 0) std::fill(sums, sums + groups * columns * kPanelLanes, 0.0F);
  for (std::size_t j = 0; j < w.rows; j += kBlock) {
    const std::size_t steps = std::min(kBlock, w.rows - j);
    for (std::size_t k = 0; k < dx.columns; k += kBlock)
      decode_panel(w, j, steps, first_column + k, std::min(kBlock, dx.columns - k), panel + k * kPanelStride);
    for (std::size_t g = 0; g < groups; ++g) {
      const std::size_t tokens = group_size(dy.rows, g);
      pack_transposed(dy.row(g * kPanelLanes) + j, dy.stride, tokens, steps, packed);
      for (std::size_t k = 0; k < dx.columns; k += kBlock)
        panel_product<1, kPanelStride>(std::min(kBlock, dx.columns - k), tokens, steps,
                                       panel + k * kPanelStride, packed, j > 0,
                                       sums + (g * columns + k) * kPanelLanes);
    }
  }
  for (std::size_t g = 0; g < groups; ++g)
    unpack_transposed(sums + g * columns * kPanelLanes, group_size(dy.rows, g), dx.columns, add,
                      dx.row(g * kPanelLanes), dx.stride);
}

void product_backward(MatrixView<const float> dy, const WeightRows& w, std::size_t first_column,
                      MatrixView<float> dx, bool add, float* scratch) {
  if (dy.rows == 0) return;
  for (std::size_t k = 0; k < dx.columns; k += kProductColumns) {
    const MatrixView<float> part{dx.data + k, dx.rows, std::min(kProductColumns, dx.columns - k), dx.stride};
    backward_columns(dy, w, first_column + k, part, add, scratch);
  }
}

// `steps` rows of up to 32 values, zeros beyond.
HWY_INLINE void pack_rows(MatrixView<const float> b, std::size_t first_row, std::size_t steps,
                          std::size_t column, std::size_t width, float* to) {
  for (std::size_t s = 0; s < steps; ++s) {
    const float* from = b.row(first_row + s) + column;
    store(load_first(from, width), to + s * kPanelLanes);
    store(width > 16 ? load_first(from + 16, width - 16) : zero(), to + s * kPanelLanes + 16);
  }
}

// c[i][j] += from[i * 32 + j].
HWY_INLINE void add_strip(const float* from, std::size_t rows, std::size_t width, float* c,
                          std::size_t stride) {
  for (std::size_t i = 0; i < rows; ++i) {
    float* to = c + i * stride;
    store_first(load_first(to, width) + load(from + i * kPanelLanes), to, width);
    if (width > 16)
      store_first(load_first(to + 16, width - 16) + load(from + i * kPanelLanes + 16), to + 16, width - 16);
  }
}

void add_outer_products(MatrixView<const float> a, MatrixView<const float> b, MatrixView<float> c,
                        float* scratch) {
  float* packed = scratch;
  float* panel = packed + kBlock * kPanelLanes;
  float* sums = panel + kPanelStride * kBlock + kPanelRowPadding;
  for (std::size_t t = 0; t < a.rows; t += kBlock) {
    const std::size_t steps = std::min(kBlock, a.rows - t);
    for (std::size_t i = 0; i < a.columns; i += kBlock) {
      const std::size_t rows = std::min(kBlock, a.columns - i);
      for (std::size_t s = 0; s < steps; ++s)
        std::memcpy(panel + s * kPanelStride, a.row(t + s) + i, rows * sizeof(float));
      for (std::size_t j = 0; j < b.columns; j += kPanelLanes) {
        const std::size_t width = std::min(kPanelLanes, b.columns - j);
        pack_rows(b, t, steps, j, width, packed);
        panel_product<1, kPanelStride>(rows, width, steps, panel, packed, false, sums);
        add_strip(sums, rows, width, c.row(i) + j, c.stride);
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
