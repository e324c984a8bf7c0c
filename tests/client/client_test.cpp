// The real llama.cpp loads, scores and is scored; every test is skipped, and says so,
// where it is not installed.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <iterator>
#include <optional>
#include <random>
#include <string>

#include "tests/client/evaluation.h"
#include "tests/client/llama_library.h"
#include "tests/client/reference_model.h"
#include "tests/support/reference_library.h"
#include "tests/support/test_paths.h"

namespace quantfit::test {
namespace {

// From tests/data, else from the larger data; nothing where neither has it.
std::optional<std::filesystem::path> example(const std::string& name) {
  if (std::filesystem::exists(data_dir() / name)) return data_dir() / name;
  const auto shared = shared_dir();
  if (shared && std::filesystem::exists(*shared / "models" / name)) return *shared / "models" / name;
  return std::nullopt;
}

std::string read_text(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

class Client : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!reference_library_dir()) GTEST_SKIP() << kReferenceLibraryAbsent;
    const auto dense = example("tale-dense-F16.gguf");
    if (!dense) GTEST_SKIP() << "tale-dense-F16.gguf is not there; nothing was run through llama.cpp";
    dense_ = *dense;
    const auto text = example("eval-books.txt");
    ASSERT_TRUE(text);
    text_ = read_text(*text);
    ASSERT_FALSE(text_.empty());
  }

  [[nodiscard]] Evaluation score(const std::filesystem::path& base,
                                 const std::vector<std::filesystem::path>& candidates,
                                 std::size_t chunks) const {
    EvaluationOptions options;
    options.chunks = chunks;
    auto result = evaluate(base, candidates, text_, options);
    EXPECT_TRUE(result) << (result ? "" : result.error().message);
    return result ? std::move(result).value() : Evaluation{};
  }

  std::filesystem::path dense_;
  std::string text_;
};

TEST_F(Client, AModelAgainstItselfHasNoDivergence) {
  const Evaluation result = score(dense_, {dense_}, 4);
  ASSERT_EQ(result.candidates.size(), 1U);
  EXPECT_EQ(result.positions, 4U * 127U);
  EXPECT_EQ(result.candidates[0].kld, 0.0);
  EXPECT_EQ(result.candidates[0].kld_max, 0.0);
  EXPECT_EQ(result.candidates[0].top1_agreement, 1.0);
  EXPECT_EQ(result.candidates[0].perplexity, result.base.perplexity);
}

// Published with the models, measured by llama-perplexity: first 100 chunks 50.517 +/- 1.209.
TEST_F(Client, PerplexityIsThePublishedOne) {
  const Evaluation result = score(dense_, {}, 100);
  EXPECT_EQ(result.positions, 100U * 127U);
  EXPECT_NEAR(result.base.perplexity, 50.517, 0.01);
  EXPECT_NEAR(result.base.perplexity_error, 1.209, 0.005);
}

TEST_F(Client, BfloatCopyIsNear) {
  const auto bfloat = example("tale-dense-BF16.gguf");
  if (!bfloat) GTEST_SKIP() << "tale-dense-BF16.gguf is not there";
  const Evaluation result = score(dense_, {*bfloat}, 10);
  ASSERT_EQ(result.candidates.size(), 1U);
  EXPECT_GT(result.candidates[0].kld, 0.0);
  EXPECT_LT(result.candidates[0].kld,
            1e-4);  // BF16 has eight bits of precision, every quantized format fewer
}

TEST_F(Client, ScoresDoNotDependOnWorkers) {
  EvaluationOptions options;
  options.chunks = 5;
  const std::filesystem::path base = example("tale-moe-F16.gguf").value_or(dense_);
  options.workers = 1;
  const auto one = evaluate(base, std::vector{base}, text_, options);
  options.workers = 3;
  const auto three = evaluate(base, std::vector{base}, text_, options);
  ASSERT_TRUE(one) << one.error().message;
  ASSERT_TRUE(three) << three.error().message;
  EXPECT_EQ(one.value().base.perplexity, three.value().base.perplexity);
}

TEST_F(Client, RefusesWhatIsNotAModel) {
  const TemporaryFolder folder;
  auto bytes = read_file(dense_);
  bytes.resize(bytes.size() / 2);
  write_file(folder / "half.gguf", bytes);
  const auto result = evaluate(dense_, std::vector{folder / "half.gguf"}, text_, {});
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::Malformed);
  EXPECT_NE(result.error().message.find("half.gguf"), std::string::npos) << result.error().message;
}

// ggml's own encoders through the file format: better formats are nearer to the source.
TEST_F(Client, ReferenceModelsLoadAndDivergeAsTheirFormatsDo) {
  const TemporaryFolder folder;
  const auto model = Model::open(dense_);
  ASSERT_TRUE(model) << model.error().message;
  const auto imatrix = example("tale-dense.imatrix.gguf");
  if (!imatrix) GTEST_SKIP() << "tale-dense.imatrix.gguf is not there";
  const auto importance = ImportanceMatrix::read(*imatrix);
  ASSERT_TRUE(importance) << importance.error().message;
  std::vector<std::filesystem::path> files;
  for (const Format format : {Format::Q6_K, Format::Q4_K, Format::Q2_K}) {
    files.push_back(folder / (std::string(name_of(format)) + ".gguf"));
    const auto written = write_reference_model(model.value(), uniform_recipe(model.value(), format),
                                               &importance.value(), {}, files.back());
    ASSERT_TRUE(written) << written.error().message;
  }
  const Evaluation result = score(dense_, files, 12);
  ASSERT_EQ(result.candidates.size(), 3U);
  // Measured with the whole model in one format: Q4_K 0.0028, Q2_K 0.040.
  EXPECT_GT(result.candidates[0].kld, 1e-5);
  EXPECT_LT(result.candidates[0].kld, 1e-3);
  EXPECT_GT(result.candidates[1].kld, 1.5e-3);
  EXPECT_LT(result.candidates[1].kld, 4.5e-3);
  EXPECT_GT(result.candidates[2].kld, 0.02);
  EXPECT_LT(result.candidates[2].kld, 0.07);
  const PairedDifference difference = paired_difference(result.candidates[2], result.candidates[1]);
  EXPECT_NEAR(difference.difference, result.candidates[2].kld - result.candidates[1].kld, 1e-12);
  EXPECT_GT(difference.difference, 5 * difference.difference_error);
}

