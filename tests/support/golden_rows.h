// Rows that encoders are tested with: encoded and decoded again, and the golden rows with the errors of
// ggml's encoder.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "core/format.h"
#include "kernels/row_kernels.h"
#include "kernels/row_quantizer.h"
#include "tests/support/test_paths.h"

namespace quantfit::test {

struct EncodedRow {
  std::vector<std::byte> bytes;
  std::vector<float> values;  // decoded
  kernels::RowError error;
};

inline EncodedRow encode_row(const kernels::RowKernels& table, Format format, kernels::Effort effort,
                             std::span<const float> x, const kernels::ColumnMetric& metric) {
  kernels::RowQuantizer quantizer(table, x.size());
  EncodedRow encoded;
  const auto loaded = quantizer.load(Format::F32, std::as_bytes(x), metric);
  EXPECT_TRUE(loaded.has_value());
  if (!loaded) return encoded;
  encoded.bytes.resize(row_bytes(format, x.size()).value());
  quantizer.encode(format, effort, encoded.bytes.data());
  encoded.values.resize(x.size());
  table.decode[static_cast<std::size_t>(format)](encoded.bytes.data(), x.size(), encoded.values.data());
  encoded.error = quantizer.measure(format, encoded.bytes.data());
  return encoded;
}

// sum weights (x - y)^2 in binary64; no weights: all one.
inline double squared_error(std::span<const float> weights, std::span<const float> x,
                            std::span<const float> y) {
  double error = 0;
  for (std::size_t j = 0; j < x.size(); ++j) {
    const double e = double{x[j]} - double{y[j]};
    error += (weights.empty() ? 1.0 : double{weights[j]}) * e * e;
  }
  return error;
}

// A set of golden rows.
struct GoldenSet {
  std::vector<float> x;        // [rows][columns]
  std::vector<float> w;        // importances, [columns]
  std::vector<double> errors;  // of the reference, [types][3][rows]
  std::size_t columns = 0;
  std::size_t rows = 0;
  [[nodiscard]] std::span<const float> row(std::size_t r) const {
    return std::span(x).subspan(r * columns, columns);
  }
  // The importances, or nothing for unit weights.
  [[nodiscard]] std::span<const float> weights(bool weighted) const {
    return weighted ? std::span<const float>(w) : std::span<const float>();
  }
  [[nodiscard]] double error(std::size_t type, std::size_t mode, std::size_t r) const {
    return errors[(type * 3 + mode) * rows + r];
  }
  // The reference's error to reach: given the importances, or the better one of its two without.
  [[nodiscard]] double reference(std::size_t type, bool weighted, std::size_t r) const {
    return weighted ? error(type, 0, r) : std::fmin(error(type, 1, r), error(type, 2, r));
  }
};

inline GoldenSet read_golden(const std::filesystem::path& folder, const std::string& name) {
  GoldenSet set;
  set.x = read_array<float>(folder / (name + ".x.f32"));
  set.w = read_array<float>(folder / (name + ".w.f32"));
  set.errors = read_array<double>(folder / (name + ".errors.f64"));
  set.columns = set.w.size();
  set.rows = set.columns == 0 ? 0 : set.x.size() / set.columns;
  return set;
}

// Every golden row of hard cases against the reference's error, default effort and maximum. Ratios are judged
// to two decimals: 1.005 is allowed.
template <class Formats>
void expect_edge_rows_below_reference(const kernels::RowKernels& table, const Formats& formats) {
  const GoldenSet set = read_golden(data_dir() / "golden/encode", "edge");
  ASSERT_EQ(set.rows, 16U);
  for (const kernels::Effort effort : {kernels::Effort::Default, kernels::Effort::Max})
    for (const bool weighted : {true, false}) {
      const kernels::ColumnMetric metric(set.columns, set.weights(weighted), {}, 1);
      for (const auto& format : formats)
        for (std::size_t r = 0; r < set.rows; ++r) {
          const EncodedRow encoded = encode_row(table, format.format, effort, set.row(r), metric);
          // Below a millionth of a millionth of the row, only the last bits of the arithmetic differ.
          const double negligible =
              1e-12 * squared_error(set.weights(weighted), set.row(r), std::vector<float>(set.columns));
          EXPECT_LE(squared_error(set.weights(weighted), set.row(r), encoded.values),
                    set.reference(format.golden_index, weighted, r) * 1.005 + negligible)
              << name_of(format.format) << " row " << r << (weighted ? " weighted" : "")
              << (effort == kernels::Effort::Max ? " max" : " default");
        }
    }
}

}  // namespace quantfit::test
