// The main job through the real program, on a really trained model.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/model.h"
#include "tests/support/process.h"
#include "tests/support/test_paths.h"

namespace quantfit {
namespace {

using test::ProcessResult;
using test::TemporaryFolder;

const std::string kBinary = QUANTFIT_BINARY;

std::string example_model() {
  return test::data_dir() / "tale-dense-F16.gguf";
}
std::string example_imatrix() {
  return test::data_dir() / "tale-dense.imatrix.gguf";
}

// `quantfit quantize` of the example model at fast effort, which is all that these tests need.
std::vector<std::string> quantize_command(const std::string& bpw, const std::string& output,
                                          const std::string& state = "") {
  std::vector<std::string> command = {kBinary,       "quantize",  example_model(),
                                      "--objective", "prior",     "--error-feedback",
                                      "off",         "--imatrix", example_imatrix(),
                                      "--effort",    "fast",      "--target-bpw",
                                      bpw,           "-o",        output,
                                      "--json"};
  if (!state.empty()) command.insert(command.end(), {"--state", state});
  return command;
}

nlohmann::json json_of(const ProcessResult& result) {
  EXPECT_EQ(result.exit_code, 0) << result.err;
  auto json = nlohmann::json::parse(result.out, nullptr, false);
  EXPECT_FALSE(json.is_discarded()) << result.out;
  return json.contains("answers") ? json["answers"][0] : json;
}

std::size_t files_in(const std::filesystem::path& folder) {
  return static_cast<std::size_t>(
      std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator()));
}

TEST(Quantize, MeetsTheBudgetFromBelowAndWritesWhatItPlanned) {
  const TemporaryFolder folder;
  const auto answer = json_of(test::run(quantize_command("4.5", folder / "out.gguf")));
  EXPECT_LE(answer["used_bytes"].get<std::uint64_t>(), answer["budget_bytes"].get<std::uint64_t>());
  EXPECT_GE(answer["used_bytes"].get<double>(), 0.999 * answer["budget_bytes"].get<double>());

  auto model = Model::open(folder / "out.gguf");
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ(model.value().total_tensor_bytes(), answer["tensor_bytes"].get<std::uint64_t>());
  EXPECT_EQ(std::filesystem::file_size(folder / "out.gguf"), answer["file_bytes"].get<std::uint64_t>());
  ASSERT_EQ(model.value().tensors().size(), answer["tensors"].size());
  for (std::size_t i = 0; i < answer["tensors"].size(); ++i)
    EXPECT_EQ(name_of(model.value().tensors()[i].format), answer["tensors"][i]["format"].get<std::string>());
  EXPECT_EQ(model.value().metadata().uint("general.quantization_version"), 2U);
  EXPECT_TRUE(model.value().metadata().string("quantize.imatrix.file"));
}

TEST(Quantize, CutsTheOutputIntoFilesThatAreOneModel) {
  const TemporaryFolder folder;
  const std::uint64_t budget = 4'000'000;
  const std::uint64_t most = 1'000'000;
  const auto answer =
      json_of(test::run({kBinary, "quantize", example_model(), "--imatrix", example_imatrix(), "--effort",
                         "fast", "--target-size", "4MB", "--split-max-size", "1MB", "--split-max-tensors",
                         "30", "-o", folder / "out.gguf", "--json"}));
  const std::filesystem::path first = answer["output"].get<std::string>();
  EXPECT_EQ(first.filename().string().rfind("out-00001-of-", 0), 0U);
  const auto model = Model::open(first);
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ(model.value().tensors().size(), answer["tensors"].size());
  EXPECT_EQ(model.value().total_tensor_bytes(), answer["tensor_bytes"].get<std::uint64_t>());
  const auto shards = model.value().shards();
  EXPECT_GE(shards.size(), 4U);
  EXPECT_EQ(files_in(folder.path()), shards.size());
  std::uint64_t sum = 0;
  for (std::uint32_t i = 0; i < shards.size(); ++i) {
    sum += shards[i].file_bytes;
    const auto tensors =
        std::ranges::count(model.value().tensors(), i, [](const TensorInfo& tensor) { return tensor.shard; });
    EXPECT_TRUE(shards[i].file_bytes <= most || tensors == 1) << i;
    EXPECT_LE(tensors, 30);
  }
  EXPECT_EQ(sum, answer["file_bytes"].get<std::uint64_t>());
  EXPECT_LE(sum, budget);
  EXPECT_GE(static_cast<double>(sum), 0.995 * static_cast<double>(budget));
}

TEST(Quantize, SecondRunWithStateSamplesNothingAndGivesTheSameBytes) {
  const TemporaryFolder folder;
  const auto first = test::run(quantize_command("3.5", folder / "a.gguf", folder / "s.qfstate"));
  ASSERT_EQ(first.exit_code, 0) << first.err;
  const auto second = test::run(quantize_command("3.5", folder / "b.gguf", folder / "s.qfstate"));
  ASSERT_EQ(second.exit_code, 0) << second.err;
  EXPECT_NE(second.err.find("were measured before"), std::string::npos) << second.err;
  EXPECT_EQ(test::read_file(folder / "a.gguf"), test::read_file(folder / "b.gguf"));
}

TEST(Quantize, ThreadsAndInstructionSetsDoNotChangeTheBytes) {
  const TemporaryFolder folder;
  auto command = quantize_command("3.2", folder / "one.gguf");
  command.insert(command.end(), {"--threads", "1"});
  ASSERT_EQ(test::run(command).exit_code, 0);
  command = quantize_command("3.2", folder / "two.gguf");
  command.insert(command.end(), {"--threads", "2"});
  ASSERT_EQ(test::run(command).exit_code, 0);
  EXPECT_EQ(test::read_file(folder / "one.gguf"), test::read_file(folder / "two.gguf"));

  const auto avx2 = test::run(quantize_command("3.2", folder / "avx2.gguf"), {{"QUANTFIT_ISA", "avx2"}});
  if (avx2.exit_code == 2) GTEST_SKIP() << "this CPU has no AVX2: " << avx2.err;
  EXPECT_EQ(test::read_file(folder / "one.gguf"), test::read_file(folder / "avx2.gguf"));
}

// Stops the program by `signal_number` later and later, continues each time, and compares the result with
// that of an uninterrupted run.
void interrupt_and_resume(int signal_number) {
  const TemporaryFolder folder;
  const auto whole = test::run(quantize_command("4.25", folder / "whole.gguf"));
  ASSERT_EQ(whole.exit_code, 0) << whole.err;
  int interrupted = 0;
  for (int attempt = 0; attempt < 12; ++attempt) {
    test::Process process(quantize_command("4.25", folder / "resumed.gguf", folder / "s.qfstate"));
    std::this_thread::sleep_for(std::chrono::milliseconds(40 + 35 * attempt));
    process.signal(signal_number);
    const ProcessResult result = process.wait();
    // Done, or stopped between giving the file its name and the end.
    if (result.exit_code == 0 || std::filesystem::exists(folder / "resumed.gguf")) break;
    ++interrupted;
    // A Ctrl-C before the handler is installed ends the program the ordinary way.
    if (signal_number == SIGINT)
      EXPECT_TRUE(result.exit_code == 130) << result.exit_code << ": " << result.err;
    else
      EXPECT_EQ(result.exit_code, 128 + SIGKILL) << result.err;
  }
  EXPECT_GT(interrupted, 0) << "the run was too quick to be interrupted";
  auto command = quantize_command("4.25", folder / "resumed.gguf", folder / "s.qfstate");
  command.push_back("--force");
  const auto last = test::run(command);
  ASSERT_EQ(last.exit_code, 0) << last.err;
  EXPECT_EQ(test::read_file(folder / "whole.gguf"), test::read_file(folder / "resumed.gguf"));
  // "measured 12 tensors in 1.0 s, 32 were known", or all of them.
  const auto known = last.err.find(" were known");
  if (last.err.find("were measured before") == std::string::npos) {
    ASSERT_NE(known, std::string::npos) << last.err;
    EXPECT_EQ(last.err.find(", 0 were known"), std::string::npos) << "nothing was kept: " << last.err;
  }
}

TEST(Quantize, ResumesAfterCtrlC) {
  interrupt_and_resume(SIGINT);
}
TEST(Quantize, ResumesAfterKill) {
  interrupt_and_resume(SIGKILL);
}

TEST(Quantize, UnreachableTargetIsAnAnswerWithTheRange) {
  const TemporaryFolder folder;
  const auto low = test::run(quantize_command("0.5", folder / "out.gguf"));
  EXPECT_EQ(low.exit_code, 3);
  EXPECT_NE(low.err.find("between"), std::string::npos) << low.err;
  EXPECT_FALSE(std::filesystem::exists(folder / "out.gguf"));
}

TEST(Quantize, RefusesBadInputsWithAReason) {
  const TemporaryFolder folder;
  auto model = test::read_file(example_model());
  model.resize(model.size() / 2);
  test::write_file(folder / "truncated.gguf", model);
  auto command = quantize_command("4.5", folder / "out.gguf");
  command[2] = folder / "truncated.gguf";
  auto result = test::run(command);
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("truncated.gguf"), std::string::npos) << result.err;

