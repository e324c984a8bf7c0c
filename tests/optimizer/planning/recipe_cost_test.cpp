#include "optimizer/planning/recipe_cost.h"

#include <gtest/gtest.h>

namespace quantfit::optimizer {
namespace {

// Three tensors of 256 weights a row: 10, 20 and 30 rows.
struct Fixture {
  std::vector<TensorInfo> infos;
  std::vector<TensorCandidates> tensors;
  Measurements measurements;
  std::vector<std::uint32_t> all = {0, 1, 2};

  Fixture() {
    for (std::uint64_t i = 0; i < 3; ++i) {
      TensorInfo info;
      info.name = fmt::format("t{}", i);
      info.n_dims = 2;
      info.ne = {256, 10 * (i + 1), 1, 1};
      info.format = Format::F16;
      infos.push_back(info);
    }
    for (const TensorInfo& info : infos) {
      tensors.push_back({&info, {Format::Q4_K, Format::Q8_0}, "", ""});
      state::TensorMeasurement& known = measurements[info.name];
      known.errors.resize(2);
      known.errors[0].format = Format::Q4_K;
      known.errors[0].nmse = 0.25;
      known.errors[1].format = Format::Q8_0;
      known.errors[1].nmse = 0.125;
    }
  }
  [[nodiscard]] std::uint64_t bytes(std::size_t i, Format format) const {
    return tensor_bytes(format, 256, infos[i].rows()).value();
  }
};

TEST(RecipeCost, AddsErrorsBySensitivityAndTheTimeToRead) {
  const Fixture f;
  const std::vector<double> sensitivity = {1, 2, 4};
  Recipe recipe;
  recipe.entries = {{"t0", Format::Q4_K}, {"t1", Format::Q8_0}, {"t2", Format::F16}};
  const RecipeCost plain = recipe_cost(f.tensors, f.measurements, sensitivity, {}, recipe).value();
  EXPECT_EQ(plain.error, 0.25 + 2 * 0.125);  // the source costs nothing
  EXPECT_EQ(plain.speed_penalty, 0);
  KnapsackOptions options;
  options.speed_weight = 10;
  options.read_share = {0.5, 0.25, 0.25};
  const RecipeCost fast = recipe_cost(f.tensors, f.measurements, sensitivity, options, recipe).value();
  EXPECT_EQ(fast.error, plain.error);
  EXPECT_DOUBLE_EQ(fast.speed_penalty, 10 * (0.5 * decode_cost(Format::Q4_K, Runtime::Cuda) +
                                             0.25 * decode_cost(Format::Q8_0, Runtime::Cuda) +
                                             0.25 * decode_cost(Format::F16, Runtime::Cuda)));
  EXPECT_EQ(fast.objective(), fast.error + fast.speed_penalty);
  recipe.entries[1].format = Format::Q6_K;
  EXPECT_FALSE(recipe_cost(f.tensors, f.measurements, sensitivity, {}, recipe));
}

TEST(RecipeCost, RangesCountSubsetsAlignmentAndTies) {
  Fixture f;
  const ByteRange whole = byte_range(f.tensors, f.all, 1).value();
  EXPECT_EQ(whole.smallest, f.bytes(0, Format::Q4_K) + f.bytes(1, Format::Q4_K) + f.bytes(2, Format::Q4_K));
  EXPECT_EQ(whole.largest, f.bytes(0, Format::Q8_0) + f.bytes(1, Format::Q8_0) + f.bytes(2, Format::Q8_0));
  const std::vector<std::uint32_t> some = {1};
  EXPECT_EQ(byte_range(f.tensors, some, 1).value().smallest, f.bytes(1, Format::Q4_K));
  EXPECT_EQ(byte_range(f.tensors, some, 4096).value().smallest % 4096, 0U);
  EXPECT_EQ(byte_range(f.tensors, {}, 1).value().largest, 0U);
  // Tied tensors take one format: one may not be small while the other is large.
  f.tensors[0].tie_group = f.tensors[1].tie_group = "g";
  f.tensors[0].formats = f.tensors[1].formats = {Format::Q6_K, Format::Q8_0};
  const ByteRange tied = byte_range(f.tensors, f.all, 1).value();
  EXPECT_EQ(tied.smallest, f.bytes(0, Format::Q6_K) + f.bytes(1, Format::Q6_K) + f.bytes(2, Format::Q4_K));
  EXPECT_EQ(tied.largest, whole.largest);
}

TEST(RecipeCost, SizesBeyond64BitsAreRefused) {
  Fixture f;
  for (TensorInfo& info : f.infos) info.ne = {256, std::uint64_t{1} << 55, 1, 1};
  const auto refused = byte_range(f.tensors, f.all, 1);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::ShapeMismatch);
}

}  // namespace
}  // namespace quantfit::optimizer
