// `publish` through the real program: a folder for a hub, kept where it is right, mended where it is not.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/report/model_card.h"
#include "cli/sha256.h"
#include "core/file_util.h"
#include "core/model.h"
#include "tests/support/process.h"
#include "tests/support/test_paths.h"

namespace quantfit {
namespace {

using test::ProcessResult;
using test::TemporaryFolder;
using testing::HasSubstr;
using testing::Not;

std::string text_of(const std::filesystem::path& path) {
  return read_text_file(path, 1 << 24).value();
}

std::string sha256(std::string_view text, std::size_t piece) {
  cli::Sha256 sum;
  for (; !text.empty(); text.remove_prefix(std::min(piece, text.size())))
    sum.add(std::as_bytes(std::span(text.substr(0, piece))));
  return sum.hex();
}

TEST(Sha256, KnownSums) {
  // The examples of FIPS 180, and the longest text that needs no second block of padding.
  EXPECT_EQ(sha256("", 1), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256("abc", 1), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 7),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  const std::string million(1'000'000, 'a');
  for (const std::size_t piece : {std::size_t{1}, std::size_t{63}, std::size_t{64}, std::size_t{4096}})
    EXPECT_EQ(sha256(million, piece), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

ProcessResult publish(const TemporaryFolder& folder, std::vector<std::string> options) {
  std::vector<std::string> all = {QUANTFIT_BINARY,
                                  "publish",
                                  "--objective",
                                  "prior",
                                  "--error-feedback",
                                  "off",
                                  test::data_dir() / "tale-dense-F16.gguf",
                                  "--imatrix",
                                  test::data_dir() / "tale-dense.imatrix.gguf",
                                  "--effort",
                                  "fast",
                                  "-o",
                                  folder / "out"};
  all.insert(all.end(), options.begin(), options.end());
  return test::run(all);
}

TEST(Publish, MakesEverythingAndKeepsWhatIsRight) {
  const TemporaryFolder folder;
  const std::vector<std::string> options = {"--sizes", "Q4_K_M,3.5bpw,4MB", "--json"};
  const ProcessResult made = publish(folder, options);
  ASSERT_EQ(made.exit_code, 0) << made.err;
  const auto document = nlohmann::json::parse(made.out);
  const std::vector<std::string> names = {"tale-dense-Q4_K_M.gguf", "tale-dense-4MB.gguf",
                                          "tale-dense-3.50bpw.gguf"};  // largest first
  ASSERT_EQ(document["files"].size(), names.size());
  for (std::size_t i = 0; i < names.size(); ++i) {
    EXPECT_EQ(document["files"][i]["name"], names[i]);
    EXPECT_FALSE(document["files"][i]["kept"]);
    EXPECT_TRUE(Model::open(folder / "out" / names[i]));
    EXPECT_EQ(std::filesystem::file_size(folder / "out" / names[i]),
              document["files"][i]["file_bytes"].get<std::uint64_t>());
    EXPECT_TRUE(std::filesystem::exists(folder / "out" / "recipes" /
                                        std::filesystem::path(names[i]).replace_extension(".txt")));
  }
  EXPECT_LE(document["files"][1]["file_bytes"], 4'000'000U);
  const std::string card = text_of(folder / "out" / "README.md");
  for (const char* part : {"# tale\\-dense, quantized", "`tale-dense-Q4_K_M.gguf`", "curve.svg", "SHA256SUMS",
                           "predicted error", "as near to the original as"})
    EXPECT_THAT(card, HasSubstr(part));
  EXPECT_THAT(text_of(folder / "out" / "curve.svg"), HasSubstr("Q4_K_M"));
  EXPECT_EQ(test::read_file(folder / "out" / "tale-dense.imatrix.gguf"),
            test::read_file(test::data_dir() / "tale-dense.imatrix.gguf"));
  const ProcessResult sums =
      test::run({"/bin/sh", "-c", "cd \"$0\" && sha256sum -c --quiet SHA256SUMS && wc -l < SHA256SUMS",
                 folder / "out"});
  EXPECT_EQ(sums.exit_code, 0) << sums.out << sums.err;
  EXPECT_EQ(std::stoi(sums.out), 4);

  // Again: nothing is written that was right; what was taken away comes back with the same bytes.
  const auto before = std::filesystem::last_write_time(folder / "out" / names[0]);
  const std::vector<std::byte> lost = test::read_file(folder / "out" / names[2]);
  std::filesystem::remove(folder / "out" / names[2]);
  const ProcessResult again = publish(folder, options);
  ASSERT_EQ(again.exit_code, 0) << again.err;
  const auto second = nlohmann::json::parse(again.out);
  EXPECT_TRUE(second["files"][0]["kept"]);
  EXPECT_FALSE(second["files"][2]["kept"]);
  EXPECT_EQ(std::filesystem::last_write_time(folder / "out" / names[0]), before);
  EXPECT_EQ(test::read_file(folder / "out" / names[2]), lost);
  EXPECT_THAT(again.err, HasSubstr("were measured before"));

  // A file of that name that is another one is not replaced unasked.
  std::filesystem::copy_file(folder / "out" / names[0], folder / "out" / names[1],
                             std::filesystem::copy_options::overwrite_existing);
  const ProcessResult refused = publish(folder, options);
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.err, HasSubstr("another file"));
  auto forced = options;
  forced.push_back("--force");
  EXPECT_EQ(publish(folder, forced).exit_code, 0);
}

TEST(Publish, LargerFilesAreCutInFoldersOfTheirNames) {
  const TemporaryFolder folder;
  const std::vector<std::string> options = {"--sizes", "Q4_K_M,3bpw", "--split-max-size", "3MB", "--json"};
  const ProcessResult made = publish(folder, options);
  ASSERT_EQ(made.exit_code, 0) << made.err;
  const auto document = nlohmann::json::parse(made.out);
  const auto& cut = document["files"][0];
  EXPECT_EQ(cut["name"], "tale-dense-Q4_K_M/tale-dense-Q4_K_M-00001-of-00002.gguf");
  ASSERT_EQ(cut["parts"].size(), 2U);
  EXPECT_EQ(document["files"][1]["name"], "tale-dense-3.00bpw.gguf");
  EXPECT_FALSE(document["files"][1].contains("parts"));
  EXPECT_TRUE(Model::open(folder / "out" / cut["name"].get<std::string>()));
  const ProcessResult sums =
      test::run({"/bin/sh", "-c", "cd \"$0\" && sha256sum -c --quiet SHA256SUMS && wc -l < SHA256SUMS",
                 folder / "out"});
  EXPECT_EQ(sums.exit_code, 0) << sums.out << sums.err;
  EXPECT_EQ(std::stoi(sums.out), 4);
  EXPECT_THAT(text_of(folder / "out" / "README.md"), HasSubstr("-00001-of-00002.gguf` and 1 more"));
  const auto again = nlohmann::json::parse(publish(folder, options).out);
  EXPECT_TRUE(again["files"][0]["kept"]);
  EXPECT_TRUE(again["files"][1]["kept"]);
}

TEST(Publish, RefusesBeforeAnythingIsMeasured) {
  const TemporaryFolder folder;
  for (const auto& [sizes, words] :
       std::vector<std::pair<std::string, std::string>>{{"Q4_KM", "did you mean 'Q4_K_M'?"},
                                                        {"4.5bpw,4.50", "given twice"},
                                                        {"Q4_K_M,0.1bpw", "cannot be reached"}}) {
    const ProcessResult refused = publish(folder, {"--sizes", sizes});
    EXPECT_NE(refused.exit_code, 0) << sizes;
    EXPECT_THAT(refused.err, HasSubstr(words)) << sizes;
    EXPECT_THAT(refused.err, Not(HasSubstr("sampling"))) << sizes;
    EXPECT_FALSE(std::filesystem::exists(folder / "out")) << sizes;
  }
}

TEST(Publish, ForeignFoldersStayAsTheyAre) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "out");
  std::ofstream(folder / "out" / "README.md") << "mine";
  const ProcessResult refused = publish(folder, {"--sizes", "Q4_K_M"});
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.err, HasSubstr("not one of ours"));
  EXPECT_EQ(text_of(folder / "out" / "README.md"), "mine");
  EXPECT_FALSE(std::filesystem::exists(folder / "out" / "recipes"));
  EXPECT_EQ(publish(folder, {"--sizes", "Q4_K_M", "--force"}).exit_code, 0);
  EXPECT_THAT(text_of(folder / "out" / "README.md"), HasSubstr("Q4"));
}

