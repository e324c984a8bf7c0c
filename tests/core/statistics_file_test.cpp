#include "core/statistics_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/test_paths.h"

namespace quantfit {
namespace {

using test::TemporaryFolder;
using ::testing::HasSubstr;

ModelStatistics example() {
  ModelStatistics out;
  out.model_fingerprint = "model";
  out.text_fingerprint = "text";
  out.seed = 3;
  out.engine_version = 2;
  out.choice_error = 0.125F;
  out.choice_cost = 0.1;
  out.window_tokens = {10, 30};
  MatrixStatistics& matrix = out.matrices["blk.0.ffn_down_exps.weight"];
  matrix.rows = 3;
  matrix.matrices = 2;
  matrix.gradient = {1, 2, 3, 4, 5, 6};
  matrix.gradient_error = {0.1F, 0.2F, 0.3F, 0.4F, 0.5F, 0.6F};
  matrix.output = {7, 8, 9, 10, 11, 12};
  matrix.energy = {6, 5, 4, 3, 2, 1};
  matrix.tokens = {40, 17};
  matrix.nats_by_window = {0.5, 0.25};
  MatrixStatistics& other = out.matrices["token_embd.weight"];
  other.rows = 1;
  other.gradient = {2};
  other.gradient_error = {0};
  other.energy = {3};
  other.tokens = {40};
  other.nats_by_window = {3, 3};
  TableStatistics& table = out.tables["token_embd.weight"];
  table.rows = 3;
  table.columns = 2;
  table.gradient = {1, 2};
  table.gradient_error = {0, 0.5F};
  table.row_gradient = {0, 1, 1e-300};
  table.row_tokens = {0, 39, 1};
  table.nats_by_window = {1, 2};
  return out;
}

TEST(StatisticsFile, WhatWasWrittenIsRead) {
  const TemporaryFolder folder;
  const ModelStatistics written = example();
  ASSERT_TRUE(write_statistics(folder / "a", written));
  const auto read = read_statistics(folder / "a");
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_TRUE(read.value() == written);
  EXPECT_EQ(read.value().tokens(), 40U);
  ASSERT_TRUE(write_statistics(folder / "b", read.value()));
  EXPECT_EQ(test::read_file(folder / "a"), test::read_file(folder / "b"));
}

TEST(StatisticsFile, FurtherTensorsDoNotDisturb) {
  const TemporaryFolder folder;
  TensorInfo extra;
  extra.name = "blk.0.ffn_down_exps.weight.moments";
  extra.n_dims = 1;
  extra.ne[0] = 3;
  auto writer = StatisticsWriter::create(folder / "a", example(), {}, std::span(&extra, 1));
  ASSERT_TRUE(writer) << writer.error().message;
  const std::vector<float> values{-1, 2, 3};
  ASSERT_TRUE(writer.value().append(std::as_bytes(std::span(values))));
  EXPECT_FALSE(std::filesystem::exists(folder / "a"));
  ASSERT_TRUE(writer.value().commit());
  const auto read = read_statistics(folder / "a");
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_TRUE(read.value() == example());
}

TEST(StatisticsFile, SizesThatDoNotFitAreNotWritten) {
  const TemporaryFolder folder;
  const auto message_of = [&](auto&& change) {
    ModelStatistics statistics = example();
    change(statistics);
    const auto done = write_statistics(folder / "a", statistics);
    EXPECT_FALSE(done);
    EXPECT_EQ(done.error().code, ErrorCode::InvalidArgument);
    return done.error().message;
  };
  const std::string name = "blk.0.ffn_down_exps.weight";
  EXPECT_THAT(message_of([&](ModelStatistics& s) { s.matrices[name].energy.pop_back(); }),
              HasSubstr("5 values of 'blk.0.ffn_down_exps.weight.energy', 6 expected"));
  EXPECT_THAT(message_of([&](ModelStatistics& s) { s.matrices[name].tokens.push_back(1); }),
              HasSubstr(".tokens"));
  EXPECT_THAT(message_of([&](ModelStatistics& s) { s.window_tokens.push_back(1); }), HasSubstr(".nats"));
  EXPECT_THAT(message_of([&](ModelStatistics& s) { s.tables["token_embd.weight"].rows = 4; }),
              HasSubstr(".lookup_row_gradient"));
  EXPECT_THAT(message_of([&](ModelStatistics& s) { s.matrices[std::string(60, 'x')] = s.matrices[name]; }),
              HasSubstr("xxx"));
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(StatisticsFile, BadFilesAreRefusedWithTheirNameAndCause) {
  const TemporaryFolder folder;
  const auto error_of = [&](auto&& change) {
    ModelStatistics statistics = example();
    change(statistics);
    EXPECT_TRUE(write_statistics(folder / "bad.gguf", statistics));
    const auto read = read_statistics(folder / "bad.gguf");
    EXPECT_FALSE(read);
    EXPECT_THAT(read.error().message, HasSubstr("bad.gguf"));
    return read.error();
  };
  const std::string name = "blk.0.ffn_down_exps.weight";
  const Error nan = error_of(
      [&](ModelStatistics& s) { s.matrices[name].gradient[2] = std::numeric_limits<float>::quiet_NaN(); });
  EXPECT_EQ(nan.code, ErrorCode::Malformed);
  EXPECT_THAT(nan.message, HasSubstr("'blk.0.ffn_down_exps.weight.gradient'"));
  EXPECT_THAT(error_of([&](ModelStatistics& s) { s.matrices[name].energy[0] = -1; }).message,
              HasSubstr("-1"));
  EXPECT_THAT(error_of([&](ModelStatistics& s) {
                s.tables["token_embd.weight"].row_tokens[0] = std::numeric_limits<double>::infinity();
              }).message,
              HasSubstr("lookup_row_tokens"));
  EXPECT_THAT(error_of([&](ModelStatistics& s) { s.window_tokens[0] = 0; }).message,
              HasSubstr("window of 0"));

  // Parts that are missing or of another size.
  const auto of_tensors = [&](auto&& keep, auto&& change) {
    ASSERT_TRUE(write_statistics(folder / "good.gguf", example()));
    const auto file = Model::open(folder / "good.gguf").value();
    GgufMetadata metadata = file.metadata();
    std::vector<TensorInfo> infos;
    for (const TensorInfo& tensor : file.tensors())
      if (keep(tensor)) infos.push_back(tensor);
    for (TensorInfo& info : infos) change(info, metadata);
    auto writer = GgufWriter::create(folder / "bad.gguf", metadata, infos);
    ASSERT_TRUE(writer);
    for (const TensorInfo& info : writer.value().tensors())
      ASSERT_TRUE(writer.value().append(std::vector<std::byte>(info.bytes)));
    ASSERT_TRUE(writer.value().commit());
  };
  const auto all = [](const TensorInfo&) { return true; };
  const auto as_it_is = [](TensorInfo&, GgufMetadata&) {};
  const auto refused = [&](ErrorCode code) {
    const auto read = read_statistics(folder / "bad.gguf");
    EXPECT_FALSE(read);
    EXPECT_EQ(read.error().code, code);
    return read.error().message;
  };
  of_tensors([](const TensorInfo& t) { return !t.name.ends_with("exps.weight.energy"); }, as_it_is);
  EXPECT_THAT(refused(ErrorCode::Malformed), HasSubstr("energy' is missing"));
  of_tensors([](const TensorInfo& t) { return !t.name.ends_with(".lookup_row_gradient"); }, as_it_is);
  EXPECT_THAT(refused(ErrorCode::Malformed), HasSubstr("lookup_row_gradient"));
  of_tensors(all, [](TensorInfo& info, GgufMetadata&) {
    if (info.name.ends_with("exps.weight.output")) info.ne[1] = 5;
  });
  EXPECT_THAT(refused(ErrorCode::Malformed), HasSubstr("has 15 values"));
  of_tensors(all, [](TensorInfo& info, GgufMetadata&) {
    if (info.name.ends_with("exps.weight.tokens")) info.format = Format::I64;
  });
  EXPECT_THAT(refused(ErrorCode::Malformed), HasSubstr("expected 2 of F64"));
  of_tensors(all,
             [](TensorInfo&, GgufMetadata& m) { m.set(GgufKeyValue::of_string("general.type", "model")); });
  EXPECT_THAT(refused(ErrorCode::Unsupported), HasSubstr("not a statistics file: general.type is 'model'"));
  of_tensors(all,
             [](TensorInfo&, GgufMetadata& m) { m.set(GgufKeyValue::of_uint32("statistics.version", 9)); });
  EXPECT_THAT(refused(ErrorCode::Unsupported), HasSubstr("another version"));
  of_tensors(all, [](TensorInfo&, GgufMetadata& m) {
    m.set(GgufKeyValue::of_float32("statistics.choice_error", -1));
  });
  EXPECT_THAT(refused(ErrorCode::Malformed), HasSubstr("a key of statistics"));
  of_tensors(all, [](TensorInfo&, GgufMetadata& m) { m.remove("statistics.seed"); });
  EXPECT_THAT(refused(ErrorCode::Malformed), HasSubstr("a key of statistics"));
  of_tensors(all,
             [](TensorInfo&, GgufMetadata& m) { m.set(GgufKeyValue::of_uint32("checkpoint.layer", 1)); });
  EXPECT_THAT(refused(ErrorCode::Unsupported), HasSubstr("interrupted"));
  test::write_file(folder / "bad.gguf", std::vector<std::byte>(64, std::byte{9}));
  EXPECT_FALSE(read_statistics(folder / "bad.gguf"));
  EXPECT_EQ(read_statistics(folder / "absent").error().code, ErrorCode::Io);
}

TEST(StatisticsFile, MeansAndErrorsOverWindows) {
  const std::vector<double> values{1, 3};
  const std::vector<std::uint32_t> equal{10, 10}, unequal{10, 30};
  EXPECT_DOUBLE_EQ(mean_of_windows(values, equal).value, 2);
  EXPECT_DOUBLE_EQ(mean_of_windows(values, equal).standard_error, 1);  // sqrt(2 / (2 * 1))
  EXPECT_DOUBLE_EQ(mean_of_windows(values, unequal).value, 2.5);
  EXPECT_DOUBLE_EQ(mean_of_windows(values, unequal).standard_error, 0.75);  // sqrt(2 * (15^2 + 15^2)) / 40
  EXPECT_EQ(mean_of_windows({}, {}).value, 0);
  EXPECT_EQ(mean_of_windows(std::span(values).first(1), std::span(equal).first(1)).standard_error, 0);
}

TEST(StatisticsFile, PredictionAddsUpTensorsWindowByWindow) {
  const ModelStatistics statistics = example();
  // By window 0.1 * 0.5 + 0.01 * (3 + 1) and 0.1 * 0.25 + 0.01 * (3 + 2).
  const NatsEstimate predicted = predicted_divergence(
      statistics, {{"blk.0.ffn_down_exps.weight", 0.1}, {"token_embd.weight", 0.01}, {"unknown", 5}});
  const std::vector<double> by_window{0.09, 0.075};
  const NatsEstimate expected = mean_of_windows(by_window, statistics.window_tokens);
  EXPECT_NEAR(predicted.value, expected.value, 1e-15);
  EXPECT_NEAR(predicted.standard_error, expected.standard_error, 1e-15);
  EXPECT_EQ(predicted_divergence(statistics, {}).value, 0);
}

}  // namespace
}  // namespace quantfit
