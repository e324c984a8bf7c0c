// Whole models with error feedback through the covariance of the layers' inputs, as reference_quantize writes
// them: they load in the real llama.cpp and diverge less; what cannot be done is refused with a sentence.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "core/model.h"
#include "tests/client/evaluation.h"
#include "tests/support/process.h"
#include "tests/support/reference_library.h"
#include "tests/support/second_moments.h"
#include "tests/support/test_paths.h"

namespace quantfit::test {
namespace {

using ::testing::HasSubstr;

constexpr std::size_t kColumns = 256;

// Inputs of a few strong directions and noise, as the lower triangle of their second moments.
std::vector<float> correlated_triangle(std::size_t columns) {
  std::mt19937 generator(5);
  std::normal_distribution<double> normal;
  constexpr std::size_t kDirections = 24;
  std::vector<double> directions(kDirections * columns);
  for (double& value : directions) value = normal(generator);
  std::vector<float> triangle;
  for (std::size_t i = 0; i < columns; ++i) {
    for (std::size_t j = 0; j <= i; ++j) {
      double sum = i == j ? 4.0 : 0.0;
      for (std::size_t k = 0; k < kDirections; ++k)
        sum += directions[k * columns + i] * directions[k * columns + j];
      triangle.push_back(static_cast<float>(sum));
    }
  }
  return triangle;
}

void write_text(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

// A folder of second moments with one input of `dimension` columns that `tensor` reads, whose file holds the
// moments of kColumns columns.
void write_moments(const std::filesystem::path& folder, const std::string& tensor,
                   std::size_t dimension = kColumns) {
  std::filesystem::create_directories(folder / "calibration");
  const nlohmann::json input = {{"dim", dimension}, {"tensors", {tensor}}};
  write_text(folder / "index.json",
             nlohmann::json{{"sets", {{"calibration", {{"inputs", {{"input", input}}}}}}}}.dump());
  const std::vector<float> triangle = correlated_triangle(kColumns);
  const auto bytes = std::as_bytes(std::span(triangle));
  write_file(folder / "calibration" / "input.moment2.f32", {bytes.begin(), bytes.end()});
}

// ---- the folder

TEST(SecondMoments, ReadsInputsAndTheirMatrices) {
  const TemporaryFolder folder;
  write_moments(folder.path(), "blk.0.attn_q.weight");
  const auto moments = SecondMoments::open(folder.path(), "calibration");
  ASSERT_TRUE(moments) << moments.error().message;
  ASSERT_EQ(moments.value().inputs().size(), 1U);
  EXPECT_EQ(moments.value().find("blk.0.attn_k.weight"), nullptr);
  const SecondMoments::Input* input = moments.value().find("blk.0.attn_q.weight");
  ASSERT_NE(input, nullptr);
  EXPECT_EQ(input->columns, kColumns);
  const auto full = moments.value().read(*input);
  ASSERT_TRUE(full) << full.error().message;
  ASSERT_EQ(full.value().size(), kColumns * kColumns);
  const std::vector<float> triangle = correlated_triangle(kColumns);
  for (std::size_t i = 0, at = 0; i < kColumns; ++i) {
    for (std::size_t j = 0; j <= i; ++j, ++at) {
      ASSERT_EQ(full.value()[i * kColumns + j], triangle[at]);
      ASSERT_EQ(full.value()[j * kColumns + i], triangle[at]);
    }
  }
}

TEST(SecondMoments, RefusesWhatIsNotSuchAFolder) {
  const TemporaryFolder folder;
  EXPECT_EQ(SecondMoments::open(folder.path(), "calibration").error().code, ErrorCode::Io);
  for (const char* text :
       {"", "{", "[]", R"({"sets": []})", R"({"sets": {"calibration": 3}})",
        R"({"sets": {"calibration": {"inputs": {"a": {"tensors": ["x"]}}}}})",
        R"({"sets": {"calibration": {"inputs": {"a": {"dim": 0, "tensors": ["x"]}}}}})",
        R"({"sets": {"calibration": {"inputs": {"a": {"dim": 256, "tensors": "x"}}}}})",
        R"({"sets": {"calibration": {"inputs": {"../a": {"dim": 256, "tensors": ["x"]}}}}})"}) {
    write_text(folder / "index.json", text);
    const auto moments = SecondMoments::open(folder.path(), "calibration");
    ASSERT_FALSE(moments) << text;
    EXPECT_EQ(moments.error().code, ErrorCode::Malformed) << text;
  }
  write_moments(folder.path(), "x");
  EXPECT_EQ(SecondMoments::open(folder.path(), "training").error().code, ErrorCode::InvalidArgument);
}

TEST(SecondMoments, RefusesMatricesOfAnotherSize) {
  const TemporaryFolder folder;
  for (const std::size_t dimension : {std::size_t{255}, std::size_t{257}, std::size_t{1} << 33}) {
    write_moments(folder.path(), "x", dimension);
    const auto moments = SecondMoments::open(folder.path(), "calibration");
    ASSERT_TRUE(moments) << moments.error().message;
    const auto full = moments.value().read(moments.value().inputs()[0]);
    ASSERT_FALSE(full) << dimension;
    EXPECT_EQ(full.error().code, ErrorCode::ShapeMismatch) << dimension;
  }
  write_moments(folder.path(), "x");
  std::filesystem::remove(folder / "calibration" / "input.moment2.f32");
  const auto moments = SecondMoments::open(folder.path(), "calibration");
  ASSERT_TRUE(moments) << moments.error().message;
  EXPECT_EQ(moments.value().read(moments.value().inputs()[0]).error().code, ErrorCode::Io);
}

// ---- the tool

class ErrorFeedback : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!reference_library_dir()) GTEST_SKIP() << kReferenceLibraryAbsent;
  }

