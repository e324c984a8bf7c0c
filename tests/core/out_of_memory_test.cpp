#include "core/out_of_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <vector>

namespace quantfit {
namespace {

TEST(OutOfMemory, ResultsPassAndExceptionsOfMemoryBecomeErrors) {
  EXPECT_EQ(or_out_of_memory("x", []() -> Result<int> { return 7; }).value(), 7);
  const auto failed = or_out_of_memory("x", []() -> Result<int> { return fail(ErrorCode::Malformed, "m"); });
  EXPECT_EQ(failed.error().code, ErrorCode::Malformed);
  std::size_t most = std::numeric_limits<std::size_t>::max() / 4;
  for (const std::size_t bytes : {most, most * 3}) {  // more than there is, and more than there can be
    const auto result = or_out_of_memory(
        "model.gguf", [&]() -> Result<std::size_t> { return std::vector<char>(bytes).size(); });
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, ErrorCode::Io);
    EXPECT_EQ(result.error().message, "model.gguf: not enough memory");
  }
}

}  // namespace
}  // namespace quantfit
