#include "core/shard_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "core/gguf_writer.h"
#include "core/model.h"
#include "tests/core/gguf_bytes.h"
#include "tests/support/test_paths.h"

namespace quantfit {
namespace {

TensorInfo tensor(const std::string& name, std::uint64_t columns, std::uint64_t rows) {
  TensorInfo info;
  info.name = name;
  info.n_dims = 2;
  info.ne = {columns, rows, 1, 1};
  info.format = Format::F32;
  return info;
}

std::vector<TensorInfo> tensors() {
  std::vector<TensorInfo> all;
  for (int i = 0; i < 12; ++i)
    all.push_back(tensor(fmt::format("blk.{}.{}.weight", i, std::string(static_cast<std::size_t>(i), 'x')),
                         33, static_cast<std::uint64_t>(1 + i % 5)));
  all.push_back(tensor("empty.weight", 0, 7));
  return all;
}

GgufMetadata metadata() {
  GgufMetadata all;
  all.add(GgufKeyValue::of_string("general.architecture", "llama"));
  all.add(GgufKeyValue::of_uint32("llama.block_count", 12));
  return all;
}

// Writes the planned files with data of one value per tensor.
void write_files(const std::vector<PlannedShard>& plan, const std::filesystem::path& path) {
  const auto all = tensors();
  std::vector<GgufWriter> writers;
  for (std::size_t i = 0; i < plan.size(); ++i) {
    const auto own = std::span(all).subspan(plan[i].first_tensor, plan[i].tensors);
    auto writer = GgufWriter::create(shard_path(path, i, plan.size()),
                                     shard_metadata(metadata(), i, plan.size(), all.size()), own);
    ASSERT_VALUE(writer);
    for (const TensorInfo& info : own) {
      const std::vector<float> values(info.elements(), static_cast<float>(info.name.size()));
      ASSERT_VALUE(writer.value().append(std::as_bytes(std::span(values))));
    }
    ASSERT_VALUE(writer.value().seal());
    writers.push_back(std::move(writer).value());
  }
  ASSERT_VALUE(GgufWriter::commit_together(writers));
}

TEST(ShardPlan, OneFileWhereEverythingFits) {
  const auto all = tensors();
  const std::uint64_t whole = gguf_file_bytes(metadata(), all).value();
  for (const ShardLimits limits :
       {ShardLimits{}, ShardLimits{whole, 0}, ShardLimits{0, 13}, ShardLimits{whole, 13}}) {
    const auto plan = plan_shards(metadata(), all, limits);
    ASSERT_VALUE(plan);
    ASSERT_EQ(plan.value().size(), 1U);
    EXPECT_EQ(plan.value()[0].tensors, 13U);
    EXPECT_EQ(plan.value()[0].file_bytes, whole);
  }
  EXPECT_EQ(plan_shards(metadata(), all, {whole - 1, 0}).value().size(), 2U);
  EXPECT_EQ(plan_shards(metadata(), all, {0, 12}).value().size(), 2U);
  EXPECT_EQ(shard_path("a/m.gguf", 0, 1), "a/m.gguf");
  EXPECT_EQ(shard_metadata(metadata(), 0, 1, 13).find("split.count"), nullptr);
}

TEST(ShardPlan, FilesKeepTheLimitsAndHaveTheSizesPlanned) {
  const auto all = tensors();
  const std::uint64_t whole = gguf_file_bytes(metadata(), all).value();
  for (std::uint64_t max_bytes = 0; max_bytes < whole; max_bytes += 97)
    for (const std::uint64_t max_tensors : {0U, 1U, 3U, 5U}) {
      const ShardLimits limits{max_bytes, max_tensors};
      const auto plan = plan_shards(metadata(), all, limits);
      ASSERT_VALUE(plan);
      std::size_t next = 0;
      std::uint64_t sum = 0;
      for (const PlannedShard& shard : plan.value()) {
        EXPECT_EQ(shard.first_tensor, next);
        ASSERT_GE(shard.tensors, 1U);
        next += shard.tensors;
        sum += shard.file_bytes;
        if (max_bytes != 0 && shard.tensors > 1) {
          EXPECT_LE(shard.file_bytes, max_bytes);
        }
        if (max_tensors != 0) {
          EXPECT_LE(shard.tensors, max_tensors);
        }
      }
      EXPECT_EQ(next, all.size());
      EXPECT_LE(sum, whole + most_shard_overhead(limits, all.size(), whole));
    }
}

TEST(ShardPlan, FilesAreReadAsOneModel) {
  const test::TemporaryFolder folder;
  const auto all = tensors();
  const auto plan = plan_shards(metadata(), all, {1200, 4}).value();
  ASSERT_GE(plan.size(), 4U);
  write_files(plan, folder / "m.gguf");
  EXPECT_FALSE(std::filesystem::exists(folder / "m.gguf"));
  for (std::size_t i = 0; i < plan.size(); ++i)
    EXPECT_EQ(std::filesystem::file_size(shard_path(folder / "m.gguf", i, plan.size())), plan[i].file_bytes)
        << i;
  const auto model = Model::open(folder / fmt::format("m-00001-of-{:05}.gguf", plan.size()));
  ASSERT_VALUE(model);
  EXPECT_EQ(model.value().shards().size(), plan.size());
  ASSERT_EQ(model.value().tensors().size(), all.size());
  EXPECT_EQ(model.value().architecture(), "llama");
  for (std::size_t t = 0; t < all.size(); ++t) {
    const TensorInfo& read = model.value().tensors()[t];
    EXPECT_EQ(read.name, all[t].name);
    float value = 0;
    if (read.bytes == 0) continue;
    std::memcpy(&value, model.value().data(read).data(), sizeof(value));
    EXPECT_EQ(value, static_cast<float>(read.name.size()));
  }
}

TEST(ShardPlan, AtMostAsManyFilesAsTheirCountCanSay) {
  std::vector<TensorInfo> many;
  for (int i = 0; i < 65536; ++i) many.push_back(tensor(fmt::format("t.{}", i), 0, 1));
  const auto refused = plan_shards(metadata(), many, {0, 1});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::Unsupported);
  many.pop_back();
  EXPECT_EQ(plan_shards(metadata(), many, {0, 1}).value().size(), 65535U);
}

}  // namespace
}  // namespace quantfit