  command[2] = folder / "missing.gguf";
  EXPECT_EQ(test::run(command).exit_code, 1);

  result = test::run(quantize_command("4.5", folder / "no/such/folder/out.gguf"));
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("does not exist"), std::string::npos) << result.err;

  EXPECT_EQ(test::run(quantize_command("four", folder / "out.gguf")).exit_code, 2);
  EXPECT_EQ(test::run({kBinary, "quantize", example_model(), "-o", folder / "out.gguf"}).exit_code, 2);
  EXPECT_EQ(test::run({kBinary, "frobnicate"}).exit_code, 2);
  EXPECT_EQ(test::run(quantize_command("4.5", example_model())).exit_code, 2)
      << "would replace its own source";
  EXPECT_FALSE(std::filesystem::exists(folder / "out.gguf"));
}

TEST(Quantize, RefusesAnotherModelsImportanceMatrix) {
  const TemporaryFolder folder;
  auto command = quantize_command("4.5", folder / "out.gguf");
  command[8] = test::data_dir() / "gguf" / "imatrix.gguf";
  const auto result = test::run(command);
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("imatrix.gguf"), std::string::npos) << result.err;
}

TEST(Quantize, RefusesAStateFileOfAnotherModel) {
  const TemporaryFolder folder;
  ASSERT_EQ(test::run(quantize_command("4.5", folder / "out.gguf", folder / "s.qfstate")).exit_code, 0);
  // The quantized output is a model of the same shape but other weights.
  auto command = quantize_command("4.5", folder / "again.gguf", folder / "s.qfstate");
  command[2] = folder / "out.gguf";
  command.push_back("--allow-requantize");
  const auto result = test::run(command);
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("model"), std::string::npos) << result.err;
}

