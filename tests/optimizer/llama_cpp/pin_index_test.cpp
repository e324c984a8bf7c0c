#include "optimizer/llama_cpp/pin_index.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace quantfit::optimizer {
namespace {

Pattern pattern(std::string_view text) {
  return Pattern::compile(text).value();
}

TEST(PinIndex, WholeNamesAreRecognized) {
  EXPECT_EQ(whole_name(pattern(R"(^blk\.0\.ffn_up\.weight$)")), "blk.0.ffn_up.weight");
  EXPECT_EQ(whole_name(pattern("^" + escape_pattern("a[1]{2}\\b") + "$")), "a[1]{2}\\b");
  EXPECT_EQ(whole_name(pattern("^$")), "");
  for (const char* other :
       {"a", "^a", "a$", R"(^blk.0\.x$)", R"(^a\d$)", R"(^a\$)", "^a|b$", "^(a)$", "^a+$", "^a^$"})
    EXPECT_FALSE(whole_name(pattern(other))) << other;
}

TEST(PinIndex, FindsWhatTryingInTurnFinds) {
  const std::vector<FormatPin> pins =
      parse_format_pins(
          R"(^blk\.0\.a$=q4_K blk\.1=q5_K ^blk\.1\.a$=q6_K ^blk\.2\.a$=q8_0 a$=q3_K ^blk\.3\.b$=q2_K b=f16)")
          .value();
  const PinIndex index(pins);
  for (const char* name : {"blk.0.a", "blk.1.a", "blk.2.a", "blk.3.a", "blk.3.b", "blk.4.b", "c", "",
                           "x\nblk.2.a", "blk.2.a\n", "xblk.0.a"}) {
    const auto turn =
        std::ranges::find_if(pins, [&](const FormatPin& pin) { return pin.pattern.found_in(name); });
    const auto found = index.first_in(name);
    EXPECT_EQ(found.has_value(), turn != pins.end()) << name;
    if (found) {
      EXPECT_EQ(*found, static_cast<std::size_t>(turn - pins.begin())) << name;
    }
  }
}

}  // namespace
}  // namespace quantfit::optimizer
