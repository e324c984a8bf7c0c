#include "core/second_moments_file.h"

#include <gtest/gtest.h>

#include <fstream>
#include <limits>
#include <numeric>

#include "core/gguf_writer.h"
#include "tests/support/test_paths.h"

namespace quantfit {
namespace {

SecondMomentsInput plain_input() {
  SecondMomentsInput input;
  input.name = "blk.0.attn_q.weight";
  input.tensors = {"blk.0.attn_q.weight", "blk.0.attn_k.weight"};
  input.columns = 5;
  input.block = 2;
  return input;
}
SecondMomentsInput expert_input() {
  SecondMomentsInput input;
  input.name = "blk.0.ffn_up_exps.weight";
  input.tensors = {input.name};
  input.columns = 3;
  input.block = 3;
  input.experts = 2;
  return input;
}

std::vector<float> counting(std::size_t n) {
  std::vector<float> values(n);
  std::iota(values.begin(), values.end(), 1.0F);
  return values;
}

Result<void> write(const std::filesystem::path& path) {
  QF_ASSIGN(auto writer, SecondMomentsWriter::create(path, {"model", "text", 3}));
  QF_TRY(writer.append(plain_input(), counting(7), {}, std::vector<double>{100}));
  QF_TRY(writer.append(expert_input(), counting(6), counting(6), std::vector<double>{7, 0}));
  return writer.commit();
}

TEST(SecondMomentsFile, ComesBackAsItWasWritten) {
  const test::TemporaryFolder folder;
  ASSERT_TRUE(write(folder / "moments"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()),
                          std::filesystem::directory_iterator()),
            1);
  const auto file = SecondMomentsFile::open(folder / "moments");
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file.value().identity(), (SecondMomentsIdentity{"model", "text", 3}));
  ASSERT_EQ(file.value().inputs().size(), 2U);
  EXPECT_EQ(file.value().inputs()[0], plain_input());
  EXPECT_EQ(file.value().inputs()[1], expert_input());
  EXPECT_EQ(file.value().find("blk.0.attn_k.weight"), &file.value().inputs()[0]);
  EXPECT_EQ(file.value().find("output.weight"), nullptr);
  // Blocks of two, two and one columns.
  EXPECT_EQ(file.value().moments(file.value().inputs()[0], 0).value(),
            (std::vector<float>{1, 2, 2, 3, 4, 5, 5, 6, 7}));
  EXPECT_EQ(file.value().rows(file.value().inputs()[0], 0), 100);
  EXPECT_EQ(file.value().moments(file.value().inputs()[1], 0).value(),
            (std::vector<float>{1, 2, 4, 2, 3, 5, 4, 5, 6}));
  EXPECT_EQ(file.value().diagonal(file.value().inputs()[1], 1).value(), (std::vector<float>{4, 5, 6}));
  EXPECT_EQ(file.value().rows(file.value().inputs()[1], 1), 0);
  ASSERT_TRUE(write(folder / "again"));
  EXPECT_TRUE(test::read_file(folder / "again") == test::read_file(folder / "moments"));
}

TEST(SecondMomentsFile, PartsMakeTheSameFile) {
  const test::TemporaryFolder folder;
  const SecondMomentsIdentity identity = {"model", "text", 3};
  ASSERT_TRUE(write(folder / "whole"));
  {
    auto part = SecondMomentsWriter::create(folder / "part", identity).value();
    ASSERT_TRUE(part.append(plain_input(), counting(7), {}, std::vector<double>{100}));
    ASSERT_TRUE(part.commit());
  }
  auto writer = SecondMomentsWriter::create(folder / "joined", identity).value();
  ASSERT_TRUE(writer.append(SecondMomentsFile::open(folder / "part").value()));
  std::filesystem::remove(folder / "part");  // it stays open
  EXPECT_EQ(writer.append(plain_input(), counting(7), {}, std::vector<double>{100}).error().code,
            ErrorCode::InvalidArgument);
  ASSERT_TRUE(writer.append(expert_input(), counting(6), counting(6), std::vector<double>{7, 0}));
  ASSERT_TRUE(writer.commit());
  EXPECT_TRUE(test::read_file(folder / "joined") == test::read_file(folder / "whole"));
}