TEST(Quantize, FullDiskLeavesNothingBehind) {
  const TemporaryFolder folder;  // becomes a small tmpfs; needs the right to mount
  const auto mounted = test::run({"mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder.path().string()});
  if (mounted.exit_code != 0) GTEST_SKIP() << "cannot mount a tmpfs here: " << mounted.err;
  const auto result = test::run(quantize_command("4.5", folder / "out.gguf"));
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("space"), std::string::npos) << result.err;
  EXPECT_EQ(files_in(folder.path()), 0U);
  EXPECT_EQ(test::run({"umount", folder.path().string()}).exit_code, 0);
}

TEST(Quantize, UnwritableFolderIsRefusedBeforeWork) {
  if (geteuid() == 0) GTEST_SKIP() << "root may write everywhere";
  const TemporaryFolder folder;
  ASSERT_EQ(chmod(folder.path().c_str(), 0500), 0);
  const auto result = test::run(quantize_command("4.5", folder / "out.gguf"));
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("not writable"), std::string::npos) << result.err;
}

TEST(Help, TeachesAndSucceeds) {
  for (const std::vector<std::string>& command :
       std::vector<std::vector<std::string>>{{kBinary, "--help"},
                                             {kBinary, "quantize", "--help"},
                                             {kBinary, "plan", "--help"},
                                             {kBinary, "inspect", "--help"},
                                             {kBinary, "--version"}}) {
    const auto result = test::run(command);
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_FALSE(result.out.empty());
  }
  EXPECT_NE(test::run({kBinary, "quantize", "--help"}).out.find("--target-bpw"), std::string::npos);
}

TEST(Inspect, ReportsFormatsAndSizes) {
  const auto text = test::run({kBinary, "inspect", example_model(), "--tensors", "--metadata"});
  EXPECT_EQ(text.exit_code, 0);
  EXPECT_NE(text.out.find("blk.0.attn_q.weight"), std::string::npos);
  EXPECT_NE(text.out.find("qwen3.block_count"), std::string::npos);
  const auto json = json_of(test::run({kBinary, "inspect", example_model(), "--json"}));
  EXPECT_EQ(json["architecture"], "qwen3");
  EXPECT_EQ(json["elements"].get<std::uint64_t>(), 6819840U);
}

