#include "optimizer/planning/tuned_share.h"

#include <gtest/gtest.h>

namespace quantfit::optimizer {
namespace {

TEST(TunedShare, FewerBitsAreMendedMoreAndNothingIsMendedWhereNothingIsLost) {
  EXPECT_EQ(tuned_share(Format::F16), 1);
  EXPECT_EQ(tuned_share(Format::F32), 1);
  const Format by_bits[] = {Format::IQ2_XXS, Format::IQ2_S, Format::IQ3_XXS, Format::Q4_K,
                            Format::Q5_K,    Format::Q6_K,  Format::Q8_0};
  for (std::size_t i = 1; i < std::size(by_bits); ++i)
    EXPECT_LT(tuned_share(by_bits[i - 1]), tuned_share(by_bits[i])) << name_of(by_bits[i]);
  EXPECT_DOUBLE_EQ(tuned_share(Format::Q4_K), 0.696);
}

TEST(TunedShare, CodesThatStayLeaveMore) {
  // Both about two bits; the codes of IQ1 and ternary formats do not move.
  EXPECT_GT(tuned_share(Format::TQ2_0), tuned_share(Format::IQ2_XXS));
  for (const FormatTraits& one : all_formats()) {
    EXPECT_GT(tuned_share(one.format), 0) << one.name;
    EXPECT_LE(tuned_share(one.format), 1) << one.name;
  }
}

}  // namespace
}  // namespace quantfit::optimizer
