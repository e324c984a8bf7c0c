// Words that meet people half-way: near misses, other tools' spellings, decimal commas; files that are
// spared.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "cli/output_files.h"
#include "cli/suggest.h"
#include "core/model.h"
#include "tests/support/process.h"
#include "tests/support/test_paths.h"

namespace quantfit {
namespace {

using test::ProcessResult;
using test::TemporaryFolder;
using testing::HasSubstr;
using testing::Not;

std::string model() {
  return test::data_dir() / "tale-dense-F16.gguf";
}
std::string imatrix() {
  return test::data_dir() / "tale-dense.imatrix.gguf";
}

ProcessResult quantfit(std::vector<std::string> words) {
  words.insert(words.begin(), QUANTFIT_BINARY);
  return test::run(words);
}

// A usage error, which nothing was measured for.
std::string refusal(std::vector<std::string> words, int status = 2) {
  const ProcessResult result = quantfit(std::move(words));
  EXPECT_EQ(result.exit_code, status) << result.err;
  EXPECT_THAT(result.err, Not(HasSubstr("sampling"))) << "refused only after measuring";
  return result.err;
}

TEST(Suggest, FindsTheNearestWord) {
  const std::vector<std::string_view> words = {"quantize", "plan", "inspect", "Q4_K_M"};
  EXPECT_EQ(cli::nearest("quantise", words), "quantize");
  EXPECT_EQ(cli::nearest("paln", words), "plan");
  EXPECT_EQ(cli::nearest("q4_km", words), "Q4_K_M");
  EXPECT_EQ(cli::nearest("elephant", words), "");
  EXPECT_EQ(cli::edit_distance("abcd", "acbd"), 1U);
  EXPECT_EQ(cli::edit_distance("", "abc"), 3U);
}

TEST(Words, NearMissesGetTheRightOne) {
  EXPECT_THAT(refusal({"quantise"}), HasSubstr("did you mean 'quantize'?"));
  EXPECT_THAT(refusal({"quantize", model(), "--traget-bpw", "4.5"}),
              HasSubstr("did you mean '--target-bpw'?"));
  EXPECT_THAT(refusal({"plan", model(), "--preset", "Q4_KM"}), HasSubstr("did you mean 'Q4_K_M'?"));
  EXPECT_THAT(refusal({"plan", model(), "--target-bpw", "4", "--output-tensor-type", "Q6K"}),
              HasSubstr("did you mean 'Q6_K'?"));
  EXPECT_THAT(refusal({"plan", model(), "--target-bpw", "4", "--tensor-type", "attn_v=Q6K"}),
              HasSubstr("did you mean 'Q6_K'?"));
  EXPECT_THAT(refusal({"plan", model(), "--target-bpw", "4", "--formats", "Q4_K,Q5K"}),
              HasSubstr("did you mean 'Q5_K'?"));
  EXPECT_THAT(refusal({"plan", model(), "--target-vram", "8GiB", "--cache-type-k", "q8"}), HasSubstr("Q8_0"));
  EXPECT_THAT(refusal({"plan", model(), "--target-bpw", "4", "--runtime", "cudaa"}),
              HasSubstr("did you mean 'cuda'?"));
  EXPECT_THAT(refusal({"plan", model(), "--target-bpw", "4", "--max-type", "ffn_dwn=Q4_K"}),
              HasSubstr("did you mean 'ffn_down'?"));
  EXPECT_THAT(refusal({"quantize", "--pure", model(), "Q4_K"}), HasSubstr("--formats"));
  EXPECT_THAT(refusal({"quantize", model(), "out.gguf"}), HasSubstr("-o"));
}

TEST(Words, HelpAndVersionInEverySpelling) {
  for (const std::vector<std::string>& words : {std::vector<std::string>{"help"},
                                                {"--help"},
                                                {"-h"},
                                                {"help", "quantize"},
                                                {"quantize", "-h"},
                                                {"quantize", "x", "--help"},
                                                {"version"},
                                                {"--version"},
                                                {"-V"}}) {
    const ProcessResult result = quantfit(words);
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_FALSE(result.out.empty());
    EXPECT_TRUE(result.err.empty());
  }
  const ProcessResult none = quantfit({});
  EXPECT_EQ(none.exit_code, 2);
  EXPECT_THAT(none.err, HasSubstr("Commands:"));
}

TEST(Words, LlamaQuantizeFormsWork) {
  const TemporaryFolder folder;
  const std::vector<std::string> common = {
      "--objective", "prior",        "--error-feedback",  "off", "--imatrix", imatrix(), "--effort",
      "fast",        "--state_file", folder / "s.qfstate"};
  const auto with = [&](std::vector<std::string> words) {
    words.insert(words.begin(), common.begin(), common.end());
    return quantfit(words);
  };
  auto result = with({model(), folder / "a.gguf", "q4_k_m", "2"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  result = quantfit({"quantize", model(), "--objective", "prior", "--error-feedback", "off", "--imatrix",
                     imatrix(), "--effort", "fast", "--state", folder / "s.qfstate", "--preset", "Q4_K_M",
                     "-o", folder / "b.gguf"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(test::read_file(folder / "a.gguf"), test::read_file(folder / "b.gguf"));
  result = with({"--dry-run", model(), "Q4_K_M"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_FALSE(std::filesystem::exists(test::data_dir() / "tale-dense-F16-Q4_K_M.gguf"));
  EXPECT_EQ(with({model(), folder / "c.gguf", "Q4_K_M", "many"}).exit_code, 2);
}

TEST(Words, DecimalCommasAndForgottenUnitsAreAskedAbout) {
  EXPECT_THAT(refusal({"plan", model(), "--target-size", "3,5MiB"}), HasSubstr("3.5MiB"));
  EXPECT_THAT(refusal({"plan", model(), "--target-bpw", "4,25"}), HasSubstr("4.25"));
  EXPECT_THAT(refusal({"plan", model(), "--target-vram", "3,5GiB"}), HasSubstr("with a point"));
  EXPECT_THAT(refusal({"plan", model(), "--target-vram", "24"}), HasSubstr("24GiB"));
  EXPECT_THAT(refusal({"plan", model(), "--target-vram", "8GiB", "--vram-margin", "512"}),
              HasSubstr("512MiB"));
  EXPECT_THAT(refusal({"plan", model(), "--target-vram", "24GiB", "--parallel", "257"}),
              HasSubstr("1 to 256"));
}

TEST(Words, PatternsThatMatchNothingAreRefused) {
  for (const char* option : {"--tensor-type", "--min-type", "--max-type"})
    EXPECT_THAT(refusal({"plan", model(), "--target-bpw", "4", option, "atn_v=Q6_K"}),
                HasSubstr("did you mean 'attn_v'?"));
  EXPECT_THAT(refusal({"plan", model(), "--target-bpw", "4", "--tie", "nowhere"}),
              HasSubstr("--allow-unmatched"));
  EXPECT_THAT(refusal({"plan", model(), "--target-bpw", "4", "--role-weight", "nowhere=2"}),
              HasSubstr("nowhere"));
  EXPECT_THAT(refusal({"plan", model(), "--target-vram", "8GiB", "--override-tensor", "nowhere=CPU"}),
              HasSubstr("nowhere"));
}

TEST(Outputs, NothingIsReplacedWithoutForceAndInputsNever) {
  const TemporaryFolder folder;
  std::ofstream(folder / "old.txt") << "old";
  const std::vector<std::string> common = {
      "plan",    model(),    "--objective", "prior",   "--error-feedback",   "off",          "--imatrix",
      imatrix(), "--effort", "fast",        "--state", folder / "s.qfstate", "--target-bpw", "4"};
  const auto with = [&](std::vector<std::string> words) {
    words.insert(words.begin(), common.begin(), common.end());
    return words;
  };
  for (const char* option : {"--export-recipe", "--export-tensor-types"}) {
    EXPECT_THAT(refusal(with({option, folder / "old.txt"})), HasSubstr("--force"));
    EXPECT_THAT(refusal(with({option, model(), "--force"})), HasSubstr("replace the model"));
    EXPECT_THAT(refusal(with({option, imatrix(), "--force"})), HasSubstr("replace the importance matrix"));
    EXPECT_THAT(refusal(with({option, folder / "s.qfstate", "--force"})),
                HasSubstr("replace the state file"));
    EXPECT_THAT(refusal(with({option, folder / "old.txt", "--text", folder / "old.txt", "--force"})),
                HasSubstr("replace the text"));
    EXPECT_THAT(refusal(with({option, folder / "no" / "r.txt"}), 1), HasSubstr("does not exist"));
    EXPECT_THAT(refusal(with({option, folder / std::string(300, 'x')}), 1), HasSubstr("300 bytes"));
    EXPECT_THAT(refusal(with({option, ""})), HasSubstr("empty"));
  }
  std::filesystem::create_symlink(folder / "nowhere", folder / "link");
  EXPECT_THAT(refusal(with({"--export-recipe", folder / "link", "--force"})), HasSubstr("does not exist"));
  EXPECT_THAT(refusal(with({"--export-recipe", folder / "x", "--export-tensor-types", folder / "x"})),
              HasSubstr("two outputs"));
  EXPECT_THAT(refusal({"quantize", model(), "--target-bpw", "4", "-o", ""}), HasSubstr("--output"));
  std::string kept;
  std::ifstream(folder / "old.txt") >> kept;
  EXPECT_EQ(kept, "old");
  const ProcessResult forced = quantfit(with({"--export-recipe", folder / "old.txt", "--force"}));
  EXPECT_EQ(forced.exit_code, 0) << forced.err;
  std::ifstream(folder / "old.txt") >> kept;
  EXPECT_NE(kept, "old");
}

TEST(Outputs, DefaultNamesDropTheShardNumber) {
  EXPECT_EQ(cli::model_stem("d/model-00001-of-00003.gguf"), "model");
  EXPECT_EQ(cli::model_stem("d/model.gguf"), "model");
  EXPECT_EQ(cli::model_stem("model-7B-F16.gguf"), "model-7B-F16");
  EXPECT_EQ(cli::model_stem("-00001-of-00003.gguf"), "-00001-of-00003");
}

}  // namespace
}  // namespace quantfit
