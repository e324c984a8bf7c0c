#include "optimizer/output/encoded_tensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <thread>

#include "optimizer/output/model_writer.h"
#include "tests/optimizer/small_model.h"

namespace quantfit::optimizer {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<test::SmallTensor> tensors() {
  return {{"token_embd.weight", {512, 700, 1}, Format::F16, {}, {}},
          {"blk.0.attn_norm.weight", {256, 1, 1}, Format::F32, {}, {}},
          {"blk.0.attn_q.weight", {256, 300, 1}, Format::F16, {}, {1000}},
          {"blk.0.ffn_up_exps.weight", {256, 40, 4}, Format::F16, {}, {500, 300, 200, 0}},
          {"output.weight", {512, 70, 1}, Format::F16, {}, {1000}}};
}

// Three tensors are encoded, in formats by the case; the norm and the output head are copied.
Recipe recipe_of(const Model& model, Format attention) {
  const std::map<std::string, Format> formats = {{"token_embd.weight", Format::Q4_0},
                                                 {"blk.0.attn_q.weight", attention},
                                                 {"blk.0.ffn_up_exps.weight", Format::IQ4_XS}};
  Recipe recipe;
  for (const TensorInfo& tensor : model.tensors()) {
    const auto found = formats.find(tensor.name);
    recipe.entries.push_back({tensor.name, found == formats.end() ? tensor.format : found->second});
  }
  return recipe;
}

class Reuse : public ::testing::Test {
 protected:
  Result<WriteSummary> write(const std::string& name, Format attention, const ReuseSources& reuse = {},
                             const WriterOptions& changed = {}, const Model* model = nullptr) {
    WriterOptions options = changed;
    options.threads = 3;
    options.reuse = reuse;
    options.existing = Existing::Replace;
    options.keys = {GgufKeyValue::of_string("quantfit.effort", kernels::to_string(options.effort)),
                    uint64_array(kTensorInputs, std::vector<std::uint64_t>(5)),
                    uint64_array(kTensorData, std::vector<std::uint64_t>(5))};
    NoProgress progress;
    const CancellationToken cancel;
    const Model& source = model != nullptr ? *model : small_.model();
    return write_model(source, small_.importance(), recipe_of(source, attention), folder_ / name, options,
                       kernels::runnable_kernels().front(), progress, cancel);
  }
  // Writes with and without: the same bytes, and so many tensors of three were taken.
  WriteSummary expect_same(const ReuseSources& reuse, std::uint64_t reused, const WriterOptions& options = {},
                           const Model* model = nullptr) {
    EXPECT_TRUE(write("plain.gguf", Format::Q4_K, {}, options, model));
    const auto with = write("with.gguf", Format::Q4_K, reuse, options, model);
    if (!with) {
      ADD_FAILURE() << with.error().message;
      return {};
    }
    EXPECT_TRUE(test::read_file(folder_ / "with.gguf") == test::read_file(folder_ / "plain.gguf"));
    EXPECT_EQ(with.value().encoded_tensors, 3U);
    EXPECT_EQ(with.value().reused_tensors, reused);
    return with.value();
  }
  // A byte of the tensor's data is changed.
  static void damage(const fs::path& path, std::size_t tensor, std::size_t byte) {
    std::uint64_t at = byte;
    {
      const auto model = Model::open(path);
      ASSERT_TRUE(model);
      at += model.value().shards()[0].data_offset + model.value().tensors()[tensor].offset;
    }
    auto bytes = test::read_file(path);
    bytes[at] ^= std::byte{16};
    test::write_file(path, bytes);
  }
  [[nodiscard]] std::size_t entries() const {
    return static_cast<std::size_t>(
        std::distance(fs::directory_iterator(folder_ / "cache"), fs::directory_iterator()));
  }

