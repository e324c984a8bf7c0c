#include "optimizer/planning/fisher_sensitivity.h"

#include <gtest/gtest.h>

#include <cmath>

namespace quantfit::optimizer {
namespace {

TensorInfo matrix(const std::string& name) {
  TensorInfo info;
  info.name = name;
  info.n_dims = 2;
  info.ne = {256, 4, 1, 1};
  return info;
}

MatrixStatistics nats(std::vector<double> by_window) {
  MatrixStatistics out;
  out.rows = 4;
  out.nats_by_window = std::move(by_window);
  return out;
}

class FisherSensitivity : public testing::Test {
 protected:
  FisherSensitivity() {
    statistics.window_tokens = {100, 300};
    statistics.matrices["blk.0.attn_q.weight"] = nats({1, 2});
    statistics.matrices["blk.0.ffn_up.weight"] = nats({4, 4});
    statistics.matrices["token_embd.weight"] = nats({3, 3});
    TableStatistics table;
    table.nats_by_window = {1, 5};
    statistics.tables["token_embd.weight"] = table;
  }
  [[nodiscard]] state::SensitivitySet set() const {
    return fisher_set(statistics, tensors, priors, state::SensitivityScope{});
  }

  ModelStatistics statistics;
  std::vector<TensorInfo> tensors = {matrix("token_embd.weight"), matrix("blk.0.attn_q.weight"),
                                     matrix("blk.0.ffn_up.weight"), matrix("blk.1.ffn_up.weight"),
                                     matrix("mm.0.weight")};
  std::vector<TensorSensitivity> priors = {{1, ""}, {1.75, ""}, {2, ""}, {3, ""}, {0.5, ""}};
};

TEST_F(FisherSensitivity, IsTheMeanOverWindowsAndATiedEmbeddingAddsUp) {
  const auto found = set();
  EXPECT_EQ(found.scope.unit, state::SensitivityUnit::Nats);
  EXPECT_EQ(found.scope.method, kFisherMethod);
  EXPECT_DOUBLE_EQ(found.find("blk.0.attn_q.weight")->value, 1.75);
  EXPECT_GT(found.find("blk.0.attn_q.weight")->standard_error, 0);
  EXPECT_DOUBLE_EQ(found.find("blk.0.ffn_up.weight")->value, 4);
  EXPECT_EQ(found.find("blk.0.ffn_up.weight")->standard_error, 0);
  EXPECT_DOUBLE_EQ(found.find("token_embd.weight")->value, 3 + (1 + 3 * 5) / 4.0);
}

TEST_F(FisherSensitivity, TensorsThatWereNotReachedFollowTheirRole) {
  const auto found = set();
  ASSERT_EQ(found.rows.size(), tensors.size());
  EXPECT_DOUBLE_EQ(found.find("blk.1.ffn_up.weight")->value, 3 * (4.0 / 2.0));
  // Nobody of its role: the geometric mean of all ratios, 7, 1 and 2.
  EXPECT_NEAR(found.find("mm.0.weight")->value, 0.5 * std::cbrt(14.0), 1e-12);
  EXPECT_NE(found.find("mm.0.weight")->obtained, found.find("blk.0.ffn_up.weight")->obtained);
}

TEST_F(FisherSensitivity, NothingIsFree) {
  statistics.matrices["blk.0.attn_q.weight"] = nats({0, 0});
  const auto found = set();
  EXPECT_GT(found.find("blk.0.attn_q.weight")->value, 0);
  EXPECT_LT(found.find("blk.0.attn_q.weight")->value, 0.1);
}

TEST_F(FisherSensitivity, WithoutGradientsThereIsNoSet) {
  statistics = {};
  EXPECT_TRUE(set().rows.empty());
}

}  // namespace
}  // namespace quantfit::optimizer