TEST_F(Client, RecipeFilesNameTensorsOrPatterns) {
  const auto model = Model::open(dense_);
  ASSERT_TRUE(model) << model.error().message;
  const auto recipe = read_recipe(model.value(),
                                  "# comment\n"
                                  "output.weight=q8_0\n"
                                  "ffn_(up|gate)=IQ4_XS\n"
                                  "^blk\\.0\\.=Q5_K\r\n"
                                  "blk.1.ffn_up.weight = Q6_K");
  ASSERT_TRUE(recipe) << recipe.error().message;
  const auto format_of = [&](const char* name) { return recipe.value().find(name)->format; };
  EXPECT_EQ(format_of("output.weight"), Format::Q8_0);
  EXPECT_EQ(format_of("blk.0.attn_output.weight"), Format::Q5_K);  // an exact name is no pattern
  EXPECT_EQ(format_of("blk.1.attn_output.weight"), Format::F16);
  EXPECT_EQ(format_of("blk.0.ffn_up.weight"), Format::IQ4_XS);
  EXPECT_EQ(format_of("blk.1.ffn_up.weight"), Format::Q6_K);
  EXPECT_EQ(format_of("blk.0.attn_norm.weight"), Format::F32);
  EXPECT_FALSE(read_recipe(model.value(), "output.weight"));
  EXPECT_FALSE(read_recipe(model.value(), "output.weight=Q9_K"));
  EXPECT_FALSE(read_recipe(model.value(), "output_norm.weight=Q8_0"));
}

// Formats whose search tables take the library seconds to build: decoded only.
bool has_slow_tables(Format format) {
  return format == Format::IQ1_S || format == Format::IQ1_M || format == Format::IQ2_XS ||
         format == Format::IQ2_S;
}

TEST(Reference, EncodesAndDecodesEveryFormat) {
  const auto library = ReferenceLibrary::load();
  if (!library) GTEST_SKIP() << library.error().message;
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  constexpr std::uint64_t kColumns = 512, kRows = 3;
  std::vector<float> x(kColumns * kRows), importance(kColumns), decoded(kColumns);
  for (float& value : x) value = normal(random);
  for (float& value : importance) value = std::exp(normal(random));
  for (const FormatTraits& traits : all_formats()) {
    if (traits.kind != FormatKind::Quantized) continue;
    std::vector<std::byte> bytes(tensor_bytes(traits.format, kColumns, kRows).value());
    if (has_slow_tables(traits.format)) {  // zero bytes are zero scales
      const auto row = std::span(bytes).first(bytes.size() / kRows);
      ASSERT_TRUE(library.value()->dequantize_row(traits.format, row, decoded)) << traits.name;
      for (const float value : decoded) ASSERT_EQ(value, 0.0F) << traits.name;
      continue;
    }
    const auto encoded =
        library.value()->quantize_chunk(traits.format, x, kRows, kColumns, importance, bytes);
    ASSERT_TRUE(encoded) << traits.name << ": " << encoded.error().message;
    double error = 0, energy = 0;
    const std::size_t row = bytes.size() / kRows;
    for (std::size_t r = 0; r < kRows; ++r) {
      ASSERT_TRUE(
          library.value()->dequantize_row(traits.format, std::span(bytes).subspan(r * row, row), decoded));
      for (std::size_t j = 0; j < kColumns; ++j) {
        error += std::pow(decoded[j] - x[r * kColumns + j], 2);
        energy += std::pow(x[r * kColumns + j], 2);
      }
    }
    // One bit per weight leaves 1 - 2/pi = 0.36 of a Gaussian's energy at best; the ternary formats, scaled
    // to the largest weight of a block, leave 0.66.
    EXPECT_LT(error / energy, 0.7) << traits.name;
    EXPECT_GT(error, 0.0) << traits.name;
  }
}

TEST(Reference, RefusesWhatWouldAbortTheLibrary) {
  const auto library = ReferenceLibrary::load();
  if (!library) GTEST_SKIP() << library.error().message;
  const std::vector<float> x(256, 1.0F);
  std::vector<std::byte> bytes(row_bytes(Format::IQ2_XXS, 256).value());
  const auto without = library.value()->quantize_chunk(Format::IQ2_XXS, x, 1, 256, {}, bytes);
  ASSERT_FALSE(without);
  EXPECT_EQ(without.error().code, ErrorCode::InvalidArgument);
  const auto short_row =
      library.value()->quantize_chunk(Format::Q4_K, std::span(x).first(32), 1, 32, {}, bytes);
  ASSERT_FALSE(short_row);
  EXPECT_EQ(short_row.error().code, ErrorCode::ShapeMismatch);
}

}  // namespace
}  // namespace quantfit::test
