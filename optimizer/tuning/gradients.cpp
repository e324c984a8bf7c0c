#include "optimizer/tuning/gradients.h"

#include <tbb/parallel_for.h>

#include <algorithm>
#include <array>

#include "kernels/block_scales.h"

namespace quantfit::tuning {
namespace {

using kernels::MatrixView;

// A tile of a matrix of gradients; blocks of every format end at multiples of 256 columns.
constexpr std::size_t kTileRows = 128;
constexpr std::size_t kTileColumns = kernels::kProductBlock;

}  // namespace

GradientCollector::GradientCollector(const kernels::MathKernels& math, const kernels::RowKernels& rows,
                                     Parameters& parameters, std::span<const std::uint32_t> windows)
    : math_(&math), rows_(&rows), parameters_(&parameters) {
  std::uint64_t end = 0;
  for (const std::uint32_t length : windows) window_ends_.push_back(end += length);
}

std::vector<GradientCollector::Rows> GradientCollector::rows_by_window(
    const engine::MatrixGradient& g) const {
  std::vector<Rows> out;
  const std::size_t rows = g.output_gradient.rows;
  const auto token = [&](std::size_t row) {
    return g.first_token + (g.tokens.empty() ? row : g.tokens[row]);
  };
  for (std::size_t row = 0; row < rows;) {
    const std::uint64_t end = *std::ranges::upper_bound(window_ends_, token(row));
    std::size_t next = row;
    while (next < rows && token(next) < end) ++next;
    out.push_back({row, next - row});
    row = next;
  }
  return out;
}

void GradientCollector::decode_unit(Format format, std::span<const std::byte> blocks, std::size_t k,
                                    std::vector<std::byte>& bytes, float* out) const {
  const FormatTraits& one = traits(format);
  bytes.assign(blocks.begin(), blocks.end());
  const std::size_t count = blocks.size() / one.block_bytes;
  for (std::size_t b = 0; b < count; ++b)
    for (std::size_t other = 0; other < kernels::block_scales(format); ++other)
      kernels::set_block_scale(format, bytes.data() + b * one.block_bytes, other, other == k ? 1.0F : 0.0F);
  rows_->decode[static_cast<std::size_t>(format)](bytes.data(), count * one.block_len, out);
}

Result<void> GradientCollector::gradient(const engine::MatrixGradient& g) {
  const std::vector<Rows> windows = rows_by_window(g);
  add_bias(g, windows);
  if (Parameter* parameter = parameters_->find(g.matrix->tensor)) add_matrix(g, windows, *parameter);
  return outcome::success();
}

void GradientCollector::add_bias(const engine::MatrixGradient& g, std::span<const Rows> windows) {
  // With a factor of the product the bias comes after it, and this gradient before it.
  if (g.matrix->bias == nullptr || g.matrix->scale != nullptr) return;
  Parameter* parameter = parameters_->find(g.matrix->bias);
  if (parameter == nullptr) return;
  double* sum = parameter->gradient.data() + std::size_t{g.index} * g.matrix->rows + g.first_row;
  for (const Rows& window : windows)
    for (std::size_t t = window.first; t < window.first + window.count; ++t)
      for (std::size_t o = 0; o < g.output_gradient.columns; ++o)
        sum[o] += static_cast<double>(g.output_gradient.row(t)[o]);
}

void GradientCollector::add_matrix(const engine::MatrixGradient& g, std::span<const Rows> windows,
                                   Parameter& parameter) {
  const TensorInfo& tensor = *parameter.tensor;
  const FormatTraits& format = traits(tensor.format);
  const std::size_t outputs = g.output_gradient.columns, columns = g.matrix->columns;
  const std::size_t row_bytes = columns / format.block_len * format.block_bytes;
  const std::size_t row_blocks = columns / format.block_len;
  const std::size_t scales = kernels::block_scales(tensor.format);
  const std::size_t first_row = std::size_t{g.index} * g.matrix->rows + g.first_row;
  const std::size_t tiles_across = (columns + kTileColumns - 1) / kTileColumns;
  const std::size_t tiles_down = (outputs + kTileRows - 1) / kTileRows;
  tbb::parallel_for(std::size_t{0}, tiles_across * tiles_down, [&](std::size_t tile) {
    const std::size_t row = tile / tiles_across * kTileRows, column = tile % tiles_across * kTileColumns;
    const std::size_t rows = std::min(kTileRows, outputs - row);
    const std::size_t width = std::min(kTileColumns, columns - column);
    Scratch& scratch = scratch_.local();
    scratch.products.resize(kernels::product_scratch(0, kernels::kProductColumns));
    const auto add_window = [&](const Rows& window, MatrixView<float> sum) {
      math_->add_outer_products(
          {g.output_gradient.row(window.first) + row, window.count, rows, g.output_gradient.stride},
          {g.input.row(window.first) + column, window.count, width, g.input.stride}, sum,
          scratch.products.data());
    };
    if (parameter.codes) {
      float* weights = parameter.codes->gradient().data() + (first_row + row) * columns + column;
      for (const Rows& window : windows) add_window(window, {weights, rows, width, columns});
      return;
    }
    scratch.outer.resize(kTileRows * kTileColumns);
    const MatrixView<float> outer{scratch.outer.data(), rows, width, width};
    const bool values = parameter.kind == Parameter::Kind::Values;
    if (!values) {
      scratch.units.resize(scales * rows * width);
      for (std::size_t r = 0; r < rows; ++r) {
        const std::span<const std::byte> blocks(parameter.bytes.data() + (first_row + row + r) * row_bytes +
                                                    column / format.block_len * format.block_bytes,
                                                width / format.block_len * format.block_bytes);
        for (std::size_t k = 0; k < scales; ++k)
          decode_unit(tensor.format, blocks, k, scratch.bytes,
                      scratch.units.data() + (r * scales + k) * width);
      }
    }
    for (const Rows& window : windows) {
      std::fill_n(outer.data, rows * width, 0.0F);
      add_window(window, outer);
      for (std::size_t r = 0; r < rows; ++r) {
        if (values) {
          double* sum = parameter.gradient.data() + (first_row + row + r) * columns + column;
          for (std::size_t i = 0; i < width; ++i) sum[i] += static_cast<double>(outer.row(r)[i]);
          continue;
        }
        double* sum = parameter.gradient.data() +
                      ((first_row + row + r) * row_blocks + column / format.block_len) * scales;
        for (std::size_t b = 0; b < width / format.block_len; ++b)
          for (std::size_t k = 0; k < scales; ++k)
            sum[b * scales + k] += static_cast<double>(math_->dot(
                outer.row(r) + b * format.block_len,
                scratch.units.data() + (r * scales + k) * width + b * format.block_len, format.block_len));
      }
    }
  });
}

Result<void> GradientCollector::lookup(const engine::LookupGradient& g) {
  Parameter* parameter = parameters_->find(g.tensor);
  if (parameter == nullptr || parameter->kind != Parameter::Kind::Scales) return outcome::success();
  const FormatTraits& format = traits(g.tensor->format);
  const std::size_t columns = g.tensor->ne[0], row_blocks = columns / format.block_len;
  if (parameter->codes) {
    for (std::size_t t = 0; t < g.tokens.size(); ++t) {
      float* weights = parameter->codes->gradient().data() + static_cast<std::size_t>(g.tokens[t]) * columns +
                       g.first_column;
      for (std::size_t i = 0; i < g.gradient.columns; ++i) weights[i] += g.gradient.row(t)[i];
    }
    return outcome::success();
  }
  const std::size_t row_bytes = row_blocks * format.block_bytes;
  const std::size_t scales = kernels::block_scales(g.tensor->format);
  // First every token for itself, then added up in their order: tokens repeat.
  std::vector<double> shares(g.tokens.size() * row_blocks * scales, 0.0);
  tbb::parallel_for(std::size_t{0}, g.tokens.size(), [&](std::size_t t) {
    Scratch& scratch = scratch_.local();
    scratch.units.resize(std::max(scratch.units.size(), columns));
    const std::span<const std::byte> row(
        parameter->bytes.data() + static_cast<std::size_t>(g.tokens[t]) * row_bytes, row_bytes);
    for (std::size_t k = 0; k < scales; ++k) {
      decode_unit(g.tensor->format, row, k, scratch.bytes, scratch.units.data());
      for (std::size_t i = 0; i < g.gradient.columns; ++i) {
        const std::size_t column = g.first_column + i;
        shares[(t * row_blocks + column / format.block_len) * scales + k] +=
            static_cast<double>(g.gradient.row(t)[i]) * static_cast<double>(scratch.units[column]);
      }
    }
  });
  for (std::size_t t = 0; t < g.tokens.size(); ++t) {
    double* sum = parameter->gradient.data() + static_cast<std::size_t>(g.tokens[t]) * row_blocks * scales;
    for (std::size_t b = 0; b < row_blocks * scales; ++b) sum[b] += shares[t * row_blocks * scales + b];
  }
  return outcome::success();
}

Result<void> GradientCollector::parameter(std::uint32_t, const TensorInfo& tensor,
                                          std::span<const double> gradient) {
  if (Parameter* parameter = parameters_->find(&tensor))
    for (std::size_t i = 0; i < gradient.size(); ++i) parameter->gradient[i] += gradient[i];
  return outcome::success();
}

}  // namespace quantfit::tuning
