// What answers say in words, and pictures of them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <tuple>

#include "cli/report/summary_report.h"
#include "cli/report/svg.h"
#include "cli/report/text.h"

namespace quantfit {
namespace {

using testing::HasSubstr;
using testing::Not;

cli::PlanReport answer_of(double error) {
  cli::PlanReport report;
  report.feasible = true;
  report.budgets.emplace_back();
  report.error_unit = "relative";
  report.predicted_error = error;
  report.statics.compared = {
      {"IQ2_M", 2.7, 270, 4.0, {}}, {"Q4_K_M", 4.8, 480, 1.0, {}}, {"Q6_K", 6.6, 660, 0.2, {}}};
  report.statics.without = {{"MXFP4_MOE", "it is made for models with experts"}};
  return report;
}

std::string words_for(double error, const char* like, double ratio) {
  cli::PlanReport report = answer_of(error);
  report.quality = cli::QualityReport{like, ratio};
  return cli::to_text(report, false);
}

TEST(Words, OfQualityNameWhatPeopleKnow) {
  EXPECT_THAT(words_for(1.05, "Q4_K_M", 1.05), HasSubstr("about as far from the original as Q4_K_M\n"));
  EXPECT_THAT(words_for(0.7, "Q4_K_M", 0.7),
              HasSubstr("0.70 times as far from the original as Q4_K_M, on the way to Q6_K\n"));
  EXPECT_THAT(words_for(1.5, "Q4_K_M", 1.5),
              HasSubstr("1.50 times as far from the original as Q4_K_M, on the way to IQ2_M\n"));
  EXPECT_THAT(words_for(0.05, "Q6_K", 0.25), HasSubstr("the nearest of llama.cpp's mixtures\n"));
  EXPECT_THAT(words_for(9.0, "IQ2_M", 2.25), HasSubstr("the farthest of llama.cpp's mixtures\n"));
}

TEST(Words, MixturesThatAreMissingAreNamed) {
  EXPECT_THAT(cli::to_text(answer_of(1), false), HasSubstr("not compared: MXFP4_MOE"));
  cli::FrontierReport frontier;
  frontier.statics = answer_of(1).statics;
  EXPECT_THAT(cli::to_text(frontier, 10, false),
              HasSubstr("not compared: MXFP4_MOE (it is made for models with experts)\n"));
}

TEST(Pictures, HoldNamesAsTextOnly) {
  cli::FrontierReport report;
  report.error_unit = "nats";
  for (int i = 0; i < 5; ++i)
    report.curve.push_back({std::uint64_t(100 + i), 2.0 + i, 1.0 / (1 + i), 0, "", "", ""});
  report.statics.compared = {{"<script>&\x1b", 4.0, 400, 0.5, {}}};
  const std::string svg = cli::to_svg(report);
  EXPECT_THAT(svg, HasSubstr("nats of KL divergence"));
  EXPECT_THAT(svg, HasSubstr("&lt;script&gt;&amp;\\x1b"));
  EXPECT_THAT(svg, Not(HasSubstr("<script>")));
  EXPECT_THAT(svg, testing::EndsWith("</svg>\n"));
  EXPECT_THAT(cli::to_svg({}), testing::EndsWith("</svg>\n")) << "nothing to draw is no error";
}

TEST(Pictures, PagesHoldNoMarkupOfOthers) {
  cli::SummaryReport report;
  report.model_name = "</title><script>alert(1)</script>{data}";
  report.answers.push_back(answer_of(1));
  cli::TensorReport tensor;
  tensor.name = "</script><script>alert(1)</script>{script}";
  report.answers.back().tensors.push_back(tensor);
  const std::string page = cli::to_html(report);
  EXPECT_THAT(page, Not(HasSubstr("<script>alert")));
  EXPECT_THAT(page, HasSubstr("\\u003cscript>alert"));
  std::size_t calls = 0;
  for (std::size_t at = page.find("const drawReport"); at != std::string::npos;
       at = page.find("const drawReport", at + 1))
    ++calls;
  EXPECT_EQ(calls, 1U) << "places inside what was filled in are not filled again";
}

state::Contents small_state() {
  state::Contents contents;
  contents.model = {"f1", "small.gguf", 3 * 1024 + 8};
  const auto run = [&](const std::string& metric, double scale) -> state::RunContents& {
    state::RunContents& one = contents.runs[metric];
    one.run.id = static_cast<state::RunId>(contents.runs.size());
    one.run.parameters.metric = metric;
    for (const auto& [name, role, layer, error] :
         {std::tuple("blk.0.attn_q.weight", "attn_q", std::optional(0U), 0.01),
          std::tuple("blk.0.ffn_up.weight", "ffn_up", std::optional(0U), 0.02),
          std::tuple("output.weight", "output", std::optional<std::uint32_t>(), 0.04)}) {
      state::TensorMeasurement& measured = one.measurements[name];
      measured.tensor = name;
      measured.role = role;
      measured.layer = layer;
      measured.shape.format = Format::F16;
      measured.shape.n_dims = 2;
      measured.shape.ne = {256, 4, 1, 1};
      measured.errors = {{Format::Q8_0, scale * error / 100, 0, 0, 0},
                         {Format::Q4_K, scale * error, 0, 0, 0}};
    }
    return one;
  };
  run("m", 1);
  state::SavedRecipe& saved = run("m covariances=c interaction=8", 0.5).recipes["r"];
  saved.target = "8 bpw";
  saved.created = "2026-01-01T00:00:00Z";
  for (const auto& [name, measured] : contents.runs.begin()->second.measurements)
    saved.recipe.entries.push_back({name, Format::Q8_0});
  saved.recipe.entries.push_back({"norm.weight", Format::F32});
  saved.bytes = 3 * 4 * 272 + 32;
  return contents;
}

TEST(Summary, StateFilesHaveCurvesAndSayWhatErrorFeedbackGained) {
  const cli::SummaryReport report = cli::make_summary(small_state(), "small.qfstate");
  ASSERT_EQ(report.frontier.curve.size(), 7U) << "three tensors, from Q4_K over Q8_0 to F16";
  EXPECT_EQ(report.frontier.curve.front().bytes, 3U * 4 * 144 + 32) << "the norm, as the recipe has it";
  EXPECT_EQ(report.frontier.curve.back().bytes, 3U * 2048 + 32);
  EXPECT_EQ(report.frontier.curve.back().error, 0);
  ASSERT_TRUE(report.objective);
  EXPECT_EQ(report.objective->unit, "relative");
  EXPECT_EQ(report.objective->weights.size(), 3U);
  ASSERT_EQ(report.objective->gains_by_format.size(), 2U);
  EXPECT_NEAR(report.objective->gains_by_format[0].ratio, 0.5, 1e-12);
  EXPECT_EQ(report.objective->gains_by_format[0].count, 3U);
  ASSERT_EQ(report.objective->gains_by_tensor.size(), 3U);
  EXPECT_FALSE(report.objective->feedback.empty());
}

TEST(Summary, MeasuredWeightsOfARunAreTakenWhole) {
  state::Contents contents = small_state();
  state::SensitivitySet set;
  set.scope.unit = state::SensitivityUnit::Nats;
  set.scope.method = "fisher";
  set.scope.tokens = 64;
  set.scope.metric = "m covariances=c interaction=8";
  set.rows = {{"blk.0.attn_q.weight", 0.5, 0.1, "", ""}, {"output.weight", 2, 0.25, "", ""}};
  contents.sensitivities["other metric"] = set;
  contents.sensitivities["other metric"].scope.metric = "another";
  contents.sensitivities["partial"] = set;
  contents.sensitivities["partial"].partial = true;
  EXPECT_EQ(cli::make_summary(contents, "s").objective->unit, "relative");
  contents.sensitivities["whole"] = set;
  const cli::SummaryReport report = cli::make_summary(contents, "s");
  EXPECT_EQ(report.objective->unit, "nats");
  EXPECT_THAT(report.objective->source, HasSubstr("gradients, 64 tokens"));
  ASSERT_EQ(report.objective->weights.size(), 2U) << "what has no value in it costs nothing";
  EXPECT_EQ(report.objective->weights[1].standard_error, 0.25);
  EXPECT_EQ(report.error_unit, "nats");
}

}  // namespace
}  // namespace quantfit
