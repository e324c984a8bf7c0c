// `calibrate`, `evaluate`, and `quantize` from a text, through the real program.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

#include "core/atomic_file.h"
#include "core/file_util.h"
#include "core/importance_matrix.h"
#include "core/model.h"
#include "tests/support/process.h"
#include "tests/support/test_paths.h"

namespace quantfit {
namespace {

using test::ProcessResult;
using test::TemporaryFolder;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

const std::string kBinary = QUANTFIT_BINARY;
const std::string kModel = test::data_dir() / "tale-dense-F16.gguf";
const std::string kText = test::data_dir() / "eval-books.txt";

ProcessResult program(std::vector<std::string> words) {
  words.insert(words.begin(), kBinary);
  return test::run(words);
}

// Few tokens: enough to see that everything is there.
std::vector<std::string> with_text(std::vector<std::string> words) {
  words.insert(words.end(), {"--text", kText, "--context", "64", "--chunks", "8"});
  return words;
}

std::vector<std::string> quantizing(std::vector<std::string> more) {
  std::vector<std::string> words = {"quantize", kModel, "--formats",    "IQ2_XS,Q3_K,Q4_K",
                                    "--effort", "fast", "--target-bpw", "3.5"};
  words.insert(words.end(), more.begin(), more.end());
  return with_text(words);
}

TEST(Calibrate, WritesBothFormatsOfAnImportanceMatrix) {
  const TemporaryFolder folder;
  for (const std::string name : {"i.gguf", "i.dat"}) {
    const ProcessResult made = program(with_text({"calibrate", kModel, "-o", folder / name}));
    ASSERT_EQ(made.exit_code, 0) << made.err;
    EXPECT_THAT(made.out, HasSubstr("512 tokens"));
    const auto matrix = ImportanceMatrix::read(folder / name);
    ASSERT_TRUE(matrix) << matrix.error().message;
    EXPECT_THAT(matrix.value().datasets(), ElementsAre("eval-books.txt"));
    EXPECT_EQ(matrix.value().chunk_count(), 8U);
    EXPECT_NE(matrix.value().find("blk.5.ffn_down.weight"), nullptr);
  }
  const ProcessResult again = program(with_text({"calibrate", kModel, "-o", folder / "i.gguf"}));
  EXPECT_EQ(again.exit_code, 2);
  EXPECT_THAT(again.err, HasSubstr("--force"));
}

TEST(Calibrate, SaysWhatItWillTakeAndWhatIsMissing) {
  const ProcessResult plan = program(with_text({"calibrate", kModel, "--dry-run"}));
  EXPECT_EQ(plan.exit_code, 0) << plan.err;
  EXPECT_THAT(plan.out, HasSubstr("multiply-adds"));
  const ProcessResult nowhere = program(with_text({"calibrate", kModel}));
  EXPECT_EQ(nowhere.exit_code, 2);
  EXPECT_THAT(nowhere.err, HasSubstr("-o FILE.gguf"));
  const TemporaryFolder folder;
  ASSERT_TRUE(write_file_atomically(folder / "short.txt", "Too short."));
  const ProcessResult little =
      program({"calibrate", kModel, "--text", folder / "short.txt", "-o", folder / "i.gguf"});
  EXPECT_EQ(little.exit_code, 2);
  EXPECT_THAT(little.err, HasSubstr("short.txt"));
  EXPECT_THAT(little.err, HasSubstr("at least two windows of 512"));
}

TEST(Calibrate, QuantizeMakesTheMatrixOnceAndKeepsItBesideTheState) {
  const TemporaryFolder folder;
  const std::string state = folder / "m.qfstate";
  const ProcessResult first = program(quantizing({"--state", state, "-o", folder / "a.gguf"}));
  ASSERT_EQ(first.exit_code, 0) << first.err;
  EXPECT_THAT(first.err, HasSubstr("512 tokens"));
  EXPECT_THAT(first.err, HasSubstr("made the importance matrix"));
  EXPECT_THAT(first.err, HasSubstr("measured what errors cost by gradients of 512 tokens"));
  EXPECT_THAT(first.out, HasSubstr(" nats"));
  const ProcessResult second = program(quantizing({"--state", state, "-o", folder / "b.gguf"}));
  ASSERT_EQ(second.exit_code, 0) << second.err;
  EXPECT_THAT(second.err, HasSubstr("was made before"));
  EXPECT_THAT(second.err, HasSubstr("what errors cost was measured before"));
  EXPECT_THAT(second.err, HasSubstr("were measured before"));
  EXPECT_EQ(test::read_file(folder / "a.gguf"), test::read_file(folder / "b.gguf"));

  // A damaged file is made again, and the state file agrees that the pair is whole.
  std::size_t found = 0;
  for (const auto& file : std::filesystem::directory_iterator(folder.path()))
    if (file.path().string().ends_with(".imatrix.gguf")) {
      ++found;
      auto bytes = test::read_file(file.path());
      bytes.back() ^= std::byte{1};
      test::write_file(file.path(), bytes);
    }
  EXPECT_EQ(found, 1U);
  const ProcessResult third = program(quantizing({"--state", state, "-o", folder / "c.gguf"}));
  ASSERT_EQ(third.exit_code, 0) << third.err;
  EXPECT_THAT(third.err, HasSubstr("made the importance matrix"));
  EXPECT_EQ(test::read_file(folder / "a.gguf"), test::read_file(folder / "c.gguf"));
  const ProcessResult verified = program({"state", "verify", state});
  EXPECT_EQ(verified.exit_code, 0) << verified.out << verified.err;
}

TEST(Calibrate, WithoutAStateFileNothingIsLeft) {
  const TemporaryFolder folder;
  const std::filesystem::path scratch = folder / "scratch";
  std::filesystem::create_directory(scratch);
  const ProcessResult without = program(
      quantizing({"--scratch", scratch, "-o", folder / "c.gguf", "--save-imatrix", folder / "i.gguf"}));
  ASSERT_EQ(without.exit_code, 0) << without.err;
  EXPECT_TRUE(std::filesystem::is_empty(scratch));
  EXPECT_TRUE(ImportanceMatrix::read(folder / "i.gguf"));
}

TEST(Calibrate, WhatContradictsItIsRefused) {
  const TemporaryFolder folder;
  const ProcessResult both =
      program(quantizing({"--role-weight", "attn_v=2", "--objective", "measured", "-o", folder / "a.gguf"}));
  EXPECT_EQ(both.exit_code, 2);
  EXPECT_THAT(both.err, HasSubstr("--role-weight"));
  // A text that was given is used or refused, also beside an importance matrix.
  const ProcessResult lost =
      program({"quantize", kModel, "--imatrix", test::data_dir() / "tale-dense.imatrix.gguf", "--text",
               folder / "lost.txt", "--target-bpw", "4", "-o", folder / "a.gguf"});
  EXPECT_EQ(lost.exit_code, 1);
  EXPECT_THAT(lost.err, HasSubstr("lost.txt"));
  // A target out of reach is told before the model is run.
  const ProcessResult unreachable = program(with_text({"quantize", kModel, "--target-bpw", "0.5"}));
  EXPECT_EQ(unreachable.exit_code, 3) << unreachable.err;
  EXPECT_THAT(unreachable.err, Not(HasSubstr("made the importance matrix")));
  // So is a text for evaluation that is not there.
  const ProcessResult missing =
      program(quantizing({"--evaluate", folder / "no.txt", "-o", folder / "a.gguf"}));
  EXPECT_EQ(missing.exit_code, 1);
  EXPECT_THAT(missing.err, HasSubstr("--evaluate"));
  EXPECT_THAT(missing.err, Not(HasSubstr("made the importance matrix")));
}

TEST(Calibrate, AGivenMatrixGoesWithATextForGradients) {
  const TemporaryFolder folder;
  const std::vector<std::string> given = {"--imatrix", test::data_dir() / "tale-dense.imatrix.gguf",
                                          "--state", folder / "m.qfstate", "--json"};
  std::map<std::string, nlohmann::json> answers;
  for (const std::string objective : {"measured", "prior", "auto"}) {
    std::vector<std::string> words = given;
    words.insert(words.end(), {"--objective", objective, "-o", folder / (objective + ".gguf")});
    const ProcessResult done = program(quantizing(words));
    ASSERT_EQ(done.exit_code, 0) << done.err;
    EXPECT_THAT(done.err, Not(HasSubstr("importance matrix of this text")));
    answers[objective] = nlohmann::json::parse(done.out)["answers"][0];
  }
  EXPECT_EQ(answers["measured"]["error_unit"], "nats");
  EXPECT_EQ(answers["prior"]["error_unit"], "relative");  // though the state file has a set in nats
  EXPECT_EQ(answers["auto"]["predicted_error"], answers["measured"]["predicted_error"]);
  EXPECT_EQ(test::read_file(folder / "auto.gguf"), test::read_file(folder / "measured.gguf"));
  EXPECT_NE(test::read_file(folder / "prior.gguf"), test::read_file(folder / "measured.gguf"));
}

TEST(Calibrate, FilesEncodedWithFeedbackNameTheMomentsAndAreTheSameAgain) {
  const TemporaryFolder folder;
  const auto make = [&](const std::string& name, const std::string& feedback) {
    return program(
        with_text({"quantize", kModel, "--imatrix", test::data_dir() / "tale-dense.imatrix.gguf", "--formats",
                   "Q4_0,Q5_0", "--effort", "fast", "--objective", "prior", "--target-bpw", "5",
                   "--error-feedback", feedback, "--state", folder / "m.qfstate", "-o", folder / name}));
  };
  for (const auto& [name, feedback] :
       std::map<std::string, std::string>{{"a", "on"}, {"b", "on"}, {"c", "off"}}) {
    const ProcessResult made = make(name + ".gguf", feedback);
    ASSERT_EQ(made.exit_code, 0) << made.err;
  }
  EXPECT_EQ(test::read_file(folder / "a.gguf"), test::read_file(folder / "b.gguf"));
  const auto key_of = [&](const std::string& name) {
    const auto model = Model::open(folder / name);
    EXPECT_TRUE(model);
    const GgufKeyValue* key = model.value().metadata().find("quantfit.second_moments_fingerprint");
    return key == nullptr ? std::string() : std::string(key->as_string().value_or(""));
  };
  EXPECT_EQ(key_of("a.gguf").size(), 32U);
  EXPECT_EQ(key_of("c.gguf"), "");
}

TEST(Calibrate, ATextIsNotReadWhenNoMatrixIsWanted) {
  const TemporaryFolder folder;
  const ProcessResult done = program({"quantize", kModel, "--imatrix", "none", "--formats", "Q4_K,Q6_K",
                                      "--effort", "fast", "--objective", "prior", "--error-feedback", "off",
                                      "--target-bpw", "5", "-o", folder / "a.gguf"});
  EXPECT_EQ(done.exit_code, 0) << done.err;
  EXPECT_THAT(done.err, HasSubstr("no importance matrix"));
  EXPECT_THAT(done.err, Not(HasSubstr("tokens through")));
}

TEST(EvaluateCommand, MeasuresWhatQuantizeWrote) {
  const TemporaryFolder folder;
  const std::string state = folder / "m.qfstate";
  const ProcessResult written = program(quantizing(
      {"--state", state, "-o", folder / "a.gguf", "--evaluate", folder / "held-out.txt", "--json"}));
  EXPECT_EQ(written.exit_code, 1);  // no such text yet
  std::string text = read_text_file(kText, 1 << 20).value().substr(60'000, 6'000);
  ASSERT_TRUE(write_file_atomically(folder / "held-out.txt", text));
  const ProcessResult done = program(quantizing(
      {"--state", state, "-o", folder / "a.gguf", "--evaluate", folder / "held-out.txt", "--json"}));
  ASSERT_EQ(done.exit_code, 0) << done.err;
  const auto document = nlohmann::json::parse(done.out)["answers"][0];
  const double divergence = document["evaluation"]["files"][0]["kl_divergence"]["mean"];
  EXPECT_GT(divergence, 0.005);
  EXPECT_LT(divergence, 0.5);

  const ProcessResult evaluated =
      program({"evaluate", kModel, folder / "a.gguf", kModel, "--text", folder / "held-out.txt", "--context",
               "64", "--json", "--state", state});
  ASSERT_EQ(evaluated.exit_code, 0) << evaluated.err;
  const auto answer = nlohmann::json::parse(evaluated.out);
  EXPECT_EQ(answer["files"][0]["kl_divergence"]["mean"], divergence);
  EXPECT_EQ(answer["files"][1]["kl_divergence"]["mean"], 0.0);
  EXPECT_EQ(answer["files"][1]["same_top_token"]["value"], 1.0);
  EXPECT_TRUE(answer["files"][0]["against_best"]["decided"]);

  const ProcessResult exported = program({"state", "export", state});
  EXPECT_THAT(exported.out, HasSubstr("mean kl divergence"));
  const ProcessResult people =
      program({"evaluate", kModel, folder / "a.gguf", "--text", folder / "held-out.txt", "--context", "64"});
  EXPECT_THAT(people.out, HasSubstr("99.9 % of positions are below"));
  EXPECT_THAT(people.out, HasSubstr("same top token"));
}

TEST(EvaluateCommand, NeedsATextAndFilesThatAreThere) {
  const ProcessResult without = program({"evaluate", kModel});
  EXPECT_EQ(without.exit_code, 2);
  EXPECT_THAT(without.err, HasSubstr("--text"));
  const ProcessResult missing = program({"evaluate", kModel, "no.gguf", "--text", kText});
  EXPECT_EQ(missing.exit_code, 1);
  EXPECT_THAT(missing.err, HasSubstr("no.gguf"));
}

}  // namespace
}  // namespace quantfit
