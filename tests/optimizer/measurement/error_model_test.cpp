#include "optimizer/measurement/error_model.h"

#include <gtest/gtest.h>

#include "tests/optimizer/small_model.h"

namespace quantfit::optimizer {
namespace {

TEST(ErrorModel, KappaFollowsTheRole) {
  const ErrorModel model;
  for (const char* name :
       {"blk.0.attn_v.weight", "blk.3.ffn_up.weight", "blk.3.ffn_gate.weight", "blk.12.ffn_up_exps.weight",
        "blk.12.ffn_gate_up_exps.weight", "blk.1.ffn_up_shexp.weight"})
    EXPECT_EQ(model.kappa_of(name), ErrorModel::kAveragedKappa) << name;
  for (const char* name :
       {"blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_output.weight", "blk.0.ffn_down.weight",
        "output.weight", "token_embd.weight", "blk.0.ssm_out.weight"})
    EXPECT_EQ(model.kappa_of(name), ErrorModel::kKappa) << name;
  const ErrorModel uniform{3.0F};
  EXPECT_EQ(uniform.kappa_of("blk.0.attn_v.weight"), 3.0F);
  EXPECT_EQ(uniform.kappa_of("blk.0.attn_q.weight"), 3.0F);
}

TEST(ErrorModel, TheTextTellsParametersApart) {
  EXPECT_NE(ErrorModel{}.to_text(), ErrorModel{ErrorModel::kKappa}.to_text());
  EXPECT_NE(ErrorModel{2.0F}.to_text(), ErrorModel{3.0F}.to_text());
  EXPECT_EQ(ErrorModel{2.0F}.to_text(), ErrorModel{2.0F}.to_text());
}

TEST(ErrorModel, EveryMatrixGetsTheKappaOfItsTensor) {
  const test::SmallModel small({{"blk.0.ffn_up_exps.weight", {32, 4, 2}, Format::F16, {}, {100, 300}},
                                {"blk.0.attn_q.weight", {32, 4, 1}, Format::F16}});
  ASSERT_NE(small.importance(), nullptr);
  for (const TensorInfo& tensor : small.model().tensors())
    for (const ImportanceMatrix* importance :
         {small.importance(), static_cast<const ImportanceMatrix*>(nullptr)}) {
      const auto metric = make_tensor_metric(tensor, importance, ErrorModel{});
      ASSERT_TRUE(metric.has_value()) << metric.error().message;
      for (const kernels::ColumnMetric& matrix : metric.value().matrices)
        EXPECT_EQ(matrix.kappa(), ErrorModel{}.kappa_of(tensor.name)) << tensor.name;
    }
}

}  // namespace
}  // namespace quantfit::optimizer