TEST(Quantize, FilesSayHowTheyWereMade) {
  const TemporaryFolder folder;
  const auto make = [&](const char* name, std::vector<std::string> options) {
    auto command = quantize_command("4.5", folder / name, folder / "s.qfstate");
    command.insert(command.end(), options.begin(), options.end());
    return json_of(test::run(command));
  };
  const auto answer = make("with.gguf", {});
  EXPECT_EQ(std::filesystem::file_size(folder / "with.gguf"), answer["file_bytes"].get<std::uint64_t>());
  const auto shown = json_of(test::run({kBinary, "inspect", folder / "with.gguf", "--json"}))["provenance"];
  EXPECT_EQ(shown["quantfit.target"], "4.5 bpw");
  EXPECT_EQ(shown["quantfit.effort"], "fast");
  EXPECT_EQ(shown["quantfit.predicted_error"], answer["predicted_error"]);
  EXPECT_EQ(shown["quantfit.error_unit"], answer["error_unit"]);
  for (const char* key : {"source_fingerprint", "importance_fingerprint", "recipe_fingerprint"})
    EXPECT_EQ(shown[std::string("quantfit.") + key].get<std::string>().size(), 32U) << key;
  EXPECT_TRUE(shown.contains("quantfit.version") && shown.contains("quantfit.encoder_version"));
  const auto text = test::run({kBinary, "inspect", folder / "with.gguf"});
  EXPECT_NE(text.out.find("made by quantfit"), std::string::npos) << text.out;

  const auto silent = make("without.gguf", {"--no-provenance"});
  EXPECT_EQ(std::filesystem::file_size(folder / "without.gguf"), silent["file_bytes"].get<std::uint64_t>());
  EXPECT_TRUE(
      json_of(test::run({kBinary, "inspect", folder / "without.gguf", "--json"}))["provenance"].empty());

  // Made from one of ours: the keys are about the new file, not about the old one.
  const auto again =
      test::run({kBinary, "quantize", folder / "with.gguf", "--preset", "Q8_0", "--imatrix", "none",
                 "--allow-requantize", "--effort", "fast", "-o", folder / "again.gguf"});
  ASSERT_EQ(again.exit_code, 0) << again.err;
  const auto second = json_of(test::run({kBinary, "inspect", folder / "again.gguf", "--json"}))["provenance"];
  EXPECT_EQ(second["quantfit.target"], "recipe Q8_0");
  EXPECT_NE(second["quantfit.recipe_fingerprint"], shown["quantfit.recipe_fingerprint"]);
  EXPECT_FALSE(second.contains("quantfit.importance_fingerprint"));
}

// The whole file fits to the byte, whatever stands in its metadata.
TEST(Quantize, TargetsForFilesCountProvenance) {
  const TemporaryFolder folder;
  auto command = quantize_command("4.5", folder / "out.gguf", folder / "s.qfstate");
  std::ranges::replace(command, std::string("--target-bpw"), std::string("--target-size"));
  for (const char* size : {"3900000", "3900100", "3900200"}) {
    std::ranges::replace_if(
        command, [](const std::string& word) { return word == "4.5" || word.starts_with("3900"); }, size);
    const auto made = json_of(test::run([&] {
      auto forced = command;
      forced.push_back("--force");
      return forced;
    }()));
    EXPECT_EQ(std::filesystem::file_size(folder / "out.gguf"), made["file_bytes"].get<std::uint64_t>());
    EXPECT_EQ(made["used_bytes"], made["file_bytes"]);
    EXPECT_LE(made["file_bytes"].get<std::uint64_t>(), std::stoull(size));
  }
}

TEST(Plan, WritesNothingAndAgreesWithQuantize) {
  const TemporaryFolder folder;
  const auto planned =
      json_of(test::run({kBinary, "plan", example_model(), "--objective", "prior", "--error-feedback", "off",
                         "--imatrix", example_imatrix(), "--effort", "fast", "--target-bpw", "4", "--state",
                         folder / "s.qfstate", "--json"}));
  EXPECT_EQ(files_in(folder.path()), 1U) << "only the state file";
  const auto made = json_of(test::run(quantize_command("4", folder / "out.gguf", folder / "s.qfstate")));
  EXPECT_EQ(planned["tensors"], made["tensors"]);
}

}  // namespace
}  // namespace quantfit
