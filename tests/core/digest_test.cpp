#include "core/digest.h"

#include <gtest/gtest.h>

namespace quantfit {
namespace {

TEST(Digest, IsThatOfTheBytesHoweverTheyAreCut) {
  const std::string text = "any text";
  const auto bytes = std::as_bytes(std::span(text));
  Digest whole;
  whole.bytes(bytes);
  Digest parts;
  parts.bytes(bytes.first(3));
  EXPECT_NE(parts.hex(), whole.hex());
  parts.bytes(bytes.subspan(3));
  EXPECT_EQ(parts.hex(), whole.hex());
  EXPECT_EQ(Digest().hex(), "99aa06d3014798d86001c324468d497f");  // XXH3 of nothing, from its specification
}

TEST(Digest, TextsCountWithTheirLengths) {
  Digest first;
  first.text("ab");
  first.text("c");
  Digest second;
  second.text("a");
  second.text("bc");
  EXPECT_NE(first.hex(), second.hex());
}

}  // namespace
}  // namespace quantfit
