#include "optimizer/planning/knapsack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quantfit::optimizer {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

struct Fixture {
  std::vector<TensorInfo> infos;
  std::vector<TensorCandidates> tensors;
  Measurements measurements;
  std::vector<double> sensitivity = {1, 2, 3};
  std::vector<std::uint32_t> all = {0, 1, 2};

  Fixture() {
    for (int i = 0; i < 3; ++i) {
      TensorInfo info;
      info.name = fmt::format("t{}", i);
      info.n_dims = 2;
      info.ne = {256, 10, 1, 1};
      info.format = Format::F16;
      infos.push_back(info);
    }
    for (const TensorInfo& info : infos) {
      tensors.push_back({&info, {Format::Q2_K, Format::Q4_K, Format::Q8_0}, "", ""});
      double nmse = 0.5;
      for (const Format format : tensors.back().formats) {
        FormatMeasurement& known = measurements[info.name].errors.emplace_back();
        known.format = format;
        known.nmse = nmse;
        nmse /= 4;
      }
    }
  }
  [[nodiscard]] Result<Knapsack> make(const KnapsackOptions& options = {}) const {
    return make_knapsack(tensors, measurements, sensitivity, options, all);
  }
};

std::vector<Format> formats_of(const CandidateClass& group) {
  std::vector<Format> formats;
  for (const Candidate& candidate : group.candidates) formats.push_back(candidate.format);
  return formats;
}

TEST(Knapsack, CostsAreSensitivityTimesRelativeError) {
  const Fixture f;
  const Knapsack knapsack = f.make().value();
  ASSERT_EQ(knapsack.classes.size(), 3U);
  EXPECT_EQ(knapsack.classes[2].candidates[0].cost, 3 * 0.5);
  EXPECT_EQ(knapsack.classes[2].candidates[2].cost, 3 * 0.5 / 16);
  EXPECT_EQ(knapsack.smallest_bytes, 3 * tensor_bytes(Format::Q2_K, 256, 10).value());
  EXPECT_EQ(knapsack.largest_bytes, 3 * tensor_bytes(Format::Q8_0, 256, 10).value());
}

TEST(Knapsack, TensorsWithoutAChoiceAreSpentInAnyCase) {
  Fixture f;
  f.tensors[1].formats = {Format::Q4_K};
  const Knapsack knapsack = f.make({.alignment = 4096}).value();
  EXPECT_EQ(knapsack.classes.size(), 2U);
  EXPECT_EQ(knapsack.fixed_bytes, 4096U);
  EXPECT_EQ(knapsack.fixed_cost, 2 * 0.125);
}

TEST(Knapsack, TiedTensorsAreOneClass) {
  Fixture f;
  f.tensors[0].tie_group = f.tensors[2].tie_group = "g";
  f.tensors[2].formats = {Format::Q4_K, Format::Q8_0};
  const Knapsack knapsack = f.make().value();
  ASSERT_EQ(knapsack.classes.size(), 2U);
  EXPECT_EQ(knapsack.classes[0].name, "g");
  EXPECT_THAT(formats_of(knapsack.classes[0]), ElementsAre(Format::Q4_K, Format::Q8_0));
  EXPECT_EQ(knapsack.classes[0].candidates[0].cost, (1 + 3) * 0.125);
  EXPECT_THAT(knapsack.members[0], ElementsAre(0U, 2U));
  Recipe recipe;
  recipe.entries = {{"t0", Format::F16}, {"t1", Format::F16}, {"t2", Format::F16}};
  Allocation allocation;
  allocation.choice = {Format::Q8_0, Format::Q2_K};
  apply(knapsack, allocation, recipe);
  EXPECT_EQ(recipe.entries[0].format, Format::Q8_0);
  EXPECT_EQ(recipe.entries[1].format, Format::Q2_K);
  EXPECT_EQ(recipe.entries[2].format, Format::Q8_0);
  f.tensors[2].formats = {Format::F16};
  EXPECT_EQ(f.make().error().code, ErrorCode::Infeasible);
}

TEST(Knapsack, RuinousFormatsAreLeftOutWhereSomethingBetterRemains) {
  Fixture f;
  EXPECT_THAT(formats_of(f.make({.max_nmse = 0.2}).value().classes[0]),
              ElementsAre(Format::Q4_K, Format::Q8_0));
  f.tensors[0].formats = {Format::Q2_K};
  EXPECT_GT(f.make({.max_nmse = 0.2}).value().fixed_cost, 0);  // nothing better: kept
}

TEST(Knapsack, WhatWasNotMeasuredIsNamed) {
  Fixture f;
  f.tensors[1].formats.push_back(Format::Q6_K);
  const auto refused = f.make();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::Internal);
  EXPECT_THAT(refused.error().message, HasSubstr("'t1'"));
}

}  // namespace
}  // namespace quantfit::optimizer
