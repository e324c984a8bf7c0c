#include "optimizer/measurement/file_covariances.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "tests/optimizer/small_covariances.h"
#include "tests/support/test_paths.h"

namespace quantfit::optimizer {
namespace {

constexpr std::uint32_t kColumns = 64;

TensorInfo tensor(const std::string& name, std::uint64_t columns, std::uint64_t experts) {
  TensorInfo info;
  info.name = name;
  info.format = Format::F16;
  info.n_dims = 3;
  info.ne = {columns, 8, experts, 1};
  return info;
}

std::vector<float> lower(const std::vector<float>& full, std::size_t n) {
  std::vector<float> packed;
  for (std::size_t i = 0; i < n; ++i)
    packed.insert(packed.end(), full.begin() + static_cast<std::ptrdiff_t>(i * n),
                  full.begin() + static_cast<std::ptrdiff_t>(i * n + i + 1));
  return packed;
}

// One input of one matrix, one of three experts that share it, the last of which was never reached.
FileCovariances covariances(const test::TemporaryFolder& folder, std::uint64_t cache = 1 << 30) {
  auto writer = SecondMomentsWriter::create(folder / "moments", {"m", "t", 1}).value();
  const std::vector<float> moments = lower(test::correlated_moments(kColumns, 1), kColumns);
  SecondMomentsInput one{"q", {"q"}, kColumns, kColumns, 1, 0};
  EXPECT_TRUE(writer.append(one, moments, {}, std::vector<double>{50}));
  SecondMomentsInput experts{"up", {"up"}, kColumns, kColumns, 1, 3};
  std::vector<float> diagonals(std::size_t{3} * kColumns, 0.0F);
  for (std::size_t j = 0; j < 2 * kColumns; ++j) diagonals[j] = 1.0F + static_cast<float>(j);
  EXPECT_TRUE(writer.append(experts, moments, diagonals, std::vector<double>{5, 7, 0}));
  EXPECT_TRUE(writer.commit());
  return FileCovariances(SecondMomentsFile::open(folder / "moments").value(), 0.03F, cache);
}

TEST(FileCovariances, GivesEveryMatrixItsOwn) {
  const test::TemporaryFolder folder;
  const FileCovariances provider = covariances(folder);
  const auto q = provider.covariance(tensor("q", kColumns, 1), 0).value();
  ASSERT_NE(q, nullptr);
  // Fewer rows than columns: much of what lies beside the diagonal is left out.
  const auto expected = kernels::CovarianceFactor::make(kColumns, test::correlated_moments(kColumns, 1),
                                                        kernels::CovarianceFactor::kDamping, 0.2F)
                            .value();
  EXPECT_EQ(*q->feedback(3, 9), *expected.feedback(3, 9));
  EXPECT_EQ(provider.covariance(tensor("q", kColumns, 1), 0).value(), q);
  const auto first = provider.covariance(tensor("up", kColumns, 3), 0).value();
  const auto second = provider.covariance(tensor("up", kColumns, 3), 1).value();
  ASSERT_NE(first, nullptr);
  ASSERT_NE(second, nullptr);
  EXPECT_FLOAT_EQ(static_cast<float>(first->scale()), 32.5F);
  EXPECT_FLOAT_EQ(static_cast<float>(second->scale()), 96.5F);
  EXPECT_EQ(provider.covariance(tensor("up", kColumns, 3), 2).value(), nullptr);
  EXPECT_EQ(provider.covariance(tensor("other", kColumns, 1), 0).value(), nullptr);
  EXPECT_EQ(provider.covariance(tensor("q", 32, 1), 0).error().code, ErrorCode::ShapeMismatch);
  EXPECT_EQ(provider.covariance(tensor("up", kColumns, 4), 0).error().code, ErrorCode::ShapeMismatch);
  EXPECT_NE(provider.identity(),
            FileCovariances(SecondMomentsFile::open(folder / "moments").value(), 0.1F).identity());
}

TEST(FileCovariances, FewRowsAreTrustedLess) {
  EXPECT_EQ(FileCovariances::shrinkage_for(256, 0), 0.2F);
  EXPECT_EQ(FileCovariances::shrinkage_for(256, 256), 0.2F);
  EXPECT_FLOAT_EQ(FileCovariances::shrinkage_for(256, 256 * 20), 0.06F);
  EXPECT_FLOAT_EQ(FileCovariances::shrinkage_for(4096, 4096 * 50), 0.015F);
  EXPECT_EQ(FileCovariances::shrinkage_for(256, 256 * 100), 0.0F);
  EXPECT_EQ(FileCovariances::shrinkage_for(256, 1e9), 0.0F);
}

TEST(FileCovariances, AreMadeAgainWhenTheyDoNotFit) {
  const test::TemporaryFolder folder;
  const FileCovariances provider = covariances(folder, 1);
  const auto q = provider.covariance(tensor("q", kColumns, 1), 0).value();
  ASSERT_TRUE(provider.covariance(tensor("up", kColumns, 3), 1));
  const auto again = provider.covariance(tensor("q", kColumns, 1), 0).value();
  EXPECT_NE(again, q);
  EXPECT_EQ(*again->feedback(3, 9), *q->feedback(3, 9));
}

TEST(FileCovariances, ThreadsShareThem) {
  const test::TemporaryFolder folder;
  const FileCovariances provider = covariances(folder, 40'000);
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) {
        const auto factor =
            provider.covariance(tensor("up", kColumns, 3), static_cast<std::uint64_t>((t + i) % 2));
        if (!factor || factor.value() == nullptr || factor.value()->columns() != kColumns) ++wrong;
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace quantfit::optimizer
