#include "optimizer/planning/candidates.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/optimizer/small_model.h"

namespace quantfit::optimizer {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::Not;

CandidatePolicy policy_for(const Model& model) {
  CandidatePolicy policy;
  policy.rules.importance.assign(model.tensors().size(), true);
  return policy;
}

TEST(Candidates, TheSourceCompetesUnlessAPoolIsGiven) {
  const test::SmallModel files(
      {{"blk.0.ffn_up.weight", {256, 8, 1}}, {"blk.0.attn_norm.weight", {256, 1, 1}}});
  CandidatePolicy policy = policy_for(files.model());
  const ModelCandidates open = find_candidates(files.model(), policy).value();
  EXPECT_EQ(open.tensors[0].formats.back(), Format::F16);
  EXPECT_THAT(open.tensors[0].formats, Not(Contains(Format::BF16)));  // as large as the source, and worse
  EXPECT_THAT(open.tensors[1].formats, ElementsAre(Format::F16));
  EXPECT_EQ(open.tensors[1].kept_because, "kept: a vector");
  policy.rules.pool = {Format::Q4_K, Format::Q8_0};
  const ModelCandidates listed = find_candidates(files.model(), policy).value();
  EXPECT_THAT(listed.tensors[0].formats, ElementsAre(Format::Q4_K, Format::Q8_0));
}

TEST(Candidates, OnlyFormatsOtherThanTheSourceAreMeasured) {
  const test::SmallModel files(
      {{"blk.0.ffn_up.weight", {256, 8, 1}}, {"blk.0.attn_norm.weight", {256, 1, 1}}});
  CandidatePolicy policy = policy_for(files.model());
  const ModelCandidates open = find_candidates(files.model(), policy).value();
  const auto tasks = sampling_tasks(open.tensors);
  ASSERT_EQ(tasks.size(), 1U);
  EXPECT_EQ(tasks[0].formats.size(), open.tensors[0].formats.size() - 1);
  EXPECT_THAT(tasks[0].formats, Not(Contains(Format::F16)));
  EXPECT_EQ(smallest_recipe(open.tensors).entries[0].format, Format::IQ1_S);
}

}  // namespace
}  // namespace quantfit::optimizer
