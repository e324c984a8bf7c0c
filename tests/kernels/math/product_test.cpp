// Matrix products in every direction, with weights in several formats: the stated order of summation to the
// bit, double precision within the bound, and the same bytes however a product is cut.

#include <algorithm>

#include "core/format.h"
#include "kernels/half.h"
#include "tests/kernels/math/math_test_support.h"

namespace quantfit::kernels::math_test {
namespace {

// A weight matrix stored in `format`, and what it decodes to.
struct StoredWeights {
  std::vector<std::byte> bytes;
  Floats values;  // row by row
  WeightRows rows;
};

StoredWeights store_weights(Format format, std::size_t rows, std::size_t columns, Random& random) {
  const FormatTraits& format_traits = traits(format);
  StoredWeights stored;
  const std::size_t row_bytes = columns / format_traits.block_len * format_traits.block_bytes;
  stored.bytes.resize(rows * row_bytes);
  if (format == Format::F32) {
    const Floats values = random.values(rows * columns);
    std::memcpy(stored.bytes.data(), values.data(), stored.bytes.size());
  } else {
    // Bytes below 0x3C give halves of moderate size and any codes.
    for (std::byte& byte : stored.bytes) byte = static_cast<std::byte>(random.below(0x3C));
  }
  stored.rows = {stored.bytes.data(),
                 rows,
                 columns,
                 row_bytes,
                 format_traits.block_len,
                 format_traits.block_bytes,
                 runnable_kernels().back().decode[static_cast<std::size_t>(format)]};
  stored.values.resize(rows * columns);
  for (std::size_t j = 0; j < rows; ++j)
    stored.rows.decode(stored.bytes.data() + j * row_bytes, columns, stored.values.data() + j * columns);
  return stored;
}

// Blocks of 256 terms by fused multiply-adds from zero, the blocks added in order.
template <class Left, class Right>
float ordered_sum(std::size_t terms, const Left& left, const Right& right) {
  float total = 0.0F;
  for (std::size_t first = 0; first < terms; first += kProductBlock) {
    float block = 0.0F;
    for (std::size_t k = first; k < std::min(terms, first + kProductBlock); ++k)
      block = std::fma(left(k), right(k), block);
    total = first == 0 ? block : total + block;
  }
  return total;
}

struct ProductCase {
  Format format;
  std::size_t tokens, outputs, columns;
};
const ProductCase kCases[] = {
    {Format::F32, 1, 1, 1},      {Format::F32, 5, 7, 3},        {Format::F32, 33, 29, 259},
    {Format::F32, 70, 50, 600},  {Format::F16, 16, 12, 256},    {Format::BF16, 17, 13, 300},
    {Format::Q8_0, 40, 25, 288}, {Format::Q4_K, 34, 31, 512},   {Format::IQ4_NL, 3, 61, 64},
    {Format::Q6_K, 64, 24, 256}, {Format::IQ2_XXS, 31, 37, 256}};

TEST(ProductTest, ForwardFollowsItsOrderOfSummation) {
  Random random(11);
  for (const ProductCase& c : kCases) {
    const StoredWeights w = store_weights(c.format, c.outputs, c.columns, random);
    const std::size_t x_stride = c.columns + 3;
    const std::size_t y_stride = c.outputs + 2;
    const Floats x = random.values(c.tokens * x_stride);
    const Floats before = random.values(c.tokens * y_stride);
    for (const bool add : {false, true}) {
      const Floats y = on_every_isa([&](const MathKernels& math) {
        Floats out = before;
        Scratch scratch(product_scratch(c.tokens, c.outputs));
        math.product({x.data(), c.tokens, c.columns, x_stride}, w.rows,
                     {out.data(), c.tokens, c.outputs, y_stride}, add, scratch.data());
        return out;
      });
      Floats expected = before;
      for (std::size_t t = 0; t < c.tokens; ++t) {
        for (std::size_t j = 0; j < c.outputs; ++j) {
          const float sum = ordered_sum(
              c.columns, [&](std::size_t k) { return x[t * x_stride + k]; },
              [&](std::size_t k) { return w.values[j * c.columns + k]; });
          float& out = expected[t * y_stride + j];
          out = add ? out + sum : sum;
        }
      }
      ASSERT_EQ(y, expected) << traits(c.format).name << " " << c.tokens << "x" << c.outputs << "x"
                             << c.columns;
    }
  }
}

// The roundings, written down once more from their definitions.
float naive_rounding(ActivationRounding rounding, const Floats& row, std::size_t k, std::size_t columns) {
  const auto largest = [&](std::size_t size) {
    float most = 0;  // signed, the first of the largest magnitude
    for (std::size_t i = k / size * size; i < std::min(columns, (k / size + 1) * size); ++i)
      if (std::fabs(row[i]) > std::fabs(most)) most = row[i];
    return most;
  };
  switch (rounding) {
    case ActivationRounding::None:
      return row[k];
    case ActivationRounding::Half:
      return round_to_half(row[k]);
    case ActivationRounding::Bfloat16:
      return bfloat16_to_float(float_to_bfloat16(row[k]));
    case ActivationRounding::Blocks32: {
      const float most = std::fabs(largest(32));
      return most == 0 ? 0.0F : std::nearbyint(row[k] * (127.0F / most)) * round_to_half(most / 127.0F);
    }
    case ActivationRounding::Blocks256: {
      const float most = largest(256);
      if (most == 0) return 0.0F;
      const float inverse = -127.0F / most;
      return std::min(127.0F, std::nearbyint(row[k] * inverse)) * (1.0F / inverse);
    }
  }
  return 0;
}

TEST(ProductTest, ActivationsAreRoundedAsAsked) {
  Random random(13);
  const std::size_t tokens = 37, outputs = 29, columns = 544;
  StoredWeights w = store_weights(Format::Q8_0, outputs, columns, random);
  Floats x = random.values(tokens * columns);
  std::fill_n(x.begin(), columns, 0.0F);
  for (const auto rounding : {ActivationRounding::Half, ActivationRounding::Bfloat16,
                              ActivationRounding::Blocks32, ActivationRounding::Blocks256}) {
    w.rows.rounding = rounding;
    const Floats y = on_every_isa([&](const MathKernels& math) {
      Floats out(tokens * outputs);
      Scratch scratch(product_scratch(tokens, outputs));
      math.product({x.data(), tokens, columns, columns}, w.rows, {out.data(), tokens, outputs, outputs},
                   false, scratch.data());
      return out;
    });
    for (std::size_t t = 0; t < tokens; ++t) {
      const Floats row(x.begin() + static_cast<std::ptrdiff_t>(t * columns),
                       x.begin() + static_cast<std::ptrdiff_t>((t + 1) * columns));
      for (std::size_t j = 0; j < outputs; ++j) {
        const float sum = ordered_sum(
            columns, [&](std::size_t k) { return naive_rounding(rounding, row, k, columns); },
            [&](std::size_t k) { return w.values[j * columns + k]; });
        ASSERT_EQ(y[t * outputs + j], sum) << static_cast<int>(rounding) << " " << t << " " << j;
      }
    }
  }
}

TEST(ProductTest, BackwardFollowsItsOrderOfSummation) {
  Random random(12);
  for (const ProductCase& c : kCases) {
    const StoredWeights w = store_weights(c.format, c.outputs, c.columns, random);
    const std::size_t dy_stride = c.outputs + 1;
    const std::size_t dx_stride = c.columns + 5;
    const Floats dy = random.values(c.tokens * dy_stride);
    const Floats before = random.values(c.tokens * dx_stride);
    for (const bool add : {false, true}) {
      const Floats dx = on_every_isa([&](const MathKernels& math) {
        Floats out = before;
        Scratch scratch(product_scratch(c.tokens, kProductColumns));
        math.product_backward({dy.data(), c.tokens, c.outputs, dy_stride}, w.rows, 0,
                              {out.data(), c.tokens, c.columns, dx_stride}, add, scratch.data());
        return out;
      });
      Floats expected = before;
      for (std::size_t t = 0; t < c.tokens; ++t) {
        for (std::size_t k = 0; k < c.columns; ++k) {
          const float sum = ordered_sum(
              c.outputs, [&](std::size_t j) { return dy[t * dy_stride + j]; },
              [&](std::size_t j) { return w.values[j * c.columns + k]; });
          float& out = expected[t * dx_stride + k];
          out = add ? out + sum : sum;
        }
      }
      ASSERT_EQ(dx, expected) << traits(c.format).name << " " << c.tokens << "x" << c.outputs << "x"
                              << c.columns;
    }
  }
}

TEST(ProductTest, OuterProductsFollowTheirOrderOfSummation) {
  Random random(13);
  const std::size_t sizes[][3] = {{1, 1, 1}, {3, 5, 40}, {300, 17, 33}, {520, 270, 50}};
  for (const auto& size : sizes) {
    const std::size_t tokens = size[0];
    const std::size_t rows = size[1];
    const std::size_t columns = size[2];
    const std::size_t a_stride = rows + 2;
    const std::size_t b_stride = columns + 1;
    const Floats a = random.values(tokens * a_stride);
    const Floats b = random.values(tokens * b_stride);
    const Floats before = random.values(rows * columns);
    const Floats c = on_every_isa([&](const MathKernels& math) {
      Floats out = before;
      Scratch scratch(product_scratch(0, kProductColumns));
      math.add_outer_products({a.data(), tokens, rows, a_stride}, {b.data(), tokens, columns, b_stride},
                              {out.data(), rows, columns, columns}, scratch.data());
      return out;
    });
    for (std::size_t i = 0; i < rows; ++i) {
      for (std::size_t j = 0; j < columns; ++j) {
        float expected = before[i * columns + j];
        for (std::size_t first = 0; first < tokens; first += kProductBlock)
          expected += ordered_sum(
              std::min(kProductBlock, tokens - first),
              [&](std::size_t t) { return a[(first + t) * a_stride + i]; },
              [&](std::size_t t) { return b[(first + t) * b_stride + j]; });
        ASSERT_EQ(c[i * columns + j], expected) << tokens << " " << i << " " << j;
      }
    }
  }
}

// The whole at once against every cut of tokens, rows of weights and columns.
TEST(ProductTest, CutsChangeNothing) {
  Random random(14);
  const std::size_t tokens = 77;
  const std::size_t outputs = 59;
  const std::size_t columns = 600;
  const StoredWeights w = store_weights(Format::F32, outputs, columns, random);
  const Floats x = random.values(tokens * columns);
  const Floats dy = random.values(tokens * outputs);
  for (const MathKernels& math : runnable_math_kernels()) {
    Scratch scratch(product_scratch(tokens, kProductColumns));
    Floats y(tokens * outputs);
    math.product({x.data(), tokens, columns, columns}, w.rows, {y.data(), tokens, outputs, outputs}, false,
                 scratch.data());
    Floats dx(tokens * columns);
    math.product_backward({dy.data(), tokens, outputs, outputs}, w.rows, 0,
                          {dx.data(), tokens, columns, columns}, false, scratch.data());
    for (const std::size_t cut : {std::size_t{1}, std::size_t{16}, std::size_t{23}, std::size_t{32}}) {
      Floats y_cut(y.size());
      Floats dx_cut(dx.size());
      for (std::size_t t = 0; t < tokens; t += cut) {
        const std::size_t count = std::min(cut, tokens - t);
        for (std::size_t j = 0; j < outputs; j += cut) {
          WeightRows part = w.rows;
          part.data += j * part.row_bytes;
          part.rows = std::min(cut, outputs - j);
          math.product({x.data() + t * columns, count, columns, columns}, part,
                       {y_cut.data() + t * outputs + j, count, part.rows, outputs}, false, scratch.data());
        }
        for (std::size_t k = 0; k < columns; k += kProductBlock)
          math.product_backward(
              {dy.data() + t * outputs, count, outputs, outputs}, w.rows, k,
              {dx_cut.data() + t * columns + k, count, std::min(kProductBlock, columns - k), columns}, false,
              scratch.data());
      }
      ASSERT_EQ(y_cut, y) << math.isa << " " << cut;
      ASSERT_EQ(dx_cut, dx) << math.isa << " " << cut;
    }
  }
}

TEST(ProductTest, ColumnSums) {
  Random random(15);
  const std::size_t tokens = 700;
  const std::size_t columns = 37;
  const Floats x = random.values(tokens * columns);
  std::vector<Doubles> results;
  for (const MathKernels& math : runnable_math_kernels()) {
    Doubles sums(2 * columns, 1.0);
    math.add_column_sums({x.data(), tokens, columns, columns}, sums.data());
    math.add_column_squares({x.data(), tokens, columns, columns}, sums.data() + columns);
    results.push_back(sums);
    ASSERT_EQ(results.back(), results.front()) << math.isa;
  }
  for (std::size_t c = 0; c < columns; ++c) {
    double sum = 1.0;
    double squares = 1.0;
    for (std::size_t t = 0; t < tokens; ++t) {
      const double value = static_cast<double>(x[t * columns + c]);
      sum += value;
      squares += value * value;
    }
    EXPECT_NEAR(results[0][c], sum, 1e-4);
    EXPECT_NEAR(results[0][columns + c], squares, 1e-6 * squares);
  }
}

TEST(ProductTest, EmptySizesTouchNothing) {
  Random random(16);
  const StoredWeights w = store_weights(Format::F32, 4, 8, random);
  for (const MathKernels& math : runnable_math_kernels()) {
    Scratch scratch(product_scratch(4, kProductColumns));
    Floats y(16, 3.0F);
    math.product({nullptr, 0, 8, 8}, w.rows, {y.data(), 0, 4, 4}, false, scratch.data());
    WeightRows none = w.rows;
    none.rows = 0;
    Floats x(32, 1.0F);
    math.product({x.data(), 4, 8, 8}, none, {y.data(), 4, 0, 4}, false, scratch.data());
    math.add_outer_products({x.data(), 0, 4, 4}, {x.data(), 0, 4, 4}, {y.data(), 4, 4, 4}, scratch.data());
    EXPECT_EQ(y, Floats(16, 3.0F));
    none.rows = 4;
    none.columns = 0;
    math.product({x.data(), 4, 0, 8}, none, {y.data(), 4, 4, 4}, false, scratch.data());
    EXPECT_EQ(y, Floats(16, 0.0F)) << "the sum of nothing is zero";
  }
}

}  // namespace
}  // namespace quantfit::kernels::math_test
