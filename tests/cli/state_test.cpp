// `measure` in parts and `state`, through the real program.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "core/model.h"
#include "tests/support/process.h"
#include "tests/support/test_paths.h"

namespace quantfit {
namespace {

using test::ProcessResult;
using test::TemporaryFolder;
using testing::HasSubstr;
using testing::Not;
using Environment = std::map<std::string, std::string>;

const std::string kBinary = QUANTFIT_BINARY;

std::vector<std::string> measuring(const std::string& command, const std::filesystem::path& state,
                                   std::vector<std::string> options = {}) {
  std::vector<std::string> all = {kBinary,
                                  command,
                                  test::data_dir() / "tale-dense-F16.gguf",
                                  "--imatrix",
                                  test::data_dir() / "tale-dense.imatrix.gguf",
                                  "--effort",
                                  "fast",
                                  "--formats",
                                  "Q3_K,Q4_K",
                                  "--state",
                                  state};
  options.insert(options.begin(), {"--error-feedback", "off"});
  if (command != "measure") options.insert(options.begin(), {"--objective", "prior"});
  all.insert(all.end(), options.begin(), options.end());
  return all;
}

ProcessResult run_state(std::vector<std::string> words) {
  words.insert(words.begin(), {kBinary, "state"});
  return test::run(words);
}

// Without what depends on the machine: times of measuring and of day.
nlohmann::json measured_in(const std::filesystem::path& state) {
  const auto exported = run_state({"export", state});
  EXPECT_EQ(exported.exit_code, 0) << exported.err;
  auto json = nlohmann::json::parse(exported.out, nullptr, false);
  EXPECT_FALSE(json.is_discarded());
  for (auto& run : json["runs"]) {
    for (const char* time : {"started", "finished", "recipes"}) run.erase(time);
    for (auto& measurement : run["measurements"]) {
      measurement.erase("saved");
      for (auto& format : measurement["formats"]) format.erase("seconds");
    }
  }
  return json;
}

std::string recipe_of(const std::filesystem::path& state) {
  const auto planned = test::run(measuring("plan", state, {"--target-bpw", "4", "--json"}));
  EXPECT_EQ(planned.exit_code, 0) << planned.err;
  EXPECT_THAT(planned.err, HasSubstr("were measured before"));
  return nlohmann::json::parse(planned.out)["answers"][0]["tensors"].dump();
}

TEST(State, PartsOfAnyClusterJoinedInAnyOrderAreTheWhole) {
  const TemporaryFolder folder;
  ASSERT_EQ(test::run(measuring("measure", folder / "whole.qfstate")).exit_code, 0);
  const nlohmann::json whole = measured_in(folder / "whole.qfstate");
  ASSERT_EQ(whole["runs"].size(), 1U);
  const std::string recipe = recipe_of(folder / "whole.qfstate");

  // What Slurm's arrays, Kubernetes' indexed Jobs and Open MPI tell their processes.
  const std::vector<std::pair<std::string, std::vector<Environment>>> clusters = {
      {"auto",
       {{{"SLURM_ARRAY_TASK_ID", "5"}, {"SLURM_ARRAY_TASK_MIN", "5"}, {"SLURM_ARRAY_TASK_COUNT", "2"}},
        {{"SLURM_ARRAY_TASK_ID", "6"}, {"SLURM_ARRAY_TASK_MIN", "5"}, {"SLURM_ARRAY_TASK_COUNT", "2"}}}},
      {"auto/3",
       {{{"JOB_COMPLETION_INDEX", "0"}}, {{"JOB_COMPLETION_INDEX", "1"}}, {{"JOB_COMPLETION_INDEX", "2"}}}},
      {"auto",
       {{{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "4"}},
        {{"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "4"}},
        {{"OMPI_COMM_WORLD_RANK", "2"}, {"OMPI_COMM_WORLD_SIZE", "4"}},
        {{"OMPI_COMM_WORLD_RANK", "3"}, {"OMPI_COMM_WORLD_SIZE", "4"}}}}};
  int number = 0;
  for (const auto& [shard, processes] : clusters) {
    const auto name = [&](const std::string& text) {
      return folder / fmt::format("{}-{}.qfstate", number, text);
    };
    // Each part into its own file, and all parts at the same time into one.
    std::vector<std::string> parts;
    std::vector<std::unique_ptr<test::Process>> sharing;
    for (std::size_t i = 0; i < processes.size(); ++i) {
      sharing.push_back(std::make_unique<test::Process>(
          measuring("measure", name("shared"), {"--shard", shard}), processes[i]));
      parts.push_back(name(std::to_string(i)));
      const auto part = test::run(measuring("measure", parts.back(), {"--shard", shard}), processes[i]);
      ASSERT_EQ(part.exit_code, 0) << part.err;
      EXPECT_THAT(part.out, HasSubstr("left to other parts"));
    }
    for (auto& process : sharing) {
      const auto result = process->wait();
      EXPECT_EQ(result.exit_code, 0) << result.err;
    }
    EXPECT_EQ(measured_in(name("shared")), whole);
    std::ranges::reverse(parts);
    std::vector<std::string> words = {"merge", name("merged")};
    words.insert(words.end(), parts.begin(), parts.end());
    const auto merged = run_state(words);
    ASSERT_EQ(merged.exit_code, 0) << merged.err;
    EXPECT_EQ(measured_in(name("merged")), whole);
    EXPECT_EQ(recipe_of(name("merged")), recipe);
    ++number;
  }
}

TEST(State, ShowsChecksPrunesAndExports) {
  const TemporaryFolder folder;
  const auto file = folder / "a.qfstate";
  for (const char* target : {"4", "4", "3.8"})
    ASSERT_EQ(test::run(measuring("plan", file, {"--target-bpw", target})).exit_code, 0);

  const auto listed = nlohmann::json::parse(run_state({"ls", folder.path(), "--json"}).out)["files"];
  ASSERT_EQ(listed.size(), 1U);
  EXPECT_EQ(listed[0]["runs"], 1);
  EXPECT_EQ(listed[0]["recipes"], 2);  // the same plan twice is one recipe
  EXPECT_EQ(listed[0]["bytes"].get<std::uint64_t>(), std::filesystem::file_size(file));
  EXPECT_THAT(run_state({"ls", folder.path()}).out, HasSubstr("tale-dense-F16.gguf"));
  const auto shown = run_state({"show", file});
  EXPECT_EQ(shown.exit_code, 0);
  for (const char* text :
       {"measured errors", "recipes", "4 bpw", "3.8 bpw", "tale-dense.imatrix.gguf", "fast"})
    EXPECT_THAT(shown.out, HasSubstr(text));

  EXPECT_EQ(run_state({"verify", file}).exit_code, 0);
  const auto dry =
      nlohmann::json::parse(run_state({"prune", file, "--keep-recipes", "1", "--dry-run", "--json"}).out);
  EXPECT_EQ(dry["removed"].size(), 1U);
  const auto pruned = run_state({"prune", file, "--keep-recipes", "1"});
  EXPECT_EQ(pruned.exit_code, 0) << pruned.err;
  EXPECT_EQ(nlohmann::json::parse(run_state({"show", file, "--json"}).out)["files"][0]["recipes"], 1);
  EXPECT_THAT(run_state({"prune", file}).out, HasSubstr("nothing may go"));

  const auto csv = run_state({"export", file, "--format", "csv"});
  EXPECT_THAT(csv.out, HasSubstr("importance_fingerprint,effort"));
  EXPECT_THAT(csv.out, HasSubstr("blk.0.ffn_down.weight"));
  ASSERT_EQ(run_state({"export", file, "-o", folder / "a.json"}).exit_code, 0);
  EXPECT_EQ(run_state({"export", file, "-o", folder / "a.json"}).exit_code, 2);  // is there already

  std::filesystem::copy_file(file, folder / "damaged.qfstate");
  std::filesystem::resize_file(folder / "damaged.qfstate", 8192);
  EXPECT_EQ(run_state({"verify", file, folder / "damaged.qfstate"}).exit_code, 1);
  EXPECT_EQ(run_state({"show", folder / "none"}).exit_code, 1);
  EXPECT_EQ(run_state({"prune", folder / "none"}).exit_code, 1);
  EXPECT_FALSE(std::filesystem::exists(folder / "none"));
  EXPECT_EQ(run_state({}).exit_code, 2);
  EXPECT_EQ(run_state({"merge", folder / "new.qfstate"}).exit_code, 2);
}

// A thousand weights between the samples of the fingerprint change between two runs.
TEST(State, WeightsThatChangedBetweenRunsAreNoticed) {
  namespace fs = std::filesystem;
  const TemporaryFolder folder;
  const auto state = folder / "a.qfstate";
  const auto model = folder / "model.gguf";
  fs::copy_file(test::data_dir() / "tale-dense-F16.gguf", model);
  const auto with_model = [&](const std::string& command, const std::vector<std::string>& options) {
    auto words = measuring(command, state, options);
    words[2] = model;
    return test::run(words);
  };
  const auto write = [&](const char* name) {
    return with_model("quantize", {"--target-bpw", "4", "-o", folder / name});
  };
  ASSERT_EQ(with_model("plan", {"--target-bpw", "4"}).exit_code, 0);
  EXPECT_THAT(run_state({"show", state}).out, HasSubstr("nobody has read them all"));
  EXPECT_THAT(run_state({"verify", state, "--model", model}).out, HasSubstr("none is on record"));
  ASSERT_EQ(write("first.gguf").exit_code, 0);
  EXPECT_THAT(run_state({"show", state}).out, HasSubstr("weights: all were read, digest"));
  EXPECT_THAT(run_state({"verify", state, "--model", model}).out, HasSubstr("every weight is that of"));

  // The same weights in other files: said, compared while writing, and known from then on.
  const auto then = fs::last_write_time(model);
  fs::last_write_time(model, then + std::chrono::seconds(1));
  EXPECT_THAT(with_model("plan", {"--target-bpw", "4"}).err, HasSubstr("samples of every tensor agree"));
  const auto second = write("second.gguf");
  EXPECT_EQ(second.exit_code, 0) << second.err;
  EXPECT_EQ(test::read_file(folder / "second.gguf"), test::read_file(folder / "first.gguf"));
  EXPECT_THAT(with_model("plan", {"--target-bpw", "4"}).err, Not(HasSubstr("samples of every tensor agree")));

  {
    // The middle of the largest gap between two samples of the last tensor that is large enough to have some.
    const auto opened = Model::open(model).value();
    const TensorInfo* embedding = opened.find("token_embd.weight");
    ASSERT_NE(embedding, nullptr);
    ASSERT_GT(embedding->bytes, 24U * 8192U);
    const std::uint64_t at =
        opened.shards()[0].data_offset + embedding->offset + (embedding->bytes / 23 + 4096) / 2;
    std::fstream file(model, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(at));
    const std::vector<char> halves(2000, '\x21');
    file.write(halves.data(), static_cast<std::streamsize>(halves.size()));
  }
  const auto third = write("third.gguf");
  EXPECT_NE(third.exit_code, 0);
  EXPECT_THAT(third.err, HasSubstr("some of its weights are not those that were measured"));
  EXPECT_FALSE(fs::exists(folder / "third.gguf"));
  const auto verified = run_state({"verify", state, "--model", model});
  EXPECT_EQ(verified.exit_code, 1);
  EXPECT_THAT(verified.err, HasSubstr("samples agree, the digest"));
  EXPECT_THAT(run_state({"verify", state, "--model", test::data_dir() / "gguf" / "tiny.gguf"}).err,
              HasSubstr("samples of it differ"));
}

}  // namespace
}  // namespace quantfit
