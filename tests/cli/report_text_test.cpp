// What answers say in words, and pictures of them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
  EXPECT_THAT(svg, HasSubstr("&lt;script>&amp;\\x1b"));
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

}  // namespace
}  // namespace quantfit