  test::SmallModel small_{tensors()};
  test::TemporaryFolder folder_;
};

TEST_F(Reuse, TheSameBytesFromAnotherFile) {
  ASSERT_TRUE(write("earlier.gguf", Format::Q5_K));
  const auto summary = expect_same({{folder_ / "earlier.gguf"}, {}}, 2);  // attention has another format
  EXPECT_THAT(summary.notes, IsEmpty());
  const auto first = write("again.gguf", Format::Q5_K, {{folder_ / "earlier.gguf"}, {}});
  ASSERT_TRUE(first);
  EXPECT_EQ(first.value().reused_tensors, 3U);
  EXPECT_TRUE(test::read_file(folder_ / "again.gguf") == test::read_file(folder_ / "earlier.gguf"));
}

TEST_F(Reuse, OfFilesInPiecesAndIntoPieces) {
  WriterOptions pieces;
  pieces.split.max_tensors = 2;
  const auto earlier = write("earlier.gguf", Format::Q5_K, {}, pieces);
  ASSERT_TRUE(earlier);
  ASSERT_EQ(earlier.value().files.size(), 3U);
  const fs::path first = earlier.value().files[0];
  EXPECT_THAT(expect_same({{first}, {}}, 2).notes, IsEmpty());
  const auto again = write("again.gguf", Format::Q5_K, {{first}, {}}, pieces);
  ASSERT_TRUE(again);
  EXPECT_EQ(again.value().reused_tensors, 3U);
  for (std::size_t i = 0; i < 3; ++i)
    EXPECT_TRUE(test::read_file(again.value().files[i]) == test::read_file(earlier.value().files[i]));
}

TEST_F(Reuse, WhatDiffersIsEncodedAnew) {
  ASSERT_TRUE(write("earlier.gguf", Format::Q4_K));
  const ReuseSources reuse{{folder_ / "earlier.gguf"}, {}};
  expect_same(reuse, 3);
  WriterOptions fast;
  fast.effort = kernels::Effort::Fast;
  EXPECT_THAT(expect_same(reuse, 0, fast).notes, ElementsAre(HasSubstr("another --effort")));
  WriterOptions kappa;
  kappa.error_model.kappa = 2;
  expect_same(reuse, 0, kappa);
  // One weight of one tensor, where the fingerprint does not look.
  const fs::path other = folder_ / "other.gguf";
  fs::copy_file(small_.path(), other);
  damage(other, 0, 64000);
  const auto changed = Model::open(other);
  ASSERT_TRUE(changed);
  expect_same(reuse, 2, {}, &changed.value());
  // Without an importance matrix only what had none before is the same.
  WriterOptions options;
  options.reuse = reuse;
  NoProgress progress;
  const auto without =
      write_model(small_.model(), nullptr, recipe_of(small_.model(), Format::Q4_K), folder_ / "without.gguf",
                  options, kernels::runnable_kernels().front(), progress, CancellationToken());
  ASSERT_TRUE(without);
  EXPECT_EQ(without.value().reused_tensors, 1U);
}

TEST_F(Reuse, DamageAndForeignFilesCostOnlyTime) {
  ASSERT_TRUE(write("earlier.gguf", Format::Q4_K));
  damage(folder_ / "earlier.gguf", 3, 100);
  EXPECT_THAT(expect_same({{folder_ / "earlier.gguf"}, {}}, 2).notes,
              ElementsAre(HasSubstr("'blk.0.ffn_up_exps.weight' is damaged")));
  EXPECT_THAT(expect_same({{small_.path()}, {}}, 0).notes, ElementsAre(HasSubstr("does not say")));
  const auto missing = write("x.gguf", Format::Q4_K, {{folder_ / "no.gguf"}, {}});
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::Io);
}

TEST_F(Reuse, CacheRemembersTensors) {
  const ReuseSources cache{{}, folder_ / "cache"};
  expect_same(cache, 0);
  EXPECT_EQ(entries(), 3U);
  expect_same(cache, 3);
  const auto other = write("other.gguf", Format::Q5_K, cache);
  ASSERT_TRUE(other);
  EXPECT_EQ(other.value().reused_tensors, 2U);
  EXPECT_EQ(entries(), 4U);
}

