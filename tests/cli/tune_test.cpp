// `tune` through the real program.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

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
  const std::string state = folder / "s.qfstate";
  const std::vector<std::string> words = {"tune",     kModel,    quantized,   "--text", kText,
                                          "--chunks", "32",      "--context", "32",     "--steps",
                                          "8",        "--state", state,       "-o",     out};
  const ProcessResult made = program(words);
  ASSERT_EQ(made.exit_code, 0) << made.err;
  EXPECT_THAT(made.out, HasSubstr("on text held back"));
  const Model before = Model::open(quantized).value(), after = Model::open(out).value();
  EXPECT_EQ(after.metadata().string("quantfit.tuned.level"), "scales");
  EXPECT_EQ(after.metadata().uint("quantfit.tuned.tokens"), 28U * 32);
  EXPECT_LT(*after.metadata().number("quantfit.tuned.divergence_after"),
            *after.metadata().number("quantfit.tuned.divergence_before"));
  EXPECT_NE(before.metadata().find("quantfit.tensor_data"), nullptr);
  EXPECT_EQ(after.metadata().find("quantfit.tensor_data"), nullptr);
  EXPECT_EQ(after.total_tensor_bytes(), before.total_tensor_bytes());
  for (std::size_t i = 0; i < after.tensors().size(); ++i) {
    EXPECT_EQ(after.tensors()[i].name, before.tensors()[i].name);
    EXPECT_EQ(after.tensors()[i].format, before.tensors()[i].format);
  }
  // A report shows what it was before and after.
  ASSERT_EQ(program({"report", state, "-o", folder / "r.html"}).exit_code, 0);
  const auto page = test::read_file(folder / "r.html");
  const std::string_view html(reinterpret_cast<const char*>(page.data()), page.size());
  const auto figure = [&](std::string_view quantity) {
    const std::size_t at = html.find(fmt::format("\"quantity\":\"{}\",\"value\":", quantity));
    if (at == html.npos) return -1.0;
    const std::string rest(html.substr(at, 200));
    return std::stod(rest.substr(rest.find("\"value\":") + 8));
  };
  EXPECT_DOUBLE_EQ(figure("kl divergence before tuning"),
                   *after.metadata().number("quantfit.tuned.divergence_before"));
  EXPECT_DOUBLE_EQ(figure("kl divergence after tuning"),
                   *after.metadata().number("quantfit.tuned.divergence_after"));
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
                                    "--report",
                                    folder / "r.html",
                                    "--json",
                                    "-o",
                                    out};
  const ProcessResult made = program(words);
  ASSERT_EQ(made.exit_code, 0) << made.err;
  const auto page = test::read_file(folder / "r.html");
  EXPECT_THAT(std::string(reinterpret_cast<const char*>(page.data()), page.size()),
              HasSubstr("\"quantity\":\"kl divergence after tuning\""));
  std::filesystem::remove(folder / "r.html");
  const auto answer = nlohmann::json::parse(made.out)["answers"][0];
  EXPECT_EQ(answer["output"], out);
  EXPECT_EQ(answer["tuning"]["training_tokens"], 20 * 32);
  EXPECT_EQ(answer["tuning_costs"].size(), 3U);
  EXPECT_LE(std::filesystem::file_size(out), 2500000U);
  // What the untuned file said about its bytes is not true of these.
  EXPECT_EQ(Model::open(out).value().metadata().find("quantfit.tensor_data") == nullptr,
            answer["tuning"]["level"] != "none");
  // The untuned file is gone.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
  std::filesystem::remove(out);
  // What it will take is told without doing it.
  std::vector<std::string> planned(words.begin(), words.end() - 5);
  planned.front() = "plan";
  const ProcessResult plan = program(planned);
  ASSERT_EQ(plan.exit_code, 0) << plan.err;
  EXPECT_THAT(plan.out, HasSubstr("what tuning it takes: 16 steps on 640 tokens, 128 tokens held back"));
  planned.push_back("--json");
  const auto costs = nlohmann::json::parse(program(planned).out)["answers"][0]["tuning_costs"];
  EXPECT_EQ(costs, answer["tuning_costs"]);
  *std::ranges::find(words, "24") = "7";
  const ProcessResult few = program(words);
  EXPECT_EQ(few.exit_code, 2);
  EXPECT_THAT(few.out, HasSubstr("7 chunks is too short to tune on"));
}

