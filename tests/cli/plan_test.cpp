// Budgets, constraints, recipes and the frontier through the real program, from one shared state file.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/format.h"
#include "optimizer/planning/runtime_speed.h"
#include "tests/support/process.h"
#include "tests/support/test_paths.h"

namespace quantfit {
namespace {

using test::ProcessResult;
using test::TemporaryFolder;

const std::string kBinary = QUANTFIT_BINARY;

class Planning : public testing::Test {
 protected:
  // Sampled once for all tests of the suite.
  static void SetUpTestSuite() {
    folder_ = new TemporaryFolder();
    const auto result = run_plan({"--target-bpw", "4"});
    ASSERT_EQ(result.exit_code, 0) << result.err;
  }
  static void TearDownTestSuite() {
    delete folder_;
    folder_ = nullptr;
  }

  static std::vector<std::string> command(const std::string& name, std::vector<std::string> options) {
    std::vector<std::string> all = {kBinary,
                                    name,
                                    test::data_dir() / "tale-dense-F16.gguf",
                                    "--objective",
                                    "prior",
                                    "--error-feedback",
                                    "off",
                                    "--imatrix",
                                    test::data_dir() / "tale-dense.imatrix.gguf",
                                    "--effort",
                                    "fast",
                                    "--state",
                                    *folder_ / "s.qfstate"};
    all.insert(all.end(), options.begin(), options.end());
    return all;
  }
  static ProcessResult run_plan(std::vector<std::string> options) {
    return test::run(command("plan", std::move(options)));
  }
  static nlohmann::json plan(std::vector<std::string> options) {
    options.push_back("--json");
    const auto result = run_plan(std::move(options));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    auto json = nlohmann::json::parse(result.out, nullptr, false);
    EXPECT_FALSE(json.is_discarded()) << result.out;
    // One answer as itself, several as an array.
    auto answers = json["answers"];
    return answers.size() == 1 ? answers[0] : answers;
  }
  static std::string format_of(const nlohmann::json& answer, const std::string& tensor) {
    for (const auto& row : answer["tensors"])
      if (row["name"] == tensor) return row["format"];
    ADD_FAILURE() << "no tensor " << tensor;
    return "";
  }

