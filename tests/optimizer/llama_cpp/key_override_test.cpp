#include "optimizer/llama_cpp/key_override.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quantfit::optimizer {
namespace {

using ::testing::HasSubstr;

GgufMetadata source() {
  GgufMetadata metadata;
  metadata.add(GgufKeyValue::of_uint16("llama.small", 7));
  metadata.add(GgufKeyValue::of_int32("llama.signed", -7));
  metadata.add(GgufKeyValue::of_string("general.name", "old"));
  return metadata;
}

TEST(KeyOverride, HasTheTypeThatIsNamed) {
  const auto parse = [](const char* text) {
    auto parsed = parse_key_override(text, source());
    EXPECT_TRUE(parsed) << text;
    return parsed.value();
  };
  EXPECT_EQ(parse("llama.context_length=int:8192").type, GgufType::UInt32);
  EXPECT_EQ(parse("llama.context_length=int:8192").as_uint(), 8192U);
  EXPECT_EQ(parse("llama.bias=int:-3").type, GgufType::Int32);
  EXPECT_EQ(parse("llama.small=int:300").type, GgufType::UInt16);    // as it was
  EXPECT_EQ(parse("llama.small=int:70000").type, GgufType::UInt32);  // which does not hold this
  EXPECT_EQ(parse("llama.signed=int:5").type, GgufType::Int32);
  EXPECT_EQ(parse("general.name=int:5").type, GgufType::UInt32);
  EXPECT_EQ(parse("llama.rope.freq_base=float:1e6").as_double(), 1e6);
  EXPECT_EQ(parse("tokenizer.ggml.add_bos_token=bool:false").as_bool(), false);
  EXPECT_EQ(parse("general.name=str:a=b:c").as_string(), "a=b:c");
  EXPECT_EQ(parse("general.name=str:").as_string(), "");
}

TEST(KeyOverride, RefusesWhatIsNone) {
  const auto refused = [](const std::string& text, const char* part) {
    const auto parsed = parse_key_override(text, source());
    ASSERT_FALSE(parsed) << text;
    EXPECT_EQ(parsed.error().code, ErrorCode::InvalidArgument);
    EXPECT_THAT(parsed.error().message, HasSubstr(part));
  };
  refused("llama.context_length", "KEY=TYPE:VALUE");
  refused("=int:3", "KEY=TYPE:VALUE");
  refused("a=3", "KEY=TYPE:VALUE");
  refused("a=uint:3", "none of int, float, bool, str");
  refused("a=int:3.5", "no integer");
  refused("a=int:4294967296", "32 bits");
  refused("a=float:nan", "finite");
  refused("a=bool:1", "true or false");
  refused("a=str:" + std::string(128, 'x'), "128 bytes");
  refused("general.file_type=int:1", "follows from");
  refused("split.count=int:1", "follows from");
}

}  // namespace
}  // namespace quantfit::optimizer