TEST_F(Reuse, CacheEntriesThatAreDamagedAreMadeAnew) {
  const ReuseSources cache{{}, folder_ / "cache"};
  expect_same(cache, 0);
  std::size_t number = 0;
  for (const auto& entry : fs::directory_iterator(folder_ / "cache")) {
    if (number == 0) damage(entry.path(), 0, 5);
    if (number == 1) fs::resize_file(entry.path(), 100);
    if (number == 2) test::write_file(entry.path(), {});
    ++number;
  }
  expect_same(cache, 0);
  expect_same(cache, 3);
}

TEST_F(Reuse, CacheIsBoundedAndOldestGoFirst) {
  ReuseSources cache{{}, folder_ / "cache"};
  test::write_file(folder_ / "note.txt", {});
  expect_same(cache, 0);
  fs::rename(folder_ / "note.txt", folder_ / "cache" / "note.txt");  // not ours: stays
  fs::path oldest;
  std::uint64_t total = 0;
  for (const auto& entry : fs::directory_iterator(folder_ / "cache")) {
    if (entry.path().extension() != ".gguf") continue;
    total += entry.file_size();
    if (!oldest.empty()) continue;
    oldest = entry.path();
    fs::last_write_time(oldest, fs::file_time_type::clock::now() - std::chrono::hours(1));
  }
  cache.cache_bytes = total;
  const auto other = write("other.gguf", Format::Q3_K, cache);  // one more: room is made by the oldest
  ASSERT_TRUE(other);
  EXPECT_TRUE(fs::exists(folder_ / "cache" / "note.txt"));
  std::uint64_t now = 0;
  for (const auto& entry : fs::directory_iterator(folder_ / "cache")) now += entry.file_size();
  EXPECT_LE(now, total);
  // Too small for anything: nothing is kept, and nothing fails.
  cache.cache = folder_ / "tiny";
  cache.cache_bytes = 1000;
  expect_same(cache, 0);
  EXPECT_TRUE(fs::is_empty(folder_ / "tiny"));
}

TEST_F(Reuse, CacheIsSharedByWritersAtOnce) {
  const ReuseSources cache{{}, folder_ / "cache"};
  ASSERT_TRUE(write("plain.gguf", Format::Q4_K));
  std::vector<std::thread> writers;
  for (int i = 0; i < 4; ++i)
    writers.emplace_back([&, i] {
      const auto done = write(fmt::format("{}.gguf", i), Format::Q4_K, cache);
      ASSERT_TRUE(done);
      EXPECT_THAT(done.value().notes, IsEmpty());
    });
  for (std::thread& writer : writers) writer.join();
  for (int i = 0; i < 4; ++i)
    EXPECT_TRUE(test::read_file(folder_ / fmt::format("{}.gguf", i)) ==
                test::read_file(folder_ / "plain.gguf"));
  EXPECT_EQ(entries(), 3U);
  expect_same(cache, 3);
}

TEST_F(Reuse, CacheThatCannotBeWrittenEndsNothing) {
  fs::create_directory(folder_ / "cache");
  const ReuseSources cache{{}, folder_ / "cache"};
  expect_same(cache, 0);
  for (const auto& entry : fs::directory_iterator(folder_ / "cache")) {
    const fs::path& path = entry.path();
    fs::remove(path);
    fs::create_directory(path);  // in the way of an entry
  }
  EXPECT_THAT(expect_same(cache, 0).notes, ElementsAre(HasSubstr("the cache keeps no more tensors")));
  test::write_file(folder_ / "file", {});
  const auto refused = write("x.gguf", Format::Q4_K, {{}, folder_ / "file"});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::Io);
}

}  // namespace
}  // namespace quantfit::optimizer
