// `tune` through the real program.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/file_util.h"
#include "core/model.h"
#include "tests/support/process.h"
#include "tests/support/test_paths.h"

namespace quantfit {
namespace {

using test::ProcessResult;
using test::TemporaryFolder;
using testing::HasSubstr;

const std::string kModel = test::data_dir() / "tale-dense-F16.gguf";
const std::string kText = test::data_dir() / "eval-books.txt";

ProcessResult program(std::vector<std::string> words) {
  words.insert(words.begin(), QUANTFIT_BINARY);
  return test::run(words);
}

TEST(TuneCommand, WritesACloserFileOfTheSameFormats) {
  const TemporaryFolder folder;
  const std::string quantized = folder / "q.gguf", out = folder / "t.gguf";
  ASSERT_EQ(program({"quantize", kModel, "--preset", "Q2_K", "--effort", "fast", "--error-feedback", "off",
                     "--objective", "prior", "--imatrix", test::data_dir() / "tale-dense.imatrix.gguf", "-o",
                     quantized})
                .exit_code,
            0);
  const std::vector<std::string> words = {"tune",      kModel, quantized, "--text", kText, "--chunks", "32",
                                          "--context", "32",   "--steps", "8",      "-o",  out};
  const ProcessResult made = program(words);
  ASSERT_EQ(made.exit_code, 0) << made.err;
  EXPECT_THAT(made.out, HasSubstr("on text held back"));
  const Model before = Model::open(quantized).value(), after = Model::open(out).value();
  EXPECT_EQ(after.metadata().string("quantfit.tuned.level"), "scales");
  EXPECT_EQ(after.metadata().uint("quantfit.tuned.tokens"), 28U * 32);
  EXPECT_LT(*after.metadata().number("quantfit.tuned.divergence_after"),
            *after.metadata().number("quantfit.tuned.divergence_before"));
  EXPECT_EQ(after.total_tensor_bytes(), before.total_tensor_bytes());
  for (std::size_t i = 0; i < after.tensors().size(); ++i) {
    EXPECT_EQ(after.tensors()[i].name, before.tensors()[i].name);
    EXPECT_EQ(after.tensors()[i].format, before.tensors()[i].format);
  }
  // What exists is not replaced unasked, and sources never.
  EXPECT_EQ(program(words).exit_code, 2);
  const ProcessResult source =
      program({"tune", kModel, quantized, "--text", kText, "-o", quantized, "--force"});
  EXPECT_EQ(source.exit_code, 2);
  EXPECT_THAT(source.err, HasSubstr("the model that is tuned"));
}

TEST(TuneCommand, QuantizeTunesWhatItWritesWithinTheSizeAskedFor) {
  const TemporaryFolder folder;
  const std::string out = folder / "t.gguf";
  std::vector<std::string> words = {"quantize",
                                    kModel,
                                    "--target-size",
                                    "2500000",
                                    "--effort",
                                    "fast",
                                    "--formats",
                                    "IQ2_XS,Q3_K,Q4_K",
                                    "--error-feedback",
                                    "off",
                                    "--objective",
                                    "prior",
                                    "--imatrix",
                                    test::data_dir() / "tale-dense.imatrix.gguf",
                                    "--tune",
                                    "--text",
                                    kText,
                                    "--context",
                                    "32",
                                    "--chunks",
                                    "24",
                                    "--json",
                                    "-o",
                                    out};
  const ProcessResult made = program(words);
  ASSERT_EQ(made.exit_code, 0) << made.err;
  const auto answer = nlohmann::json::parse(made.out)["answers"][0];
  EXPECT_EQ(answer["output"], out);
  EXPECT_EQ(answer["tuning"]["training_tokens"], 20 * 32);
  EXPECT_LE(std::filesystem::file_size(out), 2500000U);
  // The untuned file is gone.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
  std::filesystem::remove(out);
  words[words.size() - 4] = "7";
  const ProcessResult few = program(words);
  EXPECT_EQ(few.exit_code, 2);
  EXPECT_THAT(few.out, HasSubstr("7 chunks is too short to tune on"));
}

TEST(TuneCommand, SaysWhatItWillTake) {
  const ProcessResult plan =
      program({"tune", kModel, kModel, "--text", kText, "--chunks", "16", "--context", "32", "--dry-run"});
  ASSERT_EQ(plan.exit_code, 0) << plan.err;
  EXPECT_THAT(plan.out, HasSubstr("memory in all"));
  EXPECT_THAT(plan.out, HasSubstr("16 steps on 384 tokens, 128 tokens held back"));
  EXPECT_THAT(program({"tune", kModel, kModel}).err, HasSubstr("Give -o FILE.gguf"));
  const ProcessResult few =
      program({"tune", kModel, kModel, "--text", kText, "--chunks", "7", "-o", "x.gguf"});
  EXPECT_EQ(few.exit_code, 2);
  EXPECT_THAT(few.err, HasSubstr("too short to tune on"));
}

}  // namespace
}  // namespace quantfit
