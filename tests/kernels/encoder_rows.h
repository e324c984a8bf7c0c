// Rows that encoders are tested with: encoded and decoded again, and the golden rows with the errors of
// ggml's encoder.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "core/format.h"
#include "kernels/row_kernels.h"
#include "kernels/row_quantizer.h"
#include "tests/support/test_paths.h"

namespace quantfit::kernels {

struct EncodedRow {
  std::vector<std::byte> bytes;
  std::vector<float> values;  // decoded
  RowError error;
};

inline EncodedRow encode_row(const RowKernels& table, Format format, Effort effort, std::span<const float> x,
                             const ColumnMetric& metric) {
  RowQuantizer quantizer(table, x.size());
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

inline const RowKernels& best() {
  return runnable_kernels().front();
}
inline const RowKernels& scalar() {
  return runnable_kernels().back();
}

inline GoldenSet read_golden(const std::filesystem::path& folder, const std::string& name) {
  GoldenSet set;
  set.x = test::read_array<float>(folder / (name + ".x.f32"));
  set.w = test::read_array<float>(folder / (name + ".w.f32"));
  set.errors = test::read_array<double>(folder / (name + ".errors.f64"));
  set.columns = set.w.size();
  set.rows = set.columns == 0 ? 0 : set.x.size() / set.columns;
  return set;
}

// ---- Hard rows and all kinds of metrics
// ---------------------------------------------------------------------------------

struct NamedRow {
  std::string name;
  std::vector<float> x;
};

// Rows of every kind that has hurt an encoder somewhere.
inline std::vector<NamedRow> hard_rows(std::size_t columns) {
  std::mt19937 generator(7);
  std::normal_distribution<float> normal;
  std::student_t_distribution<float> student(3.0F);
  const auto random = [&](float scale) {
    std::vector<float> x(columns);
    for (float& v : x) v = scale * normal(generator);
    return x;
  };
  std::vector<NamedRow> rows;
  rows.push_back({"gaussian", random(0.02F)});
  std::vector<float> heavy(columns);
  for (float& v : heavy) v = 0.02F * student(generator);
  rows.push_back({"heavy tails", heavy});
  rows.push_back({"zeros", std::vector<float>(columns, 0.0F)});
  rows.push_back({"negative zeros", std::vector<float>(columns, -0.0F)});
  rows.push_back({"constant", std::vector<float>(columns, -0.3F)});
  rows.push_back({"subnormal", random(1e-40F)});
  rows.push_back({"below halves", random(1e-9F)});
  rows.push_back({"tiny", random(1e-7F)});
  rows.push_back({"large", random(6e4F)});
  rows.push_back({"beyond halves", random(1e6F)});
  rows.push_back({"huge", random(1e37F)});
  std::vector<float> spike(columns, 0.0F);
  spike[columns / 3] = 3.0F;
  rows.push_back({"spike", spike});
  std::vector<float> spike_in_noise = random(1e-3F);
  spike_in_noise[columns - 5] = -40.0F;
  rows.push_back({"spike in noise", spike_in_noise});
  std::vector<float> offset = random(1e-3F);
  for (float& v : offset) v += 0.3F;
  rows.push_back({"offset", offset});
  std::vector<float> half_zero = random(1.0F);
  std::fill(half_zero.begin(), half_zero.begin() + static_cast<std::ptrdiff_t>(columns / 2), 0.0F);
  rows.push_back({"half zero", half_zero});
  std::vector<float> mixed = random(1.0F);
  for (std::size_t j = 0; j < columns; ++j)
    mixed[j] *= std::ldexp(1.0F, static_cast<int>(j / 16 % 16) * 2 - 24);
  rows.push_back({"scales apart", mixed});
  return rows;
}

struct NamedMetric {
  std::string name;
  ColumnMetric metric;
};

// Second moments over two decades, means that make up about a tenth of them.
inline void draw_inputs(std::size_t columns, std::uint32_t seed, std::vector<float>& a,
                        std::vector<float>& m) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  a.resize(columns);
  m.resize(columns);
  for (std::size_t j = 0; j < columns; ++j) {
    a[j] = std::exp(1.2F * normal(generator));
    m[j] = std::clamp(0.3F * normal(generator), -0.95F, 0.95F) * std::sqrt(a[j]);
  }
}

inline std::vector<NamedMetric> metrics(std::size_t columns) {
  std::vector<float> a;
  std::vector<float> m;
  draw_inputs(columns, 11, a, m);
  std::vector<float> sparse(columns, 0.0F);
  std::vector<float> constant_input = m;
  for (std::size_t j = 0; j < columns; ++j)
    if (j % 3 == 0) sparse[j] = a[j];
  constant_input[columns / 2] = std::sqrt(a[columns / 2]);  // no variance at all: errors there are bias alone
  std::vector<NamedMetric> list;
  list.push_back({"unit", ColumnMetric(columns, {}, {}, 1)});
  list.push_back({"importance", ColumnMetric(columns, a, {}, 1)});
  list.push_back({"row sums", ColumnMetric(columns, a, m, 3)});
  list.push_back({"constant input", ColumnMetric(columns, a, constant_input, 1)});
  list.push_back({"gain", ColumnMetric(columns, a, {}, 4)});
  list.push_back({"zero importance in places", ColumnMetric(columns, sparse, {}, 2)});
  list.push_back({"zero importance", ColumnMetric(columns, std::vector<float>(columns, 0.0F), {}, 2)});
  return list;
}

}  // namespace quantfit::kernels