TEST(ModelCard, ForeignTextIsNoMarkdown) {
  cli::ModelCard card;
  card.model = "<img src=x>|[a](b)";
  card.original = "`x`|y";
  cli::PublishedFile file;
  file.name = "a|b`c.gguf";
  file.label = "Q4_K_M";
  card.files.push_back(file);
  const std::string text = cli::to_markdown(card);
  EXPECT_THAT(text, Not(HasSubstr("<img")));
  EXPECT_THAT(text, HasSubstr("`a_b_c.gguf`"));
  EXPECT_THAT(text, HasSubstr("\\[a\\]\\(b\\)"));
}

TEST(ModelCard, UsesAreToldByWhatIsKnown) {
  cli::PublishedFile file;
  file.label = "4.50bpw";
  file.answer.quality = cli::QualityReport{"Q4_K_M", 1.02};
  EXPECT_EQ(cli::use_of(file), "about as near to the original as Q4_K_M");
  file.answer.quality->ratio = 2.0;
  EXPECT_THAT(cli::use_of(file), HasSubstr("2.00 times as far"));
  file.divergence = 0.002;
  EXPECT_EQ(cli::use_of(file), "as good as the original");
  file.divergence = 3;
  EXPECT_EQ(cli::use_of(file), "only where nothing larger fits");
}

}  // namespace
}  // namespace quantfit
