#include "core/model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "core/mapped_file.h"
#include "tests/core/gguf_bytes.h"
#include "tests/support/test_paths.h"

namespace quantfit {
namespace {

using test::GgufBytes;
using ::testing::HasSubstr;

std::filesystem::path gguf(const std::string& name) {
  return test::data_dir() / "gguf" / name;
}

std::vector<std::byte> copy(std::span<const std::byte> bytes) {
  return {bytes.begin(), bytes.end()};
}

// Two shards of one F32 tensor each, with what differs from the right one.
struct Shards {
  std::uint16_t count0 = 2, count1 = 2, no0 = 0, no1 = 1;
  std::int32_t total = 2;
  std::string second_name = "b";
  GgufType count_type = GgufType::UInt16;

  void write(const test::TemporaryFolder& folder, const std::string& prefix = "m") const {
    const auto shard = [&](std::uint16_t no, std::uint16_t count, const std::string& tensor, float value) {
      GgufBytes file(1, 3);
      file.key("split.no", GgufType::UInt16, no);
      if (count_type == GgufType::UInt16)
        file.key("split.count", GgufType::UInt16, count);
      else
        file.key("split.count", count_type, std::uint32_t{count});
      file.key("split.tensors.count", GgufType::Int32, total).tensor(tensor, {2}, 0, 0).pad();
      return file.put(value).put(value).pad().bytes();
    };
    test::write_file(folder / (prefix + "-00001-of-00002.gguf"), shard(no0, count0, "a", 1));
    test::write_file(folder / (prefix + "-00002-of-00002.gguf"), shard(no1, count1, second_name, 2));
  }
};

std::string open_error(const std::filesystem::path& path, ErrorCode code = ErrorCode::Malformed) {
  const auto model = Model::open(path);
  if (model) return "accepted";
  EXPECT_EQ(model.error().code, code) << model.error().message;
  return model.error().message;
}

TEST(Model, ShardsHoldTheSameTensorsAsTheWholeFile) {
  const auto whole = Model::open(gguf("tiny.gguf"));
  ASSERT_VALUE(whole);
  for (const char* name : {"tiny-v2.gguf", "tiny-align64.gguf", "tiny-00001-of-00003.gguf"}) {
    SCOPED_TRACE(name);
    const auto other = Model::open(gguf(name));
    ASSERT_VALUE(other);
    ASSERT_EQ(other.value().tensors().size(), whole.value().tensors().size());
    EXPECT_EQ(other.value().total_elements(), whole.value().total_elements());
    EXPECT_EQ(other.value().total_tensor_bytes(), whole.value().total_tensor_bytes());
    for (const TensorInfo& tensor : whole.value().tensors()) {
      const TensorInfo* found = other.value().find(tensor.name);
      ASSERT_NE(found, nullptr) << tensor.name;
      EXPECT_EQ(found->ne, tensor.ne);
      EXPECT_EQ(found->format, tensor.format);
      EXPECT_EQ(copy(other.value().data(*found)), copy(whole.value().data(tensor))) << tensor.name;
    }
    for (const GgufKeyValue& pair : whole.value().metadata().all()) {
      const GgufKeyValue* found = other.value().metadata().find(pair.key);
      ASSERT_NE(found, nullptr) << pair.key;
      EXPECT_EQ(found->bytes, pair.bytes);
    }
  }
  const auto sharded = Model::open(gguf("tiny-00001-of-00003.gguf"));
  ASSERT_EQ(sharded.value().shards().size(), 3U);
  EXPECT_EQ(sharded.value().shards()[2].path.filename(), "tiny-00003-of-00003.gguf");
}

TEST(Model, MetadataAndLookup) {
  const auto opened = Model::open(gguf("tiny.gguf"));
  ASSERT_VALUE(opened);
  const Model& model = opened.value();
  EXPECT_EQ(model.architecture(), "llama");
  ASSERT_NE(model.arch_key("block_count"), nullptr);
  EXPECT_EQ(model.arch_key("block_count")->as_uint(), 2U);
  EXPECT_EQ(model.arch_key("nothing"), nullptr);
  EXPECT_EQ(model.find("nothing"), nullptr);
  EXPECT_EQ(model.shards().size(), 1U);
  EXPECT_EQ(model.shards()[0].file_bytes, std::filesystem::file_size(gguf("tiny.gguf")));
}

TEST(Model, RowsAreSlicesOfTheData) {
  const auto opened = Model::open(gguf("tiny.gguf"));
  ASSERT_VALUE(opened);
  const Model& model = opened.value();
  for (const TensorInfo& tensor : model.tensors()) {
    const auto data = model.data(tensor);
    ASSERT_EQ(data.size(), tensor.bytes);
    std::vector<std::byte> joined;
    for (std::uint64_t row = 0; row < tensor.rows(); ++row) {
      const auto bytes = model.row(tensor, row);
      joined.insert(joined.end(), bytes.begin(), bytes.end());
    }
    EXPECT_EQ(joined, copy(data)) << tensor.name;
    EXPECT_TRUE(model.row(tensor, tensor.rows()).empty());
    model.will_need(data);
    model.done_with(data);
    EXPECT_EQ(joined, copy(data)) << tensor.name;  // hints change nothing
  }
}

TEST(Model, LastPaddingMayBeAbsent) {
  const auto model = Model::open(gguf("no-final-padding.gguf"));
  ASSERT_VALUE(model);
  EXPECT_EQ(model.value().data(model.value().tensors()[0]).size(), 12U);
}

TEST(Model, KeysAlone) {
  const auto model = Model::open(gguf("kv-only.gguf"));
  ASSERT_VALUE(model);
  EXPECT_TRUE(model.value().tensors().empty());
  EXPECT_EQ(model.value().architecture(), "x");
}

TEST(Model, MetadataOnlyNeedsNoData) {
  const test::TemporaryFolder folder;
  auto bytes = test::read_file(gguf("tiny.gguf"));
  const auto whole = Model::open(gguf("tiny.gguf"));
  const std::uint64_t data_offset = whole.value().shards()[0].data_offset;
  bytes.resize(data_offset + 2600);  // the first tensor is there, the second only in part
  test::write_file(folder / "head.gguf", bytes);
  EXPECT_THAT(open_error(folder / "head.gguf"), HasSubstr("truncated"));
  const auto head = Model::open(folder / "head.gguf", OpenMode::MetadataOnly);
  ASSERT_VALUE(head);
  EXPECT_EQ(head.value().total_elements(), whole.value().total_elements());
  EXPECT_EQ(head.value().data(head.value().tensors()[0]).size(), 2560U);
  EXPECT_TRUE(head.value().data(head.value().tensors()[1]).empty());
  EXPECT_TRUE(head.value().row(head.value().tensors()[1], 0).empty());
}

TEST(Model, ShardsMustAgree) {
  const test::TemporaryFolder folder;
  const std::filesystem::path first = folder / "m-00001-of-00002.gguf";
  Shards{}.write(folder);
  EXPECT_EQ(open_error(first), "accepted");
  EXPECT_THAT(open_error(folder / "m-00002-of-00002.gguf", ErrorCode::Unsupported),
              HasSubstr("shard 2 of 2; open the first one, m-00001-of-00002.gguf"));
  Shards{.total = 3}.write(folder);
  EXPECT_THAT(open_error(first), HasSubstr("hold 2 tensors, but split.tensors.count is 3"));
  Shards{.total = -2}.write(folder);
  EXPECT_THAT(open_error(first), HasSubstr("split.tensors.count is negative"));
  Shards{.second_name = "a"}.write(folder);
  EXPECT_THAT(open_error(first), HasSubstr("'a' is in shard 1 and again in shard 2"));
  Shards{.count1 = 3}.write(folder);
  EXPECT_THAT(open_error(first), HasSubstr("split.count is 3, but the first shard says 2"));
  Shards{.no1 = 0}.write(folder);
  EXPECT_THAT(open_error(first), HasSubstr("split.no is 0, expected 1"));
  Shards{.no0 = 5}.write(folder);
  EXPECT_THAT(open_error(first), HasSubstr("split.no is 5, but split.count is 2"));
  Shards{.count_type = GgufType::UInt32}.write(folder);
  EXPECT_THAT(open_error(first), HasSubstr("split.count has value type 4, expected 2"));
  Shards{}.write(folder);
  std::filesystem::copy_file(first, folder / "renamed.gguf");
  EXPECT_THAT(open_error(folder / "renamed.gguf"), HasSubstr("must end with -00001-of-00002.gguf"));
  std::filesystem::copy_file(first, folder / "-00001-of-00002.gguf");
  EXPECT_THAT(open_error(folder / "-00001-of-00002.gguf"), HasSubstr("after a prefix"));
  std::filesystem::remove(folder / "m-00002-of-00002.gguf");
  EXPECT_THAT(open_error(first, ErrorCode::Io), HasSubstr("m-00002-of-00002.gguf"));
}

TEST(Model, CountZeroIsAMergedFile) {
  const test::TemporaryFolder folder;
  Shards{.count0 = 0}.write(folder);
  const auto model = Model::open(folder / "m-00001-of-00002.gguf");
  ASSERT_VALUE(model);
  EXPECT_EQ(model.value().shards().size(), 1U);
}

TEST(Model, WhatIsNoFileIsRefused) {
  const test::TemporaryFolder folder;
  EXPECT_THAT(open_error(folder / "absent.gguf", ErrorCode::Io), HasSubstr("absent.gguf: cannot open"));
  EXPECT_THAT(open_error(folder.path(), ErrorCode::Io), HasSubstr("not a regular file"));
  const std::filesystem::path pipe = folder / "pipe.gguf";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THAT(open_error(pipe, ErrorCode::Io), HasSubstr("not a regular file"));  // and does not block
  test::write_file(folder / "empty.gguf", {});
  EXPECT_THAT(open_error(folder / "empty.gguf"), HasSubstr("the file ends inside the magic"));
}

TEST(Model, MovesKeepItsData) {
  auto opened = Model::open(gguf("tiny.gguf"));
  ASSERT_VALUE(opened);
  Model model = std::move(opened).value();
  const auto before = model.data(model.tensors()[0]);
  const Model moved = std::move(model);
  EXPECT_EQ(moved.data(moved.tensors()[0]).data(), before.data());
}

TEST(Model, LargerModels) {
  const auto shared = test::shared_dir();
  if (!shared)
    GTEST_SKIP() << "the larger conformance data are absent: the mixture-of-experts model was not opened";
  const auto model = Model::open(*shared / "models/tale-moe-F16.gguf");
  ASSERT_VALUE(model);
  EXPECT_EQ(model.value().total_elements(), 9186048U);
  EXPECT_EQ(model.value().architecture(), "qwen3moe");
}

}  // namespace
}  // namespace quantfit
