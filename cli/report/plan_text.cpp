#include "cli/report/plan_text.h"

#include <algorithm>
#include <list>
#include <nlohmann/json.hpp>
#include <utility>

#include "cli/report/json.h"

namespace quantfit::cli {
namespace {

// What a document without rows has in their place. In texts quotes are escaped: it stands nowhere else.
constexpr std::string_view kPlace =
    R"("static_recipes":[],"static_recipes_not_compared":[],"gains":[],"tensors":[])";

std::string row_text(const nlohmann::ordered_json& row) {
  std::string text = line_text(row);
  text.pop_back();
  return text;
}

template <class Row>
std::string rows_text(const std::vector<Row>& rows) {
  std::string text;
  for (const Row& row : rows) text += (text.empty() ? "" : ",") + row_text(to_json(row));
  return text;
}

}  // namespace

PlanTexts::PlanTexts(const Model& model, const optimizer::PreparedJob& job,
                     const optimizer::StaticComparisons& statics)
    : model_(model), job_(job), statics_(make_static_reports(statics)) {
  statics_text_ = R"("static_recipes":[)" + rows_text(statics_.compared) +
                  R"(],"static_recipes_not_compared":[)" + rows_text(statics_.without) + ']';
  rows_.resize(job.candidates.size());
  for (std::size_t i = 0; i < rows_.size(); ++i)
    for (const Format format : job.candidates[i].formats) rows_[i].push_back(make_row(i, format));
}

PlanTexts::Row PlanTexts::make_row(std::size_t index, Format format) const {
  Row row{format, row_text(to_json(make_tensor_report(model_, job_, index, format))),
          make_gain_report(job_, index, format), ""};
  if (row.gain) row.gain_text = row_text(to_json(*row.gain));
  return row;
}

void PlanTexts::add_rows(const optimizer::Solution& solution, std::string& text) const {
  std::list<Row> others;  // formats of a recipe that was given, which no search would choose
  std::vector<const Row*> rows;
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    const Format format = solution.recipe.entries[i].format;
    const auto known = std::ranges::find(rows_[i], format, &Row::format);
    rows.push_back(known != rows_[i].end() ? &*known : &others.emplace_back(make_row(i, format)));
    bytes += rows.back()->tensor.size() + rows.back()->gain_text.size() + 2;
  }
  std::vector<const Row*> gains;
  if (solution.feasible)
    std::ranges::copy_if(rows, std::back_inserter(gains),
                         [](const Row* row) { return row->gain.has_value(); });
  std::ranges::stable_sort(gains, [](const Row* a, const Row* b) { return gains_more(*a->gain, *b->gain); });
  text.reserve(text.size() + statics_text_.size() + bytes + 64);
  text += statics_text_;
  const auto add = [&](std::string_view name, const std::vector<const Row*>& list, std::string Row::*own) {
    text += name;
    for (const Row* row : list) {
      if (row != list.front()) text += ',';
      text += row->*own;
    }
    text += ']';
  };
  add(R"(,"gains":[)", gains, &Row::gain_text);
  add(R"(,"tensors":[)", rows, &Row::tensor);
}

std::string PlanTexts::line(std::span<const optimizer::Solution> solutions) const {
  std::vector<PlanReport> reports;
  for (const optimizer::Solution& solution : solutions)
    reports.push_back(make_plan_summary(model_, solution, statics_.compared));
  const std::string frame = line_text(plan_document(reports));
  std::string text;
  std::size_t begin = 0;
  for (const optimizer::Solution& solution : solutions) {
    const std::size_t place = frame.find(kPlace, begin);
    text.append(frame, begin, place - begin);
    add_rows(solution, text);
    begin = place + kPlace.size();
  }
  return text.append(frame, begin);
}

}  // namespace quantfit::cli
