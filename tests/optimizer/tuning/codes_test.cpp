#include "optimizer/tuning/codes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "core/gguf_writer.h"
#include "kernels/block_scales.h"
#include "kernels/row_quantizer.h"
#include "tests/optimizer/small_model.h"

namespace quantfit::test {
namespace {

using tuning::Codes;

// A matrix of random weights, encoded.
struct Encoded {
  SmallModel source{{SmallTensor{.name = "w", .ne = {256, 8, 1}, .format = Format::F32}}};
  TensorInfo tensor;
  std::vector<std::byte> bytes;
  explicit Encoded(Format format) : tensor(source.model().tensors()[0]) {
    tensor.format = format;
    kernels::RowQuantizer quantizer(*kernels::default_kernels().value(), 256);
    const kernels::ColumnMetric metric(256, {}, {}, 1);
    const std::size_t row = row_bytes(format, 256).value();
    tensor.bytes = 8 * row;
    bytes.resize(tensor.bytes);
    for (std::size_t r = 0; r < 8; ++r) {
      EXPECT_TRUE(quantizer.load(Format::F32, source.model().row(source.model().tensors()[0], r), metric));
      quantizer.encode(format, kernels::Effort::Default, bytes.data() + r * row);
    }
  }
  [[nodiscard]] Codes codes() const {
    return {*kernels::default_kernels().value(), tensor, bytes, source.model(), source.model().tensors()[0]};
  }
  [[nodiscard]] std::vector<float> decoded() const {
    std::vector<float> out(tensor.elements());
    kernels::default_kernels().value()->decode[static_cast<std::size_t>(tensor.format)](
        bytes.data(), out.size(), out.data());
    return out;
  }
};

std::vector<Format> formats() {
  std::vector<Format> out;
  for (const FormatTraits& format : all_formats())
    if (Codes::can(format.format)) out.push_back(format.format);
  return out;
}

TEST(TuningCodes, NothingMovesWithoutAGradient) {
  for (const Format format : formats()) {
    Encoded one(format);
    const std::vector<std::byte> before = one.bytes;
    Codes codes = one.codes();
    codes.step({.rate = 1, .step = 1}, 1, one.bytes);
    EXPECT_EQ(one.bytes, before) << name_of(format);
  }
}

// Latents that hardly move leave the codes as they are; those that walk towards a target bring the weights
// there.
TEST(TuningCodes, WeightsFollowTheirGradientWithinTheGrid) {
  for (const Format format : formats()) {
    Encoded one(format);
    const std::vector<std::byte> before = one.bytes;
    Codes codes = one.codes();
    // Other codes of the same block: weights that can be had.
    std::vector<std::byte> other = before;
    const kernels::CodeShape& shape = kernels::code_shape(format);
    for (std::size_t at = 0; at < other.size(); at += traits(format).block_bytes) {
      std::uint16_t block[kernels::kMostBlockWeights];
      kernels::get_codes(format, other.data() + at, block);
      for (std::size_t c = 0; c < traits(format).block_len / shape.group; c += 2)
        block[c] = static_cast<std::uint16_t>(shape.group == 1 ? block[c] ^ 1 : (block[c] + 1) % shape.count);
      kernels::set_codes(format, other.data() + at, block);
    }
    std::swap(one.bytes, other);
    const std::vector<float> target = one.decoded();
    std::swap(one.bytes, other);
    const auto miss = [&] {
      const std::vector<float> now = one.decoded();
      double sum = 0;
      for (std::size_t i = 0; i < now.size(); ++i)
        sum += (static_cast<double>(now[i]) - static_cast<double>(target[i])) *
               (static_cast<double>(now[i]) - static_cast<double>(target[i]));
      return sum;
    };
    const auto step = [&](double rate, std::uint64_t number) {
      const std::vector<float> now = one.decoded();
      for (std::size_t i = 0; i < now.size(); ++i) codes.gradient()[i] = now[i] - target[i];
      codes.step({.rate = rate, .step = number}, 1, one.bytes);
    };
    const double at_first = miss();
    for (std::uint64_t s = 1; s <= 100; ++s) step(0.05 * (1 - static_cast<double>(s) / 101), s);
    EXPECT_LT(miss(), 0.5 * at_first) << name_of(format);
    const std::uint64_t moved = codes.moved(before, one.bytes);
    EXPECT_GT(moved, 0U) << name_of(format);
    EXPECT_LT(moved, codes.count()) << name_of(format);
    // Nothing but codes has changed.
    for (std::size_t at = 0; at < one.bytes.size(); at += traits(format).block_bytes) {
      std::uint16_t kept[256];
      kernels::get_codes(format, before.data() + at, kept);
      kernels::set_codes(format, one.bytes.data() + at, kept);
    }
    EXPECT_EQ(one.bytes, before) << name_of(format);
  }
}

// dL/ds_k is the sum over a block's weights of dL/dw u_k, u_k what the block decodes to with s_k = 1 and the
// other number 0.
TEST(TuningCodes, GradientsOfScalesAreThoseOfTheirUnits) {
  for (const Format format : formats()) {
    Encoded one(format);
    Codes codes = one.codes();
    std::mt19937 random(5);
    for (float& g : codes.gradient()) g = static_cast<float>(random() % 2001) / 1000 - 1;
    const std::size_t n = traits(format).block_len, size = traits(format).block_bytes;
    const std::size_t blocks = one.bytes.size() / size, count = kernels::block_scales(format);
    std::vector<double> expected, sizes;
    for (std::size_t b = 0; b < blocks; ++b) {
      for (std::size_t k = 0; k < count; ++k) {
        std::vector<std::byte> unit(one.bytes.begin() + static_cast<std::ptrdiff_t>(b * size),
                                    one.bytes.begin() + static_cast<std::ptrdiff_t>((b + 1) * size));
        for (std::size_t other = 0; other < count; ++other)
          kernels::set_block_scale(format, unit.data(), other, other == k ? 1.0F : 0.0F);
        std::vector<float> weights(n);
        kernels::default_kernels().value()->decode[static_cast<std::size_t>(format)](unit.data(), n,
                                                                                     weights.data());
        double sum = 0, squares = 0;
        for (std::size_t i = 0; i < n; ++i) {
          sum += static_cast<double>(codes.gradient()[b * n + i]) * static_cast<double>(weights[i]);
          squares += static_cast<double>(weights[i]) * static_cast<double>(weights[i]);
        }
        expected.push_back(sum);
        sizes.push_back(std::sqrt(squares));
      }
    }
    std::vector<double> scales(expected.size(), 7.0);
    codes.step({.rate = 0.1, .step = 1}, 1, one.bytes, scales);
    for (std::size_t i = 0; i < scales.size(); ++i)
      EXPECT_NEAR(scales[i], expected[i], 1e-5 * sizes[i]) << name_of(format) << " " << i;
  }
}

}  // namespace
}  // namespace quantfit::test
