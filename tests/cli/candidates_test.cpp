// `quantize --candidates`: several recipes are written and run, the best is kept.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "core/atomic_file.h"
#include "core/model.h"
#include "tests/support/process.h"
#include "tests/support/test_paths.h"

namespace quantfit {
namespace {

using test::ProcessResult;
using test::TemporaryFolder;
using testing::HasSubstr;

const std::string kModel = test::data_dir() / "tale-dense-F16.gguf";

ProcessResult quantizing(std::vector<std::string> more) {
  std::vector<std::string> words = {QUANTFIT_BINARY,
                                    "quantize",
                                    kModel,
                                    "--imatrix",
                                    test::data_dir() / "tale-dense.imatrix.gguf",
                                    "--text",
                                    test::data_dir() / "eval-books.txt",
                                    "--context",
                                    "64",
                                    "--formats",
                                    "IQ2_XXS,IQ3_XXS,Q3_K,Q4_K,Q5_K,Q6_K",
                                    "--effort",
                                    "fast",
                                    "--error-feedback",
                                    "off"};
  words.insert(words.end(), more.begin(), more.end());
  return test::run(words);
}

TEST(Candidates, TheOneThatRanBestIsKept) {
  const TemporaryFolder folder;
  const std::vector<std::string> words = {"--chunks",   "24",  "--target-size",  "4MB",
                                          "--min-fill", "99%", "--candidates",   "4",
                                          "--json",     "-o",  folder / "a.gguf"};
  const ProcessResult done = quantizing(words);
  ASSERT_EQ(done.exit_code, 0) << done.err;
  EXPECT_THAT(done.err, HasSubstr("4 candidates"));
  EXPECT_THAT(done.err, HasSubstr("passes of 192 tokens"));
  EXPECT_THAT(done.err, HasSubstr("by gradients of 1344 tokens"));  // what is held back is not used
  const auto answer = nlohmann::json::parse(done.out)["answers"][0];
  ASSERT_EQ(answer["candidates"].size(), 4U);
  std::set<std::string> rules;
  double least = 1e9;
  std::size_t kept = 0;
  for (const auto& one : answer["candidates"]) {
    rules.insert(one["rule"]);
    EXPECT_LE(one["file_bytes"], 4'000'000);
    EXPECT_GE(one["predicted_error"], answer["candidates"][0]["predicted_error"]);
    least = std::min<double>(least, one["kl_divergence"]["mean"]);
    kept += one["kept"] == true ? 1 : 0;
  }
  EXPECT_EQ(rules.size(), 4U);
  EXPECT_EQ(kept, 1U);
  for (const auto& one : answer["candidates"])
    if (one["kept"] == true) {
      EXPECT_EQ(one["kl_divergence"]["mean"], least);
      EXPECT_EQ(one["predicted_error"], answer["predicted_error"]);
    }
  // The file says so, in no more bytes than asked for, and nothing else is left.
  const auto model = Model::open(folder / "a.gguf");
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_LE(model.value().shards()[0].file_bytes, 4'000'000U);
  EXPECT_EQ(model.value().shards()[0].file_bytes, answer["file_bytes"]);
  EXPECT_EQ(model.value().metadata().find("quantfit.candidates")->as_uint(), 4U);
  EXPECT_EQ(model.value().metadata().find("quantfit.measured_divergence")->as_double(), least);
  const auto begin = std::filesystem::directory_iterator(folder.path());
  EXPECT_EQ(std::distance(begin, std::filesystem::directory_iterator()), 1);
}

TEST(Candidates, ATextTooShortToHoldSomeBackIsRefused) {
  const TemporaryFolder folder;
  const ProcessResult done =
      quantizing({"--chunks", "7", "--target-bpw", "4", "--candidates", "2", "-o", folder / "a.gguf"});
  EXPECT_EQ(done.exit_code, 2);
  EXPECT_THAT(done.err, HasSubstr("--candidates: a text of 7 chunks"));
}

}  // namespace
}  // namespace quantfit
