#include "optimizer/job/second_look.h"

#include <gtest/gtest.h>

#include <numeric>

#include "optimizer/tuning/teacher.h"
#include "tests/optimizer/tuning/quantized_copy.h"
#include "tests/support/test_paths.h"

namespace quantfit::test {
namespace {

double sum_of(const std::map<std::string, double>& shares) {
  double sum = 0;
  for (const auto& [name, share] : shares) sum += share;
  return sum;
}

class SecondLookTest : public testing::Test {
 protected:
  std::map<std::string, double> shares(const Model& quantized, unsigned threads) {
    engine::RunOptions run;
    run.threads = threads;
    auto found = optimizer::shares_of_divergence(source, quantized, text.inputs(), run,
                                                 *kernels::default_kernels().value(), control);
    EXPECT_TRUE(found) << found.error().message;
    return found ? std::move(found).value() : std::map<std::string, double>{};
  }

  double divergence(const Model& quantized) {
    const auto base = engine::Engine::open(source).value();
    const auto student = engine::Engine::open(quantized).value();
    const engine::TokenWindows windows = text.inputs();
    const auto teacher = tuning::Teacher::run(base, windows, {}, true, progress, cancel).value();
    tuning::WindowList list(windows.lengths.size());
    std::iota(list.begin(), list.end(), 0U);
    const auto each = teacher.divergences(student, list, progress, cancel).value();
    return std::accumulate(each.begin(), each.end(), 0.0) / static_cast<double>(each.size());
  }

  TemporaryFolder folder;
  const Model& source = trained_model();
  const calibration::Text text = trained_text(6);
  NoProgress progress;
  CancellationToken cancel;
  optimizer::JobControl control{progress, cancel};
};

// The divergence of errors this small is quadratic: half the gradient times the error is all of it.
TEST_F(SecondLookTest, SharesAddUpToTheDivergence) {
  const Model quantized =
      quantized_copy(source, folder / "q.gguf", [](std::string_view) { return Format::Q5_0; });
  const auto found = shares(quantized, 2);
  EXPECT_EQ(found.size(), 44U);
  EXPECT_NEAR(sum_of(found) / divergence(quantized), 1.0, 0.05);
  EXPECT_EQ(found, shares(quantized, 1));
}

// One matrix alone, and the embedding alone: the others have no error and no share.
TEST_F(SecondLookTest, AShareIsThatOfItsTensor) {
  for (const std::string name : {"blk.2.ffn_down.weight", "token_embd.weight", "output.weight"}) {
    const Model quantized = quantized_copy(source, folder / "q.gguf", [&](std::string_view tensor) {
      return tensor == name ? Format::Q4_0 : Format::F16;
    });
    const auto found = shares(quantized, 2);
    ASSERT_EQ(found.size(), 1U) << name;
    ASSERT_TRUE(found.contains(name));
    EXPECT_NEAR(found.at(name) / divergence(quantized), 1.0, 0.1) << name;
    std::filesystem::remove(folder / "q.gguf");
  }
}

}  // namespace
}  // namespace quantfit::test
