#include "optimizer/planning/requantization.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace quantfit::optimizer {
namespace {

using testing::HasSubstr;

TensorInfo tensor(const char* name, Format format) {
  TensorInfo info;
  info.name = name;
  info.n_dims = 2;
  info.ne = {256, 64, 1, 1};
  info.format = format;
  return info;
}

TEST(Requantization, FewerBitsCostMore) {
  EXPECT_FALSE(usual_error(Format::F16));
  EXPECT_FALSE(usual_error(Format::MXFP4));
  EXPECT_LT(*usual_error(Format::Q8_0), *usual_error(Format::Q6_K));
  EXPECT_LT(*usual_error(Format::Q6_K), *usual_error(Format::Q4_K));
  EXPECT_LT(*usual_error(Format::Q4_K), *usual_error(Format::IQ1_S));
}

TEST(Requantization, SaysWhatWasLostBefore) {
  std::vector<TensorInfo> tensors = {
      tensor("blk.0.attn_q.weight", Format::Q4_K), tensor("blk.0.attn_k.weight", Format::Q4_K),
      tensor("output.weight", Format::Q8_0), tensor("blk.0.ffn_up.weight", Format::F16)};
  const std::vector<double> sensitivity = {1, 2, 10, 5};
  const std::string sentence = requantization_sentence(tensors, sensitivity, "nats");
  EXPECT_THAT(sentence, HasSubstr("2 Q4_K"));
  EXPECT_THAT(sentence, HasSubstr("1 Q8_0"));
  EXPECT_THAT(sentence, HasSubstr("about 0.012 (nats)"));  // 3 * 0.00393 + 10 * 0.0000189
  tensors[0].format = Format::MXFP4;
  EXPECT_THAT(requantization_sentence(tensors, sensitivity, "nats"), HasSubstr("more than"));
  EXPECT_EQ(requantization_sentence({&tensors[3], 1}, sensitivity, "nats"), "");
}

}  // namespace
}  // namespace quantfit::optimizer