// Ends the program when it has told of a step of its tuning; false where it came to its end before.
bool stopped_while_tuning(std::vector<std::string> words, const std::string& log, int signal,
                          ProcessResult& result) {
  words.insert(words.begin(), QUANTFIT_BINARY);
  words.insert(words.end(), {"--log-file", log});
  test::Process process(words);
  while (process.running()) {
    std::ifstream file(log);
    const std::string told((std::istreambuf_iterator<char>(file)), {});
    if (told.find("tuning scales: ") != std::string::npos) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  process.signal(signal);
  result = process.wait();
  return result.exit_code == 128 + signal;
}

TEST(TuneCommand, GoesOnToTheSameBytesAfterAnInterruption) {
  const TemporaryFolder folder;
  const std::string quantized = folder / "q.gguf", whole = folder / "whole.gguf", out = folder / "t.gguf";
  ASSERT_EQ(program({"quantize", kModel, "--preset", "Q2_K", "--effort", "fast", "--error-feedback", "off",
                     "--objective", "prior", "--imatrix", test::data_dir() / "tale-dense.imatrix.gguf", "-o",
                     quantized})
                .exit_code,
            0);
  std::vector<std::string> words = {"tune",      kModel, quantized, "--text", kText, "--chunks", "16",
                                    "--context", "16",   "--steps", "16",     "-o",  whole};
  ASSERT_EQ(program(words).exit_code, 0);
  words.back() = out;
  ProcessResult result;
  // Interrupted, and then killed: what was saved stays.
  if (!stopped_while_tuning(words, folder / "a.log", SIGTERM, result))
    GTEST_SKIP() << "the run was too quick to be interrupted";
  EXPECT_THAT(result.err,
              testing::AnyOf(HasSubstr("goes on with the tuning from what was saved last, in " + out),
                             HasSubstr("no step of the tuning was saved")));
  EXPECT_EQ(result.err.find("no step") == std::string::npos, std::filesystem::exists(out + ".tuning"));
  (void)stopped_while_tuning(words, folder / "b.log", SIGKILL, result);
  if (!std::filesystem::exists(out)) {
    const ProcessResult last = program(words);
    ASSERT_EQ(last.exit_code, 0) << last.err;
  }
  EXPECT_EQ(test::read_file(out), test::read_file(whole));
  EXPECT_FALSE(std::filesystem::exists(out + ".tuning"));
}

TEST(TuneCommand, QuantizeGoesOnWithTheTuning) {
  const TemporaryFolder folder;
  const std::string whole = folder / "whole.gguf", out = folder / "t.gguf", left = folder / ".t.untuned.gguf";
  std::vector<std::string> words = {"quantize",
                                    kModel,
                                    "--preset",
                                    "Q2_K",
                                    "--effort",
                                    "fast",
                                    "--tune",
                                    "--text",
                                    kText,
                                    "--context",
                                    "16",
                                    "--chunks",
                                    "16",
                                    "--imatrix",
                                    test::data_dir() / "tale-dense.imatrix.gguf",
                                    "--error-feedback",
                                    "off",
                                    "--objective",
                                    "prior",
                                    "-o",
                                    whole};
  ASSERT_EQ(program(words).exit_code, 0);
  words.back() = out;
  ProcessResult result;
  if (!stopped_while_tuning(words, folder / "a.log", SIGTERM, result))
    GTEST_SKIP() << "the run was too quick to be interrupted";
  EXPECT_THAT(result.err, HasSubstr("what is tuned stays in " + left));
  EXPECT_TRUE(std::filesystem::exists(left));
  const ProcessResult last = program(words);
  ASSERT_EQ(last.exit_code, 0) << last.err;
  EXPECT_THAT(last.out, HasSubstr("tensors were encoded before"));
  EXPECT_EQ(test::read_file(out), test::read_file(whole));
  EXPECT_FALSE(std::filesystem::exists(left));
  EXPECT_FALSE(std::filesystem::exists(out + ".tuning"));
}

TEST(TuneCommand, WhatATimeChoseMakesTheSameFileWhenItIsGiven) {
  const TemporaryFolder folder;
  const std::string quantized = folder / "q.gguf";
  ASSERT_EQ(program({"quantize", kModel, "--preset", "Q2_K", "--effort", "fast", "--error-feedback", "off",
                     "--objective", "prior", "--imatrix", test::data_dir() / "tale-dense.imatrix.gguf", "-o",
                     quantized})
                .exit_code,
            0);
  const std::vector<std::string> words = {"tune",      kModel, quantized, "--text",  kText,
                                          "--context", "16",   "--json",  "--level", "norms"};
  std::vector<std::string> timed = words, given = words;
  timed.insert(timed.end(), {"--chunks", "9", "--tune-time", "1h", "-o", folder / "timed.gguf"});
  const ProcessResult chosen = program(timed);
  ASSERT_EQ(chosen.exit_code, 0) << chosen.err;
  EXPECT_THAT(chosen.err, HasSubstr("--tune-time 1h: level norms, 16 steps, 9 chunks; about "));
  const auto choice = nlohmann::json::parse(chosen.out)["chosen_for_time"];
  given.insert(given.end(), {"--chunks", choice["chunks"].dump(), "--steps", choice["steps"].dump(), "-o",
                             folder / "given.gguf"});
  ASSERT_EQ(program(given).exit_code, 0);
  EXPECT_EQ(test::read_file(folder / "timed.gguf"), test::read_file(folder / "given.gguf"));
  timed.push_back("--force");
  timed[timed.size() - 4] = "1";
  EXPECT_THAT(program(timed).out, HasSubstr("--tune-time: '1' is no duration"));
  timed[timed.size() - 4] = "0.001s";
  EXPECT_THAT(program(timed).out, HasSubstr("too few to tune in"));
  EXPECT_THAT(program({"quantize", kModel, "--target-bpw", "3", "--tune-time", "1h", "-o", "x.gguf"}).err,
              HasSubstr("--tune-time is of use with --tune only"));
}

TEST(TuneCommand, OneLayerAtATime) {
  const TemporaryFolder folder;
  const std::string quantized = folder / "q.gguf", out = folder / "t.gguf";
  ASSERT_EQ(program({"quantize", kModel, "--preset", "Q2_K", "--effort", "fast", "--error-feedback", "off",
                     "--objective", "prior", "--imatrix", test::data_dir() / "tale-dense.imatrix.gguf", "-o",
                     quantized})
                .exit_code,
            0);
  const std::vector<std::string> words = {"tune",   kModel,      quantized, "--text",  kText, "--chunks",
                                          "16",     "--context", "32",      "--steps", "4",   "--level",
                                          "scales", "--form",    "layers",  "--json",  "-o",  out};
  const ProcessResult made = program(words);
  ASSERT_EQ(made.exit_code, 0) << made.err;
  const auto answer = nlohmann::json::parse(made.out);
  ASSERT_FALSE(answer["layers"].empty());
  EXPECT_EQ(answer["layers"][0]["level"], "scales");
  EXPECT_LT(answer["layers"][0]["loss"]["after"], answer["layers"][0]["loss"]["before"]);
  // Nothing is left of what it stood on.
  std::size_t files = 0;
  for ([[maybe_unused]] const auto& one : std::filesystem::directory_iterator(folder.path())) ++files;
  EXPECT_EQ(files, 2U);
}

TEST(TuneCommand, SaysWhatItWillTake) {
  const ProcessResult plan =
      program({"tune", kModel, kModel, "--text", kText, "--chunks", "16", "--context", "32", "--dry-run"});
  ASSERT_EQ(plan.exit_code, 0) << plan.err;
  EXPECT_THAT(plan.out, HasSubstr("memory in all"));
  EXPECT_THAT(plan.out, HasSubstr("16 steps on 384 tokens, 128 tokens held back"));
  for (const char* level : {"norms", "scales", "codes"}) EXPECT_THAT(plan.out, HasSubstr(level));
  EXPECT_THAT(program({"tune", kModel, kModel}).err, HasSubstr("Give -o FILE.gguf"));
  const ProcessResult layers = program({"tune", kModel, kModel, "--text", kText, "--chunks", "16",
                                        "--context", "32", "--dry-run", "--form", "layers"});
  ASSERT_EQ(layers.exit_code, 0) << layers.err;
  EXPECT_THAT(layers.out, HasSubstr("one layer at a time, each in 16 steps on 384 tokens"));
  EXPECT_THAT(program({"tune", kModel, kModel, "--form", "layers", "--tune-time", "1h", "-o", "x.gguf"}).err,
              HasSubstr("exclude one another"));
  const ProcessResult few =
      program({"tune", kModel, kModel, "--text", kText, "--chunks", "7", "-o", "x.gguf"});
  EXPECT_EQ(few.exit_code, 2);
  EXPECT_THAT(few.err, HasSubstr("too short to tune on"));
}

}  // namespace
}  // namespace quantfit
