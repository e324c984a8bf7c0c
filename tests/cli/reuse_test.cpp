// `--reuse`, `--cache` and outputs that are cut, through the real program.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/model.h"
#include "tests/support/process.h"
#include "tests/support/test_paths.h"

namespace quantfit {
namespace {

using test::ProcessResult;
using test::TemporaryFolder;
using testing::HasSubstr;

// `quantize` of a model by options, as quick as it can be.
ProcessResult quantize(const std::filesystem::path& model, std::vector<std::string> options) {
  std::vector<std::string> command = {
      QUANTFIT_BINARY, "quantize",  model,
      "--objective",   "prior",     "--error-feedback",
      "off",           "--imatrix", test::data_dir() / "tale-dense.imatrix.gguf",
      "--effort",      "fast",      "--json"};
  command.insert(command.end(), options.begin(), options.end());
  return test::run(command);
}

nlohmann::json answer(const ProcessResult& result, std::size_t which = 0) {
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const auto json = nlohmann::json::parse(result.out, nullptr, false);
  return json.is_object() ? json["answers"][which] : nlohmann::json();
}

const std::filesystem::path& example() {
  static const std::filesystem::path path = test::data_dir() / "tale-dense-F16.gguf";
  return path;
}

TEST(Reuse, TheFileIsTheSameAndOnlyWhatDiffersIsEncoded) {
  const TemporaryFolder folder;
  const std::string state = folder / "s.qfstate";
  const auto make = [&](const std::string& bpw, const std::string& name, std::vector<std::string> more = {}) {
    more.insert(more.end(), {"--state", state, "--target-bpw", bpw, "-o", folder / name});
    return quantize(example(), more);
  };
  const auto earlier = answer(make("4.5", "earlier.gguf"));
  EXPECT_EQ(earlier["reused_tensors"], 0);
  EXPECT_GT(earlier["encoded_tensors"].get<int>(), 10);
  answer(make("4.6", "plain.gguf"));
  const auto reused = answer(make("4.6", "reused.gguf", {"--reuse", folder / "earlier.gguf"}));
  EXPECT_GT(reused["reused_tensors"].get<int>(), reused["encoded_tensors"].get<int>() / 4);
  EXPECT_LT(reused["reused_tensors"].get<int>(), reused["encoded_tensors"].get<int>());
  EXPECT_TRUE(test::read_file(folder / "reused.gguf") == test::read_file(folder / "plain.gguf"));

  // Other encoders: nothing is taken, and a sentence says why.
  const auto other = make("4.6", "max.gguf", {"--reuse", folder / "earlier.gguf", "--kappa", "3"});
  EXPECT_EQ(answer(other)["reused_tensors"], 0);
  EXPECT_THAT(other.err, HasSubstr("earlier.gguf: errors were weighed in another way"));

  // The cache does it without names; the second answer of one run takes from the first.
  const auto both = make("4.5,4.6", "c.gguf", {"--cache", folder / "cache"});
  EXPECT_EQ(answer(both, 0)["reused_tensors"], 0);
  EXPECT_EQ(answer(both, 1)["reused_tensors"], reused["reused_tensors"]);
  const auto cached = answer(make("4.6", "cached.gguf", {"--cache", folder / "cache"}));
  EXPECT_EQ(cached["reused_tensors"], cached["encoded_tensors"]);
  EXPECT_TRUE(test::read_file(folder / "cached.gguf") == test::read_file(folder / "plain.gguf"));
}

TEST(Reuse, CutFilesAreNamedByTheirFirst) {
  const TemporaryFolder folder;
  // The source in files of 9 tensors.
  const auto source = answer(
      quantize(example(), {"--preset", "F16", "--split-max-tensors", "9", "-o", folder / "source.gguf"}));
  const std::string first = source["output"];
  ASSERT_GT(source["output_files"].get<int>(), 2);
  const auto kept = answer(quantize(first, {"--preset", "Q4_0", "--keep-split", "-o", folder / "kept.gguf"}));
  EXPECT_EQ(kept["output_files"], source["output_files"]);
  const auto before = Model::open(first);
  const auto after = Model::open(kept["output"].get<std::string>());
  ASSERT_TRUE(before && after);
  ASSERT_EQ(after.value().tensors().size(), before.value().tensors().size());
  for (std::size_t i = 0; i < before.value().tensors().size(); ++i) {
    EXPECT_EQ(after.value().tensors()[i].name, before.value().tensors()[i].name);
    EXPECT_EQ(after.value().tensors()[i].shard, before.value().tensors()[i].shard);
  }
  std::uint64_t bytes = 0;
  for (const GgufShard& shard : after.value().shards()) bytes += shard.file_bytes;
  EXPECT_EQ(bytes, kept["file_bytes"].get<std::uint64_t>());
  // A target for the files together counts what cutting adds.
  const auto sized =
      answer(quantize(first, {"--target-size", "4MB", "--keep-split", "-o", folder / "sized.gguf"}));
  EXPECT_LE(sized["file_bytes"].get<std::uint64_t>(), 4'000'000U);
  EXPECT_GT(sized["file_bytes"].get<std::uint64_t>(), 3'990'000U);
  const auto both = quantize(first, {"--preset", "Q4_0", "--keep-split", "--split-max-tensors", "3"});
  EXPECT_EQ(both.exit_code, 2);

  // The first file stands for all of them.
  const std::string kept_first = kept["output"];
  const auto again =
      answer(quantize(first, {"--preset", "Q4_0", "--reuse", kept_first, "-o", folder / "again.gguf"}));
  EXPECT_EQ(again["reused_tensors"], again["encoded_tensors"]);
  const auto shown = test::run({QUANTFIT_BINARY, "inspect", kept_first, "--json"});
  EXPECT_EQ(nlohmann::json::parse(shown.out)["tensors"].size(), before.value().tensors().size()) << shown.err;
  const auto diff = test::run({QUANTFIT_BINARY, "diff", kept_first, folder / "again.gguf", "--json"});
  EXPECT_TRUE(nlohmann::json::parse(diff.out)["changes"].empty()) << diff.out;
  const auto measured =
      test::run({QUANTFIT_BINARY, "evaluate", first, kept_first, "--text",
                 test::data_dir() / "eval-books.txt", "--context", "64", "--chunks", "1", "--json"});
  EXPECT_EQ(measured.exit_code, 0) << measured.err;
}

}  // namespace
}  // namespace quantfit
