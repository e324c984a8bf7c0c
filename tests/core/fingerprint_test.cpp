#include "core/fingerprint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "core/gguf_writer.h"
#include "tests/core/gguf_bytes.h"
#include "tests/support/test_paths.h"

namespace quantfit {
namespace {

std::filesystem::path gguf(const std::string& name) {
  return test::data_dir() / "gguf" / name;
}

std::string of_model(const std::filesystem::path& path) {
  const auto model = Model::open(path);
  EXPECT_TRUE(model);
  return model ? fingerprint(model.value()) : std::string();
}

// Two tensors, the second large enough to be sampled rather than hashed whole.
struct Sample {
  std::vector<std::byte> small = std::vector<std::byte>(64, std::byte{1});
  std::vector<std::byte> large = std::vector<std::byte>(400000, std::byte{2});
  std::string small_name = "a";
  std::array<std::uint64_t, 4> large_shape = {1000, 100, 1, 1};
  Format large_format = Format::F32;
  bool reversed = false;
  std::string architecture = "x";

  [[nodiscard]] std::string fingerprint_of(const test::TemporaryFolder& folder) const {
    GgufMetadata metadata;
    metadata.add(GgufKeyValue::of_string("general.architecture", architecture));
    TensorInfo a;
    a.name = small_name;
    a.ne = {16, 1, 1, 1};
    TensorInfo b;
    b.name = "b";
    b.n_dims = 4;
    b.ne = large_shape;
    b.format = large_format;
    std::vector<TensorInfo> tensors = {a, b};
    if (reversed) std::ranges::reverse(tensors);
    auto writer = GgufWriter::create(folder / "sample.gguf", metadata, tensors);
    EXPECT_TRUE(writer);
    for (const auto& data : {reversed ? large : small, reversed ? small : large})
      EXPECT_TRUE(writer.value().append(data));
    EXPECT_TRUE(writer.value().commit());
    return of_model(folder / "sample.gguf");
  }
};

TEST(Fingerprint, IsThirtyTwoHexadecimalDigits) {
  EXPECT_THAT(of_model(gguf("tiny.gguf")), ::testing::MatchesRegex("[0-9a-f]{32}"));
  // Measurements in state files belong to this text: it must not change by accident.
  EXPECT_EQ(of_model(gguf("tiny.gguf")), "315a28980e8197b02a9beface4bfcffb");
}

TEST(Fingerprint, SameForOtherShardingVersionAndAlignment) {
  const std::string expected = of_model(gguf("tiny.gguf"));
  EXPECT_EQ(of_model(gguf("tiny-00001-of-00003.gguf")), expected);
  EXPECT_EQ(of_model(gguf("tiny-v2.gguf")), expected);
  EXPECT_EQ(of_model(gguf("tiny-align64.gguf")), expected);
}

TEST(Fingerprint, KnowsModelsApart) {
  const test::TemporaryFolder folder;
  const std::string original = Sample{}.fingerprint_of(folder);
  EXPECT_EQ(Sample{}.fingerprint_of(folder), original);
  EXPECT_EQ(Sample{.reversed = true}.fingerprint_of(folder), original);
  EXPECT_EQ(Sample{.architecture = "y"}.fingerprint_of(folder), original);  // renaming is no new model
  EXPECT_NE(Sample{.small_name = "c"}.fingerprint_of(folder), original);
  EXPECT_NE((Sample{.large_shape = {100, 1000, 1, 1}}.fingerprint_of(folder)), original);
  EXPECT_NE((Sample{.large_shape = {2000, 100, 1, 1}, .large_format = Format::BF16}.fingerprint_of(folder)),
            original);
  for (const std::size_t at :
       {std::size_t{0}, std::size_t{4095}, std::size_t{399999}, std::size_t{400000 - 4096}}) {
    Sample changed;
    changed.large[at] = std::byte{3};
    EXPECT_NE(changed.fingerprint_of(folder), original) << at;
  }
  Sample changed;
  changed.small[63] = std::byte{3};
  EXPECT_NE(changed.fingerprint_of(folder), original);
  // A fine-tune changes a little everywhere: every 100th weight.
  Sample tuned;
  for (std::size_t i = 0; i < tuned.large.size(); i += 400) tuned.large[i] = std::byte{3};
  EXPECT_NE(tuned.fingerprint_of(folder), original);
}

std::string weights_of(const std::filesystem::path& path) {
  NoProgress progress;
  const CancellationToken cancel;
  const auto model = Model::open(path);
  EXPECT_TRUE(model);
  const auto digest = weights_digest(model.value(), progress, cancel);
  EXPECT_TRUE(digest);
  return digest.value();
}

TEST(WeightsDigest, SeesEveryWeightAndNeitherOrderNorSharding) {
  const test::TemporaryFolder folder;
  const std::string original = Sample{}.fingerprint_of(folder);
  const std::string weights = weights_of(folder / "sample.gguf");
  EXPECT_THAT(weights, ::testing::MatchesRegex("[0-9a-f]{32}"));
  EXPECT_EQ(Sample{.reversed = true}.fingerprint_of(folder), original);
  EXPECT_EQ(weights_of(folder / "sample.gguf"), weights);
  Sample changed;
  changed.large[5000] = std::byte{3};  // between two pieces of the sample
  EXPECT_EQ(changed.fingerprint_of(folder), original);
  EXPECT_NE(weights_of(folder / "sample.gguf"), weights);
  EXPECT_EQ(weights_of(gguf("tiny-00001-of-00003.gguf")), weights_of(gguf("tiny.gguf")));

  const auto model = Model::open(gguf("tiny.gguf"));
  NoProgress progress;
  CancellationToken cancel;
  cancel.cancel();
  EXPECT_EQ(weights_digest(model.value(), progress, cancel).error().code, ErrorCode::Interrupted);
}

TEST(Fingerprint, OtherPrecisionIsAnotherModel) {
  const auto shared = test::shared_dir();
  if (!shared)
    GTEST_SKIP() << "the larger conformance data are absent: F16 and BF16 of one model were not compared";
  EXPECT_NE(of_model(*shared / "models/tale-dense-F16.gguf"),
            of_model(*shared / "models/tale-dense-BF16.gguf"));
  EXPECT_EQ(of_model(*shared / "models/tale-dense-F16.gguf"),
            of_model(test::data_dir() / "tale-dense-F16.gguf"));
}

TEST(Fingerprint, OfImportance) {
  const test::TemporaryFolder folder;
  const auto of = [](const std::filesystem::path& path) {
    const auto matrix = ImportanceMatrix::read(path);
    EXPECT_TRUE(matrix);
    return matrix ? fingerprint(matrix.value()) : std::string();
  };
  const std::string original = of(gguf("imatrix.gguf"));
  EXPECT_THAT(original, ::testing::MatchesRegex("[0-9a-f]{32}"));
  auto bytes = test::read_file(gguf("imatrix.gguf"));
  test::write_file(folder / "renamed.gguf", bytes);
  EXPECT_EQ(of(folder / "renamed.gguf"), original);
  // The lowest bit of some float in the data section: one value of one entry.
  const auto model = Model::open(gguf("imatrix.gguf"));
  ASSERT_VALUE(model);
  const TensorInfo* sums = model.value().find("blk.1.attn_q.weight.in_sum2");
  ASSERT_NE(sums, nullptr);
  bytes[model.value().shards()[0].data_offset + sums->offset + 40] ^= std::byte{1};
  test::write_file(folder / "changed.gguf", bytes);
  EXPECT_NE(of(folder / "changed.gguf"), original);
  EXPECT_NE(of(gguf("imatrix.dat")), original);
}

}  // namespace
}  // namespace quantfit