  // Quantizes the example model into `out` with our encoder.
  [[nodiscard]] ProcessResult quantize(const std::string& out, const std::string& format,
                                       const std::vector<std::string>& options = {},
                                       const std::string& encoder = "quantfit") const {
    // clang-format off
    std::vector<std::string> command = {REFERENCE_QUANTIZE_BINARY, model_, folder_ / out, "--format", format,
                                        "--imatrix", imatrix_, "--encoder", encoder};
    // clang-format on
    command.insert(command.end(), options.begin(), options.end());
    return run(command);
  }

  const TemporaryFolder folder_;
  const std::filesystem::path model_ = data_dir() / "tale-dense-F16.gguf";
  const std::filesystem::path imatrix_ = data_dir() / "tale-dense.imatrix.gguf";
};

TEST_F(ErrorFeedback, ConcernsTheTensorsThatTheFolderKnows) {
  write_moments(folder_ / "moments", "blk.2.attn_q.weight");
  ASSERT_EQ(quantize("diagonal.gguf", "Q4_K").exit_code, 0);
  const ProcessResult made = quantize("feedback.gguf", "Q4_K", {"--covariance", folder_ / "moments"});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  EXPECT_THAT(made.err,
              HasSubstr("1 tensors with error feedback through their covariance, 43 by the diagonal"));
  const auto diagonal = Model::open(folder_ / "diagonal.gguf");
  const auto feedback = Model::open(folder_ / "feedback.gguf");
  ASSERT_TRUE(diagonal) << diagonal.error().message;
  ASSERT_TRUE(feedback) << feedback.error().message;
  for (const TensorInfo& tensor : diagonal.value().tensors()) {
    const TensorInfo* other = feedback.value().find(tensor.name);
    ASSERT_NE(other, nullptr);
    ASSERT_EQ(tensor.format, other->format);
    const auto a = diagonal.value().data(tensor);
    const auto b = feedback.value().data(*other);
    EXPECT_EQ(std::equal(a.begin(), a.end(), b.begin(), b.end()), tensor.name != "blk.2.attn_q.weight")
        << tensor.name;
  }
}

TEST_F(ErrorFeedback, WhatCannotBeDoneIsRefused) {
  const auto refused = [&](const std::string& format, const std::vector<std::string>& options, int exit_code,
                           const char* sentence, const std::string& encoder = "quantfit") {
    const ProcessResult made = quantize("refused.gguf", format, options, encoder);
    EXPECT_EQ(made.exit_code, exit_code) << made.err;
    EXPECT_THAT(made.err, HasSubstr(sentence));
    EXPECT_FALSE(std::filesystem::exists(folder_ / "refused.gguf"));
  };
  const std::vector<std::string> covariance = {"--covariance", folder_ / "moments"};
  refused("Q4_K", covariance, 1, "no second moments here");
  write_moments(folder_ / "moments", "blk.0.attn_q.weight");
  refused("BF16", covariance, 1, "has no encoder with error feedback");
  refused("Q4_K", covariance, 2, "--covariance needs --encoder quantfit", "ggml");
  refused("Q4_K", {"--damping", "0.1"}, 2, "--covariance");
  write_moments(folder_ / "moments", "model.layers.0.q_proj.weight");
  refused("Q4_K", covariance, 1, "the second moments are of another model");
  write_moments(folder_ / "moments", "blk.0.ffn_down.weight");  // has 768 columns
  refused("Q4_K", covariance, 1, "tensor 'blk.0.ffn_down.weight': second moments of 256 columns");
}

TEST_F(ErrorFeedback, ModelsLoadAndDivergeLess) {
  const auto shared = shared_dir();
  if (!shared) GTEST_SKIP() << "the larger data are not there: no second moments of a trained model";
  const std::string moments = *shared / "models" / "tale-dense-moments";
  std::vector<std::filesystem::path> files;
  for (const char* format : {"Q4_0", "Q4_K", "Q2_K"}) {
    const std::string name = format;
    ASSERT_EQ(quantize("diagonal-" + name, name).exit_code, 0);
    const ProcessResult made = quantize("feedback-" + name, name, {"--covariance", moments});
    ASSERT_EQ(made.exit_code, 0) << made.err;
    EXPECT_THAT(made.err,
                HasSubstr("42 tensors with error feedback through their covariance, 2 by the diagonal"));
    files.push_back(folder_ / ("feedback-" + name));
    files.push_back(folder_ / ("diagonal-" + name));
  }
  std::ifstream in(data_dir() / "eval-books.txt", std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  EvaluationOptions options;
  options.chunks = 16;
  const auto scored = evaluate(model_, files, text, options);
  ASSERT_TRUE(scored) << scored.error().message;
  for (std::size_t i = 0; i < files.size(); i += 2) {
    const ModelScore& feedback = scored.value().candidates[i];
    const ModelScore& diagonal = scored.value().candidates[i + 1];
    EXPECT_EQ(feedback.file_bytes, diagonal.file_bytes);
    EXPECT_GT(feedback.kld, 0.0);
    const PairedDifference difference = paired_difference(feedback, diagonal);
    EXPECT_LT(difference.ratio + 3 * difference.ratio_error, 1.0) << files[i];
  }
}

}  // namespace
}  // namespace quantfit::test