TEST(SecondMomentsFile, WhatDoesNotFitIsNotWritten) {
  const test::TemporaryFolder folder;
  {
    auto writer = SecondMomentsWriter::create(folder / "moments", {});
    ASSERT_TRUE(writer);
    const std::vector<double> one = {1};
    EXPECT_EQ(writer.value().commit().error().code, ErrorCode::InvalidArgument);
    EXPECT_EQ(writer.value().append(plain_input(), counting(6), {}, one).error().code,
              ErrorCode::InvalidArgument);
    EXPECT_EQ(writer.value().append(expert_input(), counting(6), counting(6), one).error().code,
              ErrorCode::InvalidArgument);
    SecondMomentsInput none = plain_input();
    none.tensors.clear();
    EXPECT_EQ(writer.value().append(none, counting(7), {}, one).error().code, ErrorCode::InvalidArgument);
    ASSERT_TRUE(writer.value().append(plain_input(), counting(7), {}, one));
    EXPECT_EQ(writer.value().append(plain_input(), counting(7), {}, one).error().code,
              ErrorCode::InvalidArgument);
    SecondMomentsInput other = plain_input();
    other.name = "other";
    EXPECT_EQ(writer.value().append(other, counting(7), {}, one).error().code, ErrorCode::InvalidArgument);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  EXPECT_EQ(SecondMomentsWriter::create(folder / "no" / "folder", {}).error().code, ErrorCode::Io);
}

TEST(SecondMomentsFile, OtherFilesAreRefused) {
  const test::TemporaryFolder folder;
  EXPECT_EQ(SecondMomentsFile::open(folder / "none").error().code, ErrorCode::Io);
  const auto with = [&](const std::vector<GgufKeyValue>& keys, std::vector<TensorInfo> tensors) {
    GgufMetadata metadata;
    for (const GgufKeyValue& value : keys) metadata.set(value);
    auto writer = GgufWriter::create(folder / "file", metadata, tensors).value();
    for (const TensorInfo& tensor : writer.tensors())
      EXPECT_TRUE(writer.append(std::vector<std::byte>(tensor.bytes)));
    EXPECT_TRUE(writer.commit());
    return SecondMomentsFile::open(folder / "file").error().code;
  };
  TensorInfo moments;
  moments.name = "a.moments";
  moments.format = Format::F32;
  moments.n_dims = 2;
  moments.ne = {3, 1, 1, 1};
  TensorInfo rows = moments;
  rows.name = "a.rows";
  rows.format = Format::F64;
  rows.ne = {1, 1, 1, 1};
  const auto keys = [&](std::uint32_t columns, std::uint32_t block, std::uint32_t input_of) {
    const std::vector<std::string> names = {"a"};
    const auto list = [](const char* name, std::uint32_t value) {
      return GgufKeyValue::of_uint32_array(name, std::vector<std::uint32_t>{value});
    };
    return std::vector<GgufKeyValue>{GgufKeyValue::of_string("general.type", "quantfit.second_moments"),
                                     GgufKeyValue::of_uint32("second_moments.version", 1),
                                     GgufKeyValue::of_string_array("second_moments.inputs", names),
                                     list("second_moments.columns", columns),
                                     list("second_moments.blocks", block),
                                     list("second_moments.matrices", 1),
                                     list("second_moments.experts", 0),
                                     GgufKeyValue::of_string_array("second_moments.tensors", names),
                                     list("second_moments.input_of", input_of)};
  };
  const std::vector<TensorInfo> both = {moments, rows};
  EXPECT_EQ(with({GgufKeyValue::of_string("general.type", "imatrix")}, both), ErrorCode::Unsupported);
  auto next_version = keys(2, 2, 0);
  next_version[1] = GgufKeyValue::of_uint32("second_moments.version", 2);
  EXPECT_EQ(with(next_version, both), ErrorCode::Unsupported);
  EXPECT_EQ(with(keys(3, 3, 0), both), ErrorCode::Malformed);           // needs six numbers
  EXPECT_EQ(with(keys(2, 0, 0), both), ErrorCode::Malformed);           // no block
  EXPECT_EQ(with(keys(0, 2, 0), both), ErrorCode::Malformed);           // no columns
  EXPECT_EQ(with(keys(0xFFFFFFFF, 2, 0), both), ErrorCode::Malformed);  // absurd
  EXPECT_EQ(with(keys(2, 2, 1), both), ErrorCode::Malformed);           // an input that is not there
  EXPECT_EQ(with(keys(2, 2, 0), {moments}), ErrorCode::Malformed);      // no rows
  auto incomplete = keys(2, 2, 0);
  incomplete.pop_back();
  EXPECT_EQ(with(incomplete, both), ErrorCode::Malformed);
}

TEST(SecondMomentsFile, NumbersThatAreNoneAreRefused) {
  const test::TemporaryFolder folder;
  auto writer = SecondMomentsWriter::create(folder / "moments", {}).value();
  std::vector<float> moments = counting(6);
  moments[4] = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> diagonals = counting(6);
  diagonals[2] = -1;
  ASSERT_TRUE(writer.append(expert_input(), moments, diagonals, std::vector<double>{7, 0}));
  ASSERT_TRUE(writer.commit());
  const auto file = SecondMomentsFile::open(folder / "moments").value();
  EXPECT_EQ(file.moments(file.inputs()[0], 0).error().code, ErrorCode::Malformed);
  EXPECT_EQ(file.diagonal(file.inputs()[0], 0).error().code, ErrorCode::Malformed);
  EXPECT_TRUE(file.diagonal(file.inputs()[0], 1));
}

}  // namespace
}  // namespace quantfit