  static TemporaryFolder* folder_;
};
TemporaryFolder* Planning::folder_ = nullptr;

TEST_F(Planning, SeveralTargetsFromOneMeasurementFallInError) {
  const auto answers = plan({"--target-bpw", "2.6,3,3.5,4,4.5,5,6,8"});
  ASSERT_EQ(answers.size(), 8U);
  double previous = 1e300;
  for (const auto& answer : answers) {
    EXPECT_LE(answer["used_bytes"].get<std::uint64_t>(), answer["budget_bytes"].get<std::uint64_t>());
    EXPECT_LT(answer["predicted_error"].get<double>(), previous);
    EXPECT_EQ(answer["allocation"]["termination"], "optimal");
    EXPECT_EQ(answer["allocation"]["gap"].get<double>(), 0.0);
    previous = answer["predicted_error"];
  }
}

TEST_F(Planning, FileSizeCountsEverythingExactly) {
  const TemporaryFolder out;
  const auto result =
      test::run(command("quantize", {"--target-size", "4MB", "-o", out / "model.gguf", "--json"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto answer = nlohmann::json::parse(result.out)["answers"][0];
  EXPECT_EQ(std::filesystem::file_size(out / "model.gguf"), answer["used_bytes"].get<std::uint64_t>());
  EXPECT_LE(answer["used_bytes"].get<std::uint64_t>(), 4'000'000U);
  EXPECT_GT(answer["used_bytes"].get<std::uint64_t>(), 3'990'000U);
}

TEST_F(Planning, MemoryBudgetShowsItsBreakdown) {
  const auto answer =
      plan({"--target-vram", "8MiB", "--vram-margin", "0", "--ctx-size", "256", "--ubatch", "16"});
  EXPECT_TRUE(answer["feasible"].get<bool>());
  EXPECT_FALSE(answer["memory"]["items"].empty());
  std::uint64_t others = 0;
  for (const auto& item : answer["memory"]["items"])
    if (item["device"] == "GPU") others += item["bytes"].get<std::uint64_t>();
  EXPECT_EQ(others + answer["memory"]["gpu_weight_budget_bytes"].get<std::uint64_t>(), 8U << 20);
  EXPECT_LE(answer["used_bytes"].get<std::uint64_t>(), answer["budget_bytes"].get<std::uint64_t>());
  EXPECT_EQ(run_plan({"--target-vram", "1MiB"}).exit_code, 3);
  const auto ram = plan({"--target-ram", "520MiB", "--ctx-size", "256", "--ubatch", "16"});
  EXPECT_GT(ram["used_bytes"].get<std::uint64_t>(), 0U);
  EXPECT_LE(ram["used_bytes"].get<std::uint64_t>(), ram["budget_bytes"].get<std::uint64_t>());
  const auto both = plan({"--target-vram", "6MiB", "--vram-margin", "0", "--target-ram", "600MiB",
                          "--ctx-size", "256", "--ubatch", "16", "--override-tensor", "ffn_down=CPU"});
  EXPECT_TRUE(both["feasible"].get<bool>());
  ASSERT_EQ(both["budgets"].size(), 2U);
  EXPECT_EQ(both["budgets"][0]["of"], "GPU");
  EXPECT_EQ(both["budgets"][1]["of"], "RAM");
  const auto idle = plan({"--target-vram", "8MiB", "--vram-margin", "0", "--ctx-size", "256", "--ubatch",
                          "16", "--override-tensor", "nowhere=CPU", "--allow-unmatched", "--cpu-moe"});
  EXPECT_THAT(idle["notes"], testing::ElementsAre(testing::HasSubstr("'nowhere' applies to no tensor"),
                                                  testing::HasSubstr("--cpu-moe changes nothing"),
                                                  testing::HasSubstr("RAM has no limit")));
}

TEST_F(Planning, PinsFloorsCeilingsAndTiesHold) {
  const auto pinned = plan({"--target-bpw", "4", "--tensor-type", "attn_v=q6_K", "--min-type",
                            "ffn_down=Q4_K", "--max-type", "ffn_up=Q4_K", "--output-tensor-type", "Q8_0"});
  const auto bits = [](const nlohmann::json& answer, const std::string& tensor) {
    return bits_per_weight(*parse_format(format_of(answer, tensor)));
  };
  // Bounds that the free answer breaks are kept.
  const auto low = plan({"--target-bpw", "3.3"});
  const auto floored = plan({"--target-bpw", "3.3", "--min-type", "ffn_down=Q4_K"});
  const auto ceiled = plan({"--target-bpw", "3.3", "--max-type", "attn_v=Q3_K"});
  int below = 0;
  int above = 0;
  for (int layer = 0; layer < 6; ++layer) {
    const std::string prefix = "blk." + std::to_string(layer);
    below += bits(low, prefix + ".ffn_down.weight") < 4.5 ? 1 : 0;
    above += bits(low, prefix + ".attn_v.weight") > 3.4375 ? 1 : 0;
    EXPECT_GE(bits(floored, prefix + ".ffn_down.weight"), 4.5);
    EXPECT_LE(bits(ceiled, prefix + ".attn_v.weight"), 3.4375);
  }
  EXPECT_GT(below, 0) << "the floor is no test here";
  EXPECT_GT(above, 0) << "the ceiling is no test here";
  EXPECT_EQ(format_of(pinned, "blk.2.attn_v.weight"), "Q6_K");
  EXPECT_EQ(format_of(pinned, "output.weight"), "Q8_0");
  const auto tied = plan({"--target-bpw", "3.3", "--tie", "ffn_(gate|up)"});
  for (int layer = 0; layer < 6; ++layer) {
    const std::string prefix = "blk." + std::to_string(layer);
    EXPECT_EQ(format_of(tied, prefix + ".ffn_gate.weight"), format_of(tied, prefix + ".ffn_up.weight"));
  }
  const auto untied = plan({"--target-bpw", "3.3"});
  EXPECT_GE(tied["predicted_error"].get<double>(), untied["predicted_error"].get<double>());
  // A contradiction is refused up front, naming the constraint.
  const auto conflict =
      run_plan({"--target-bpw", "4", "--tensor-type", "attn_v=Q2_K", "--min-type", "attn_v=Q6_K"});
  EXPECT_EQ(conflict.exit_code, 3);
  EXPECT_NE(conflict.err.find("attn_v"), std::string::npos) << conflict.err;
}

TEST_F(Planning, PoolsAndRuntimesLeaveFormatsOut) {
  const auto answer = plan({"--target-bpw", "4.6", "--formats", "Q4_K,q6_k,Q8_0"});
  for (const auto& row : answer["tensors"])
    if (row.contains("nmse")) {
      const std::string format = row["format"];
      EXPECT_TRUE(format == "Q4_K" || format == "Q6_K" || format == "Q8_0") << format;
    }
  EXPECT_EQ(run_plan({"--target-bpw", "4", "--formats", "Q4_K,nonsense"}).exit_code, 2);
  // What is slow there is used without the option, and not with it.
  const auto slow = optimizer::slow_formats(optimizer::Runtime::Cpu);
  const auto slow_tensors = [&](const nlohmann::json& made) {
    int count = 0;
    for (const auto& row : made["tensors"])
      if (row.contains("nmse"))
        count +=
            std::ranges::find(slow, *parse_format(row["format"].get<std::string>())) != slow.end() ? 1 : 0;
    return count;
  };
  EXPECT_GT(slow_tensors(plan({"--target-bpw", "3"})), 0);
  EXPECT_EQ(slow_tensors(plan({"--target-bpw", "3", "--runtime", "cpu"})), 0);
}

TEST_F(Planning, RoleWeightsAndSpeedMoveBits) {
  const auto base = plan({"--target-bpw", "3.5"});
  const auto heavier = plan({"--target-bpw", "3.5", "--role-weight", "blk\\.0\\.attn_q=1000"});
  const auto bits = [&](const nlohmann::json& answer) {
    return bits_per_weight(*parse_format(format_of(answer, "blk.0.attn_q.weight")));
  };
  EXPECT_GT(bits(heavier), bits(base));
  EXPECT_EQ(run_plan({"--target-bpw", "3.5", "--role-weight", "attn_q=minus"}).exit_code, 2);
  const auto fast = plan({"--target-bpw", "3.5", "--speed-weight", "100"});
  EXPECT_GT(fast["predicted_error"].get<double>(), base["predicted_error"].get<double>());
  const auto time = [](const nlohmann::json& answer) {
    double sum = 0;
    for (const auto& row : answer["tensors"])
      if (row.contains("nmse"))
        sum += row["bytes"].get<double>() *
               optimizer::decode_cost(*parse_format(row["format"].get<std::string>()),
                                      optimizer::Runtime::Cuda) /
               bits_per_weight(*parse_format(row["format"].get<std::string>()));
    return sum;
  };
  EXPECT_LT(time(fast), time(base)) << "predicted error was given up for nothing";
}

TEST_F(Planning, StaticRecipesStandBesideAndNeverWin) {
  const auto answer = plan({"--target-bpw", "4.5"});
  ASSERT_GE(answer["static_recipes"].size(), 15U);
  for (const auto& recipe : answer["static_recipes"])
    EXPECT_LE(recipe["optimized_error"].get<double>(), recipe["predicted_error"].get<double>() * (1 + 1e-12))
        << recipe["name"];
  const auto preset = plan({"--preset", "q4_k_m"});
  EXPECT_EQ(format_of(preset, "output.weight"), "Q6_K");
  EXPECT_EQ(run_plan({"--preset", "Q9_X"}).exit_code, 2);
}

// The community's Q4_K_L is Q4_K_M with two formats given, and has a name of its own.
TEST_F(Planning, PresetsTakeTheRulesThatCanApply) {
  const auto by_rules =
      plan({"--preset", "Q4_K_M", "--output-tensor-type", "q8_0", "--token-embedding-type", "q8_0"});
  EXPECT_EQ(format_of(by_rules, "output.weight"), "Q8_0");
  EXPECT_EQ(format_of(by_rules, "token_embd.weight"), "Q8_0");
  const auto by_name = plan({"--preset", "Q4_K_L"});
  EXPECT_EQ(by_name["tensors"], by_rules["tensors"]);
  const auto pinned = plan({"--preset", "Q4_K_M", "--tensor-type", "attn_q=q6_K"});
  EXPECT_EQ(format_of(pinned, "blk.0.attn_q.weight"), "Q6_K");
  for (const std::vector<std::string>& option : {std::vector<std::string>{"--min-type", "attn_q=q6_K"},
                                                 {"--formats", "q4_K"},
                                                 {"--runtime", "cpu"},
                                                 {"--tie", "ffn_(gate|up)"}}) {
    std::vector<std::string> all = {"--preset", "Q4_K_M"};
    all.insert(all.end(), option.begin(), option.end());
    const auto refused = run_plan(all);
    EXPECT_EQ(refused.exit_code, 2);
    EXPECT_NE(refused.err.find(option[0]), std::string::npos) << refused.err;
  }
}

// Nothing is in the state file of a job that could be refused.
TEST_F(Planning, WhatIsOutOfReachIsToldBeforeAnythingIsMeasured) {
  const TemporaryFolder folder;
  for (const std::vector<std::string>& options :
       {std::vector<std::string>{"--target-bpw", "0.5"},
        {"--target-size", "1kB"},
        {"--target-bpw", "4", "--tensor-type", "ffn_up=f32"},
        {"--target-vram", "8MiB", "--cache-type-k", "q6_K"},
        {"--target-vram", "9GiB", "--target-ram", "512.1MiB", "--override-tensor", "ffn=CPU"}}) {
    std::vector<std::string> all = {kBinary, "plan", test::data_dir() / "tale-dense-F16.gguf", "--state",
                                    folder / "s.qfstate"};
    all.insert(all.end(), options.begin(), options.end());
    const auto refused = test::run(all);
    EXPECT_TRUE(refused.exit_code == 2 || refused.exit_code == 3) << refused.err;
    EXPECT_EQ(refused.err.find("sampling"), std::string::npos) << refused.err;
    EXPECT_EQ(refused.err.find("measured"), std::string::npos) << refused.err;
    if (options.size() > 4) {
      EXPECT_NE(refused.err.find("are left for weights in RAM"), std::string::npos) << refused.err;
      EXPECT_EQ(refused.err.find("weights on the GPU"), std::string::npos) << refused.err;
    }
  }
}

TEST_F(Planning, RecipesRoundTrip) {
  const TemporaryFolder out;
  const auto first =
      plan({"--target-bpw", "3.7", "--export-recipe", out / "r.txt", "--export-tensor-types", out / "t.txt"});
  const auto second = plan({"--recipe", out / "r.txt"});
  ASSERT_EQ(first["tensors"].size(), second["tensors"].size());
  for (std::size_t i = 0; i < first["tensors"].size(); ++i)
    EXPECT_EQ(first["tensors"][i]["format"], second["tensors"][i]["format"]);
  const auto third = plan({"--target-bpw", "3.7", "--tensor-type-file", out / "t.txt"});
  for (std::size_t i = 0; i < first["tensors"].size(); ++i)
    EXPECT_EQ(first["tensors"][i]["format"], third["tensors"][i]["format"]);
  const auto same = test::run({kBinary, "diff", out / "r.txt", out / "t.txt", "--json"});
  ASSERT_EQ(same.exit_code, 0) << same.err;
  EXPECT_TRUE(nlohmann::json::parse(same.out)["changes"].empty());
  std::ofstream(out / "broken.txt") << "attn_q=\n";
  EXPECT_EQ(run_plan({"--recipe", out / "broken.txt"}).exit_code, 2);
}

TEST_F(Planning, DiffOfTwoModels) {
  const TemporaryFolder out;
  ASSERT_EQ(test::run(command("quantize", {"--preset", "Q4_0", "-o", out / "a.gguf"})).exit_code, 0);
  const auto diff =
      test::run({kBinary, "diff", test::data_dir() / "tale-dense-F16.gguf", out / "a.gguf", "--json"});
  ASSERT_EQ(diff.exit_code, 0) << diff.err;
  EXPECT_EQ(nlohmann::json::parse(diff.out)["changes"].size(), 44U);
  EXPECT_EQ(nlohmann::json::parse(diff.out)["same"], 25);
  EXPECT_EQ(nlohmann::json::parse(diff.out)["bytes"]["equal"], 25);
  // Equal formats and other bytes are no equal files.
  auto bytes = test::read_file(out / "a.gguf");
  bytes.back() ^= std::byte{1};
  test::write_file(out / "b.gguf", bytes);
  const auto text = test::run({kBinary, "diff", out / "a.gguf", out / "b.gguf"});
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_NE(text.out.find("formats: 0 tensors differ"), std::string::npos) << text.out;
  EXPECT_NE(text.out.find("bytes: 1 of the tensors"), std::string::npos) << text.out;
}

TEST_F(Planning, FrontierFallsAndNamesEveryStep) {
  auto options = command("frontier", {"--json"});
  const auto result = test::run(options);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto json = nlohmann::json::parse(result.out);
  ASSERT_GT(json["curve"].size(), 100U);
  for (std::size_t i = 1; i < json["curve"].size(); ++i) {
    EXPECT_GT(json["curve"][i]["tensor_bytes"], json["curve"][i - 1]["tensor_bytes"]);
    EXPECT_LE(json["curve"][i]["predicted_error"], json["curve"][i - 1]["predicted_error"]);
    EXPECT_TRUE(json["curve"][i].contains("changed"));
  }
  const auto few = nlohmann::json::parse(test::run(command("frontier", {"--json", "--points", "10"})).out);
  EXPECT_LE(few["curve"].size(), 11U);
  EXPECT_EQ(few["all_points"], json["curve"].size());
  EXPECT_EQ(few["curve"].front(), json["curve"].front());
  EXPECT_EQ(few["curve"].back(), json["curve"].back());
  const auto csv = test::run(command("frontier", {"--csv"}));
  EXPECT_NE(csv.out.find("static,Q4_K_M,"), std::string::npos);
}

TEST_F(Planning, BudgetsAreFilledOnDemand) {
  const std::vector<std::string> targets = {"2.6", "3", "3.3", "4.5", "5.5", "7.5", "9"};
  std::string list;
  for (const std::string& target : targets) list += (list.empty() ? "" : ",") + target;
  const auto base = plan({"--target-bpw", list});
  const auto filled = plan({"--target-bpw", list, "--min-fill", "99.99%"});
  ASSERT_EQ(filled.size(), targets.size());
  int changed = 0;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    SCOPED_TRACE(targets[i]);
    const auto budget = filled[i]["budget_bytes"].get<std::uint64_t>();
    const auto used = filled[i]["used_bytes"].get<std::uint64_t>();
    const auto& fill = filled[i]["fill"];
    EXPECT_LE(used, budget);
    EXPECT_EQ(fill["wanted_bytes"].get<std::uint64_t>(), (budget * 9999 + 9999) / 10000);
    EXPECT_EQ(fill["unfilled_bytes"], base[i]["used_bytes"]);
    EXPECT_EQ(filled[i]["unfilled_error"], base[i]["predicted_error"]);
    EXPECT_EQ(filled[i]["allocation"]["termination"], "optimal");
    EXPECT_EQ(fill["met"].get<bool>(), used >= fill["wanted_bytes"].get<std::uint64_t>());
    EXPECT_FALSE(base[i].contains("fill"));
    if (fill["unfilled_bytes"].get<std::uint64_t>() >= fill["wanted_bytes"].get<std::uint64_t>()) {
      EXPECT_EQ(filled[i]["tensors"], base[i]["tensors"]);
      EXPECT_EQ(fill["least_bytes"].get<std::uint64_t>(), 0U);
      continue;
    }
    ++changed;
    EXPECT_GE(used, fill["least_bytes"].get<std::uint64_t>());
    EXPECT_GE(filled[i]["predicted_error"].get<double>(), base[i]["predicted_error"].get<double>());
  }
  EXPECT_GT(changed, 0);

  const auto text = run_plan({"--target-bpw", "9", "--min-fill", "100%"});
  EXPECT_EQ(text.exit_code, 0);
  EXPECT_NE(text.out.find("(0.0000 % unused)"), std::string::npos) << text.out;
  EXPECT_NE(text.out.find("price of that"), std::string::npos) << text.out;
  EXPECT_NE(text.out.find("optimal among recipes that are as full"), std::string::npos) << text.out;
}

TEST_F(Planning, AFilledFileHasTheSizeItPromises) {
  const TemporaryFolder out;
  const auto result = test::run(command(
      "quantize", {"--target-size", "4MB", "--min-fill", "0.9999", "-o", out / "model.gguf", "--json"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto size = std::filesystem::file_size(out / "model.gguf");
  EXPECT_LE(size, 4'000'000U);
  EXPECT_GE(size, 3'999'600U);
  EXPECT_TRUE(nlohmann::json::parse(result.out)["answers"][0]["fill"]["met"].get<bool>());
}

TEST_F(Planning, EveryMemoryIsFilledOnItsOwn) {
  const auto answer =
      plan({"--target-vram", "5MiB", "--vram-margin", "0", "--target-ram", "514MiB", "--ctx-size", "256",
            "--ubatch", "16", "--override-tensor", "ffn_down=CPU", "--min-fill", "99.9%"});
  EXPECT_TRUE(answer["fill"]["met"].get<bool>());
  const auto& host_fill = answer["budgets"][1]["fill"];
  EXPECT_TRUE(host_fill["met"].get<bool>());
  EXPECT_GE(answer["used_bytes"].get<std::uint64_t>(), answer["fill"]["wanted_bytes"].get<std::uint64_t>());
  EXPECT_LE(answer["used_bytes"].get<std::uint64_t>(), answer["budget_bytes"].get<std::uint64_t>());
  const auto host = answer["memory"]["host_weight_bytes"].get<std::uint64_t>();
  EXPECT_GE(host, host_fill["wanted_bytes"].get<std::uint64_t>());
  EXPECT_LE(host, answer["memory"]["host_weight_budget_bytes"].get<std::uint64_t>());
}

TEST_F(Planning, WhatCannotBeFilledIsSaid) {
  const auto result = run_plan({"--target-bpw", "20", "--min-fill", "99.99%"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_NE(result.err.find("--min-fill"), std::string::npos) << result.err;
  EXPECT_NE(result.out.find("there is no recipe that uses 99.99%"), std::string::npos) << result.out;
  EXPECT_NE(result.out.find("every tensor has its best format"), std::string::npos) << result.out;
  for (const char* bad : {"", "0%", "100.01%", "99.99", "1e-2", "-5%", "99.99%x"})
    EXPECT_EQ(run_plan({"--target-bpw", "4", "--min-fill", bad}).exit_code, 2) << bad;
  EXPECT_EQ(run_plan({"--preset", "Q4_K_M", "--min-fill", "99%"}).exit_code, 2);
}

// A larger candidate that is worse than a smaller one is no reason to think that more bytes would help.
TEST_F(Planning, SaysWhenEveryTensorIsAtItsBest) {
  const auto answer = plan({"--target-bpw", "30", "--formats", "IQ4_XS,Q4_0"});
  EXPECT_LT(answer["used_bytes"].get<std::uint64_t>(), answer["largest_bytes"].get<std::uint64_t>());
  EXPECT_NE(answer["limits"].dump().find("every tensor has its best format"), std::string::npos)
      << answer["limits"];
}

TEST_F(Planning, TheSourceFormatMayBeChosen) {
  const auto listed = plan({"--target-bpw", "12", "--formats", "Q4_K,F16"});
  EXPECT_GT(listed["bpw"].get<double>(), 11.0);
  const auto ceiling = plan({"--target-bpw", "12", "--max-type", "blk.0.ffn_up=Q4_K"});
  EXPECT_EQ(format_of(ceiling, "blk.0.ffn_up.weight"), "Q4_K");
  EXPECT_GT(ceiling["bpw"].get<double>(), 11.0);
}

TEST_F(Planning, OptionsWithoutEffectAreRefused) {
  for (const std::vector<std::string>& options : {std::vector<std::string>{"--ctx-size", "128"},
                                                  {"--cpu-moe"},
                                                  {"--gpu-layers", "2"},
                                                  {"--swa-full"},
                                                  {"--cache-type-k", "q8_0"},
                                                  {"--cache-type-v", "q8_0"},
                                                  {"--parallel", "2"},
                                                  {"--ubatch", "64"}}) {
    std::vector<std::string> all = {"--target-bpw", "4"};
    all.insert(all.end(), options.begin(), options.end());
    const auto result = run_plan(all);
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_NE(result.err.find(options[0]), std::string::npos) << result.err;
  }
  EXPECT_EQ(run_plan({"--target-ram", "600MiB", "--gpu-layers", "2"}).exit_code, 2);
  EXPECT_EQ(run_plan({"--target-bpw", "4,5,4"}).exit_code, 2);
  EXPECT_EQ(run_plan({"--target-size", "4MB,4000kB"}).exit_code, 2);
  for (const char* option : {"--kappa", "--speed-weight", "--max-error", "--sample-precision"})
    EXPECT_EQ(run_plan({"--target-bpw", "4", option, "nan"}).exit_code, 2) << option;
  EXPECT_EQ(run_plan({"--target-bpw", "4", "--max-error", "-1"}).exit_code, 2);
}

TEST_F(Planning, OneKindOfTargetAtATime) {
  EXPECT_EQ(run_plan({"--target-bpw", "4", "--target-size", "4MB"}).exit_code, 2);
  EXPECT_EQ(run_plan({}).exit_code, 2);
  EXPECT_EQ(run_plan({"--target-size", "4XB"}).exit_code, 2);
  EXPECT_EQ(run_plan({"--target-bpw", "-4"}).exit_code, 2);
}

}  // namespace
}  // namespace quantfit
