#include "core/gguf_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "core/gguf_reader.h"
#include "core/model.h"
#include "tests/core/gguf_bytes.h"
#include "tests/support/test_paths.h"

namespace quantfit {
namespace {

using ::testing::HasSubstr;

std::filesystem::path gguf(const std::string& name) {
  return test::data_dir() / "gguf" / name;
}

TensorInfo tensor(const std::string& name, Format format, std::array<std::uint64_t, 4> ne,
                  std::uint32_t dims = 4) {
  TensorInfo info;
  info.name = name;
  info.n_dims = dims;
  info.ne = ne;
  info.format = format;
  return info;
}

// All data of `model` in its order, in pieces of random size.
void write_copy(const Model& model, const std::filesystem::path& path, std::uint32_t alignment) {
  auto writer = GgufWriter::create(path, model.metadata(), model.tensors(), alignment);
  ASSERT_VALUE(writer);
  std::mt19937_64 random(7);
  for (const TensorInfo& info : model.tensors()) {
    auto rest = model.data(info);
    while (!rest.empty()) {
      const auto piece = rest.first(std::min<std::size_t>(rest.size(), 1 + random() % 5000));
      ASSERT_VALUE(writer.value().append(piece));
      rest = rest.subspan(piece.size());
    }
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  ASSERT_VALUE(writer.value().commit());
}

TEST(GgufWriter, RoundTripByBytes) {
  for (const auto& [name, alignment] : {std::pair{"tiny.gguf", 32U}, {"tiny-align64.gguf", 64U}}) {
    SCOPED_TRACE(name);
    const test::TemporaryFolder folder;
    const auto model = Model::open(gguf(name));
    ASSERT_VALUE(model);
    write_copy(model.value(), folder / "copy.gguf", alignment);
    EXPECT_EQ(test::read_file(folder / "copy.gguf"), test::read_file(gguf(name)));
    const auto size = gguf_file_bytes(model.value().metadata(), model.value().tensors(), alignment);
    EXPECT_EQ(size.value(), std::filesystem::file_size(gguf(name)));
    const auto header = gguf_header_bytes(model.value().metadata(), model.value().tensors(), alignment);
    EXPECT_EQ(header.value(), model.value().shards()[0].data_offset);
  }
}

TEST(GgufWriter, WritesTheLastPadding) {
  const test::TemporaryFolder folder;
  const auto model = Model::open(gguf("no-final-padding.gguf"));
  ASSERT_VALUE(model);
  write_copy(model.value(), folder / "copy.gguf", 32);
  EXPECT_EQ(std::filesystem::file_size(folder / "copy.gguf"), 160U);  // the source has 140
}

TEST(GgufWriter, EmptyTensorsAndScalars) {
  const test::TemporaryFolder folder;
  const std::vector<TensorInfo> tensors = {
      tensor("empty first", Format::Q8_0, {0, 5, 1, 1}, 2), tensor("scalar", Format::F32, {1, 1, 1, 1}, 0),
      tensor("empty", Format::F32, {7, 0, 1, 1}, 2), tensor("empty last", Format::F16, {0, 1, 1, 1}, 1)};
  auto writer = GgufWriter::create(folder / "e.gguf", {}, tensors);
  ASSERT_VALUE(writer);
  EXPECT_FALSE(writer.value().append(std::vector<std::byte>(5)));  // more than there is
  writer = GgufWriter::create(folder / "e.gguf", {}, tensors);
  ASSERT_VALUE(writer.value().append(std::vector<std::byte>(4)));
  ASSERT_VALUE(writer.value().commit());
  const auto model = Model::open(folder / "e.gguf");
  ASSERT_VALUE(model);
  EXPECT_EQ(model.value().find("scalar")->n_dims, 1U);
  EXPECT_EQ(model.value().total_elements(), 1U);
}

TEST(GgufWriter, NoTensorsAtAll) {
  const test::TemporaryFolder folder;
  GgufMetadata metadata;
  metadata.add(GgufKeyValue::of_string("general.architecture", "x"));
  auto writer = GgufWriter::create(folder / "k.gguf", metadata, {});
  ASSERT_VALUE(writer);
  ASSERT_VALUE(writer.value().commit());
  EXPECT_EQ(test::read_file(folder / "k.gguf"), test::read_file(gguf("kv-only.gguf")));
}

TEST(GgufWriter, SizesAboveTwoToTheFifty) {
  constexpr std::uint64_t kBig = std::uint64_t{1} << 51;
  GgufMetadata metadata;
  metadata.add(GgufKeyValue::of_uint32("k", 4000000000U));
  const std::vector<TensorInfo> tensors = {tensor("a", Format::I8, {kBig + 1, 1, 1, 1}, 1),
                                           tensor("b", Format::I8, {kBig, 1, 1, 1}, 1)};
  const std::uint64_t header = gguf_header_bytes(metadata, tensors).value();
  EXPECT_EQ(gguf_file_bytes(metadata, tensors).value(), header + kBig + 32 + kBig);
  const test::TemporaryFolder folder;
  const auto writer = GgufWriter::create(folder / "big.gguf", metadata, tensors);
  ASSERT_FALSE(writer);
  EXPECT_EQ(writer.error().code, ErrorCode::NoSpace);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(GgufWriter, RefusesWhatCouldNotBeReadBack) {
  const auto error = [](const std::vector<TensorInfo>& tensors, const GgufMetadata& metadata = {},
                        std::uint32_t alignment = 32) {
    const auto size = gguf_file_bytes(metadata, tensors, alignment);
    return size ? std::string("accepted") : size.error().message;
  };
  const TensorInfo good = tensor("t", Format::F32, {4, 1, 1, 1}, 1);
  EXPECT_EQ(error({good}), "accepted");
  EXPECT_THAT(error({good, good}), HasSubstr("appears twice"));
  EXPECT_EQ(error({tensor(std::string(63, 'n'), Format::F32, {4, 1, 1, 1})}), "accepted");
  EXPECT_THAT(error({tensor(std::string(64, 'n'), Format::F32, {4, 1, 1, 1})}), HasSubstr("64 bytes"));
  EXPECT_THAT(error({tensor("", Format::F32, {4, 1, 1, 1})}), HasSubstr("0 bytes"));
  EXPECT_THAT(error({tensor(std::string("a\0b", 3), Format::F32, {4, 1, 1, 1})}), HasSubstr("zero byte"));
  EXPECT_THAT(error({tensor("t", Format::F32, {4, 2, 1, 1}, 1)}), HasSubstr("1 dimensions do not describe"));
  EXPECT_THAT(error({tensor("t", Format::F32, {4, 2, 1, 1}, 5)}), HasSubstr("5 dimensions"));
  EXPECT_THAT(error({tensor("t", Format::Q4_K, {100, 2, 1, 1})}), HasSubstr("whole number of Q4_K blocks"));
  constexpr std::uint64_t kHuge = std::uint64_t{1} << 62;
  EXPECT_THAT(error({tensor("t", Format::I8, {kHuge, kHuge, 1, 1})}), HasSubstr("2^63"));
  std::vector<TensorInfo> wrapping;
  for (char c = 'a'; c < 'f'; ++c)
    wrapping.push_back(tensor(std::string(1, c), Format::I8, {kHuge, 1, 1, 1}));
  EXPECT_THAT(error(wrapping), HasSubstr("64-bit"));

  GgufMetadata aligned;
  aligned.add(GgufKeyValue::of_uint32("general.alignment", 64));
  EXPECT_EQ(error({good}, aligned, 64), "accepted");
  EXPECT_THAT(error({good}, aligned, 32), HasSubstr("general.alignment does not say so"));
  EXPECT_THAT(error({good}, {}, 64), HasSubstr("general.alignment does not say so"));
  EXPECT_THAT(error({good}, {}, 48), HasSubstr("power of two"));
  EXPECT_THAT(error({good}, {}, 0), HasSubstr("power of two"));
  GgufMetadata broken;
  GgufKeyValue cut = GgufKeyValue::of_uint32("k", 1);
  cut.bytes = std::span(cut.bytes.data(), cut.bytes.size() - 1);
  broken.add(cut);
  EXPECT_THAT(error({good}, broken), HasSubstr("not a value of its type"));
}

TEST(GgufWriter, MissingDataIsNoFile) {
  const test::TemporaryFolder folder;
  {
    auto writer = GgufWriter::create(folder / "m.gguf", {},
                                     std::vector<TensorInfo>{tensor("t", Format::F32, {4, 1, 1, 1}, 1)});
    ASSERT_VALUE(writer);
    ASSERT_VALUE(writer.value().append(std::vector<std::byte>(15)));
    const auto committed = writer.value().commit();
    ASSERT_FALSE(committed);
    EXPECT_EQ(committed.error().code, ErrorCode::Internal);
    EXPECT_THAT(committed.error().message, HasSubstr("lacks 1 bytes"));
    EXPECT_FALSE(writer.value().append(std::vector<std::byte>(2)));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(GgufWriter, LargePiecesPassTheBuffer) {
  const test::TemporaryFolder folder;
  const std::vector<TensorInfo> tensors = {tensor("a", Format::I8, {5000001, 1, 1, 1}, 1),
                                           tensor("b", Format::I8, {6000007, 1, 1, 1}, 1)};
  std::vector<std::byte> data(11000008);
  std::mt19937 random(3);
  for (std::byte& byte : data) byte = static_cast<std::byte>(random());
  auto writer = GgufWriter::create(folder / "l.gguf", {}, tensors);
  ASSERT_VALUE(writer);
  ASSERT_VALUE(writer.value().append(std::span(data).first(100)));
  ASSERT_VALUE(writer.value().append(std::span(data).subspan(100)));  // across the end of a tensor
  ASSERT_VALUE(writer.value().commit());
  const auto model = Model::open(folder / "l.gguf");
  ASSERT_VALUE(model);
  const auto a = model.value().data(model.value().tensors()[0]);
  const auto b = model.value().data(model.value().tensors()[1]);
  EXPECT_TRUE(std::equal(a.begin(), a.end(), data.begin()));
  EXPECT_TRUE(std::equal(b.begin(), b.end(), data.begin() + 5000001));
}

}  // namespace
}  // namespace quantfit
