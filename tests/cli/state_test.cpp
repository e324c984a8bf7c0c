// `measure` in parts and `state`, through the real program.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "tests/support/process.h"
#include "tests/support/test_paths.h"

namespace quantfit {
namespace {

using test::ProcessResult;
using test::TemporaryFolder;
using testing::HasSubstr;
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

}  // namespace
}  // namespace quantfit
