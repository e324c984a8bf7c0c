#include "optimizer/job/job.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/optimizer/job/job_fixture.h"

namespace quantfit::optimizer {
namespace {

using testing::HasSubstr;

std::vector<FormatPin> pins(std::string_view text) {
  return parse_format_pins(text).value();
}

TEST(Job, WhatIsOutOfReachIsKnownBeforeAnythingIsMeasured) {
  test::Job job;
  const auto checked = job.check({BpwTarget{"0.5"}, BpwTarget{"4"}, FileSizeTarget{1}}).value();
  EXPECT_FALSE(checked.budgets[0].feasible());
  EXPECT_TRUE(checked.budgets[1].feasible());
  EXPECT_FALSE(checked.budgets[2].feasible());
  const auto answer = choose(*job.inputs, checked, job.request, checked.budgets[0], job.control).value();
  EXPECT_FALSE(answer.feasible);
  EXPECT_FALSE(answer.error_is_known);
  EXPECT_GT(answer.memories[0].smallest_bytes, *answer.memories[0].budget_bytes);
  EXPECT_LT(answer.memories[0].smallest_bytes, answer.memories[0].largest_bytes);
}

TEST(Job, TheRangeSaidBeforeMeasuringIsTheOneReached) {
  test::Job job;
  const auto checked = job.check({BpwTarget{"60"}}).value();
  const std::uint64_t least = checked.budgets[0].memories[0].smallest_bytes;
  const auto elements = static_cast<double>(job.files.model().total_elements());
  job.request.max_nmse = 0;
  const Solution smallest =
      job.solve(BpwTarget{fmt::format("{:.9f}", 8.0 * static_cast<double>(least) / elements)});
  EXPECT_TRUE(smallest.feasible);
  EXPECT_EQ(smallest.tensor_bytes, least);
}

TEST(Job, FormatsThatCannotBeWrittenAreRefusedUpFront) {
  test::Job job;
  job.request.policy.rules.pins = pins("ffn_up=f32");
  const auto refused = job.check({BpwTarget{"4"}});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::InvalidArgument);
  EXPECT_THAT(refused.error().message, HasSubstr("F32"));
  EXPECT_THAT(refused.error().message, HasSubstr("blk.0.ffn_up.weight"));
}

TEST(Job, OnlyTheFormatsOfAGivenRecipeAreMeasured) {
  test::Job job;
  job.open();
  const PreparedJob prepared = job.prepare({job.preset("Q4_K_M").value().target});
  for (const auto& [name, measured] : prepared.measured.measurements)
    EXPECT_EQ(measured.errors.size(), 1U) << name;
  const Solution answer =
      choose(*job.inputs, prepared, job.request, prepared.budgets[0], job.control).value();
  EXPECT_TRUE(answer.error_is_known);
  EXPECT_GT(answer.predicted_error, 0);
  EXPECT_FALSE(answer.proof);
}

TEST(Job, AWiderPoolAddsToWhatIsKnown) {
  test::Job job;
  job.request.paths.state = job.files.folder() / "s.qfstate";
  job.request.policy.rules.pool = {Format::Q4_K, Format::Q6_K};
  const PreparedJob narrow = job.prepare({BpwTarget{"5"}});
  EXPECT_EQ(narrow.measured.tensors_sampled, 9U);
  job.inputs.reset();
  EXPECT_EQ(job.prepare({BpwTarget{"6"}}).measured.tensors_known, 9U);
  job.inputs.reset();
  job.request.policy.rules.pool = {Format::Q4_K, Format::Q6_K, Format::Q8_0};
  const PreparedJob wider = job.prepare({BpwTarget{"5"}});
  EXPECT_EQ(wider.measured.tensors_sampled, 9U);
  for (const auto& [name, measured] : wider.measured.measurements) {
    EXPECT_EQ(measured.errors.size(), 3U) << name;
    for (const FormatMeasurement& old : narrow.measured.measurements.at(name).errors)
      EXPECT_EQ(nmse_of({job.files.model().find(name), {}, "", ""}, old.format, wider.measured.measurements),
                old.nmse);
  }
}

}  // namespace
}  // namespace quantfit::optimizer
