#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <array>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "kernels/row_kernels.h"
#include "kernels/row_quantizer.h"

namespace quantfit::kernels {
namespace {

// Sets an environment variable for the life of the object.
class ScopedVariable {
 public:
  ScopedVariable(const char* name, const char* value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    if (value != nullptr) {
      setenv(name, value, 1);
    } else {
      unsetenv(name);
    }
  }
  ~ScopedVariable() {
    if (old_) {
      setenv(name_, old_->c_str(), 1);
    } else {
      unsetenv(name_);
    }
  }
  ScopedVariable(const ScopedVariable&) = delete;
  ScopedVariable& operator=(const ScopedVariable&) = delete;

 private:
  const char* name_;
  std::optional<std::string> old_;
};

TEST(DispatchTest, TablesAreDistinctCompleteAndEndWithTheReference) {
  std::set<std::string_view> names;
  std::set<DecodeRow> decoders;
  for (const RowKernels& kernels : runnable_kernels()) {
    EXPECT_TRUE(names.insert(kernels.isa).second) << kernels.isa;
    // Code of its own: a table that borrowed another one's functions would not be tested by any comparison.
    EXPECT_TRUE(decoders.insert(kernels.decode[static_cast<std::size_t>(Format::Q4_K)]).second)
        << kernels.isa;
    EXPECT_NE(kernels.prepare, nullptr);
    EXPECT_NE(kernels.measure, nullptr);
    // The same formats everywhere.
    for (std::size_t id = 0; id < kFormatIdCount; ++id) {
      EXPECT_EQ(kernels.encode[id] == nullptr, runnable_kernels().back().encode[id] == nullptr)
          << kernels.isa << id;
      EXPECT_EQ(kernels.decode[id] == nullptr, runnable_kernels().back().decode[id] == nullptr)
          << kernels.isa << id;
    }
  }
#ifdef QUANTFIT_ALL_INSTRUCTION_SETS
  EXPECT_EQ(runnable_kernels().back().isa, "scalar");
#endif
}

TEST(DispatchTest, ThisMachinesBestInstructionSetIsThere) {
  const std::int64_t here = (hwy::SupportedTargets() | HWY_EMU128 | HWY_SCALAR) & HWY_TARGETS;
#ifdef QUANTFIT_ALL_INSTRUCTION_SETS
  const auto sets = static_cast<std::size_t>(std::popcount(static_cast<std::uint64_t>(here)));
#else
  const std::size_t sets = 1;
  EXPECT_NE(here, 0);
#endif
  EXPECT_EQ(runnable_kernels().size(), sets);
}

TEST(DispatchTest, TheBestTableIsTheDefault) {
  const ScopedVariable unset("QUANTFIT_ISA", nullptr);
  const auto kernels = default_kernels();
  ASSERT_TRUE(kernels);
  EXPECT_EQ(kernels.value(), &runnable_kernels().front());
  const ScopedVariable empty("QUANTFIT_ISA", "");
  EXPECT_EQ(default_kernels().value(), &runnable_kernels().front());
}

TEST(DispatchTest, TheForcedTableIsTheOneThatRuns) {
  for (const RowKernels& wanted : runnable_kernels()) {
    const ScopedVariable forced("QUANTFIT_ISA", std::string(wanted.isa).c_str());
    const auto kernels = default_kernels();
    ASSERT_TRUE(kernels) << wanted.isa;
    EXPECT_EQ(kernels.value()->isa, wanted.isa);
    EXPECT_EQ(kernels.value(), &wanted);
    // And its functions are those of the table, not of the best one.
    EXPECT_EQ(kernels.value()->decode, wanted.decode);
  }
}

TEST(DispatchTest, UnknownNameIsAnErrorThatListsTheNames) {
  for (const char* name : {"sse9", "AVX2", "avx", " scalar"}) {
    const ScopedVariable forced("QUANTFIT_ISA", name);
    const auto kernels = default_kernels();
    ASSERT_FALSE(kernels) << name;
    EXPECT_EQ(kernels.error().code, ErrorCode::InvalidArgument);
    EXPECT_THAT(kernels.error().message, testing::HasSubstr(name));
    for (const RowKernels& table : runnable_kernels())
      EXPECT_THAT(kernels.error().message, testing::HasSubstr(std::string(table.isa)));
  }
}

}  // namespace
}  // namespace quantfit::kernels
