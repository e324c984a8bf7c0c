#include "cli/report/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <span>

#include "cli/console.h"
#include "cli/report/table.h"
#include "cli/run_command.h"
#include "core/byte_size.h"
#include "core/text.h"

namespace quantfit::cli {
namespace {

constexpr std::size_t kShownTensors = 3;  // of a ranking, so that the answer fits a screen

std::string shape_text(const std::vector<std::uint64_t>& shape) {
  return fmt::format("{}", fmt::join(shape, " x "));
}

std::string percent(double part, double whole) {
  return whole > 0 ? fmt::format("{:.1f} %", 100 * part / whole) : "";
}

std::string format_table(const std::vector<FormatUse>& uses, std::uint64_t total_bytes) {
  Table table({"format", "tensors", "weights", "size", "bpw", "share"});
  for (const FormatUse& use : uses)
    table.add({use.format, std::to_string(use.tensors), format_count(double(use.elements)),
               format_bytes(use.bytes), fmt::format("{:.4f}", bits_per_element(use.bytes, use.elements)),
               percent(double(use.bytes), double(total_bytes))});
  return table.to_text();
}

std::string static_table(std::span<const StaticReport> statics) {
  Table table({"static recipe", "bpw", "size", "its error", "ours at its size", "ratio"});
  for (const StaticReport& recipe : statics)
    table.add({recipe.name, fmt::format("{:.4f}", recipe.bpw), format_bytes(recipe.tensor_bytes),
               fmt::format("{:.6g}", recipe.predicted_error),
               recipe.optimized_error ? fmt::format("{:.6g}", *recipe.optimized_error) : "forbidden",
               recipe.optimized_error && recipe.predicted_error > 0
                   ? fmt::format("{:.3f}", *recipe.optimized_error / recipe.predicted_error)
                   : ""});
  return table.to_text();
}

// One line per reason.
std::string without_text(const StaticReports& statics) {
  std::string text;
  std::vector<std::string> told;
  for (const StaticWithoutReport& recipe : statics.without) {
    if (std::ranges::find(told, recipe.why) != told.end()) continue;
    told.push_back(recipe.why);
    std::vector<std::string> names;
    for (const StaticWithoutReport& other : statics.without)
      if (other.why == recipe.why) names.push_back(other.name);
    text += fmt::format("not compared: {} ({})\n", fmt::join(names, ", "), escaped(recipe.why));
  }
  return text;
}

// The static recipes on either side of a size, one each.
std::span<const StaticReport> nearest_statics(const std::vector<StaticReport>& statics,
                                              std::uint64_t tensor_bytes) {
  const auto above = std::ranges::find_if(
      statics, [&](const StaticReport& recipe) { return recipe.tensor_bytes > tensor_bytes; });
  const auto first = above == statics.begin() ? above : above - 1;
  const auto last = above == statics.end() ? above : above + 1;
  return {first, last};
}

// What filling a budget took, and its proof's range, in one line.
std::string fill_text(const FillReport& fill) {
  if (fill.least_bytes == 0)
    return fill.met ? fmt::format("{} bytes or more: the optimum for the budget alone does that",
                                  fill.wanted_bytes)
                    : fmt::format("not to {} bytes", fill.wanted_bytes);
  return fmt::format("to {} bytes or more{}; the optimum for the budget alone has {}", fill.least_bytes,
                     fill.met ? "" : fmt::format(" instead of {}", fill.wanted_bytes), fill.unfilled_bytes);
}

std::string proof_text(const ProofReport& proof) {
  const std::string range = proof.of_full_ones_only ? " among recipes that are as full" : "";
  if (proof.optimal)
    return fmt::format("optimal{}, {} partial states, {:.0f} ms", range, proof.states, 1000 * proof.seconds);
  return fmt::format("{}: at most {:.2e} above the optimum{}", proof.termination,
                     proof.objective > 0 ? proof.gap / proof.objective : 0.0, range);
}

std::string used_text(const BudgetReport& budget) {
  const std::uint64_t limit = budget.limit_bytes.value_or(0);
  return fmt::format("{} of {} bytes ({:.4f} % unused)", budget.used_bytes, limit,
                     limit == 0 ? 0.0 : 100.0 * (double(limit) - double(budget.used_bytes)) / double(limit));
}

// How far from the original, in terms of mixtures that people know.
std::string quality_text(const PlanReport& report) {
  const QualityReport& quality = *report.quality;
  if (!quality.ratio || std::abs(*quality.ratio - 1) <= kAboutTheSame)
    return fmt::format("about as far from the original as {}", quality.like);
  const bool nearer = *quality.ratio < 1;
  const auto& statics = report.statics.compared;
  const bool outside = std::ranges::all_of(statics, [&](const StaticReport& recipe) {
    return (recipe.predicted_error > *report.predicted_error) == nearer;
  });
  // Between two mixtures the one on the other side is named too.
  const StaticReport* other = nullptr;
  for (const StaticReport& recipe : statics)
    if ((recipe.predicted_error > *report.predicted_error) != nearer &&
        (other == nullptr || (recipe.predicted_error > other->predicted_error) == nearer))
      other = &recipe;
  std::string text = fmt::format("{:.2f} times as far from the original as {}", *quality.ratio, quality.like);
  if (outside)
    text += nearer ? ", the nearest of llama.cpp's mixtures" : ", the farthest of llama.cpp's mixtures";
  else if (other != nullptr)
    text += fmt::format(", on the way to {}", other->name);
  return text;
}

// The tensors behind most of the error, and where more bytes would help most.
std::string cost_tables(const PlanReport& report) {
  std::vector<const TensorReport*> costly;
  double sum = 0;
  for (const TensorReport& tensor : report.tensors)
    if (!tensor.kept) {
      costly.push_back(&tensor);
      sum += tensor.error();
    }
  std::ranges::stable_sort(costly, std::greater<>(),
                           [](const TensorReport* tensor) { return tensor->error(); });
  costly.resize(std::min(costly.size(), kShownTensors));
  std::string text;
  if (!costly.empty() && sum > 0) {
    Table table({"costs most", "format", "bytes", "share of the error"});
    for (const TensorReport* tensor : costly)
      table.add({tensor->name, tensor->format, std::to_string(tensor->bytes), percent(tensor->error(), sum)});
    text += '\n' + table.to_text();
  }
  if (!report.gains.empty() && sum > 0) {
    Table table({"gains most from more", "from", "to", "more bytes", "less error"});
    for (const GainReport& gain : std::span(report.gains).first(std::min(report.gains.size(), kShownTensors)))
      table.add(
          {gain.tensor, gain.from, gain.to, std::to_string(gain.more_bytes), percent(gain.saved_error, sum)});
    text += '\n' + table.to_text();
  }
  return text;
}

// Recipes that were run, beside what was predicted of them.
std::string candidates_table(const PlanReport& report) {
  Table table({"candidate", "predicted error", "KL divergence", ""});
  for (const CandidateReport& one : report.candidates)
    table.add({one.rule, fmt::format("{:.6g}", one.predicted_error),
               fmt::format("{:.6g} ± {:.2g}", one.divergence, one.divergence_error), one.kept ? "kept" : ""});
  return table.to_text();
}

// "encoder version" of "quantfit.encoder_version".
std::string provenance_name(std::string_view key) {
  std::string name(key.substr(key.find('.') + 1));
  std::ranges::replace(name, '_', ' ');
  return name;
}

// "(RAM)" behind the label of a second budget's line.
std::string label(std::string_view name, const BudgetReport& budget, bool first) {
  return fmt::format("{:<17}", first ? std::string(name) : fmt::format("{} ({})", name, budget.of));
}

}  // namespace

std::string to_text(const ModelReport& report, bool all_tensors, bool metadata) {
  std::string text = fmt::format(
      "{}: GGUF version {}{}\n", escaped(std::filesystem::path(report.files[0].path).filename().string()),
      report.gguf_version, report.files.size() > 1 ? fmt::format(", {} shards", report.files.size()) : "");
  if (!report.architecture.empty()) text += fmt::format("architecture  {}\n", escaped(report.architecture));
  if (report.name) text += fmt::format("name          {}\n", escaped(*report.name));
  text += fmt::format(
      "tensors       {}\nweights       {}\nfile size     {}\ntensor data   {}\nbpw           {:.4f}\n\n",
      report.tensors.size(), format_count(double(report.elements)), format_bytes(report.file_bytes),
      format_bytes(report.tensor_bytes), report.bpw);
  text += format_table(report.formats, report.tensor_bytes);
  if (!report.provenance.empty()) {
    Table table({"made by quantfit", ""});
    for (const ModelReport::Entry& entry : report.provenance)
      table.add({provenance_name(entry.key), entry.text});
    text += '\n' + table.to_text();
  }
  if (metadata) {
    Table table({"key", "value"});
    for (const ModelReport::Entry& entry : report.metadata) table.add({entry.key, entry.text});
    text += '\n' + table.to_text();
  }
  if (all_tensors) {
    Table table({"tensor", "shape", "format", "size", "bpw"});
    for (const ModelReport::Tensor& tensor : report.tensors)
      table.add({tensor.name, shape_text(tensor.shape), tensor.format, std::to_string(tensor.bytes),
                 fmt::format("{:.4f}", bits_per_element(tensor.bytes, tensor.elements))});
    text += '\n' + table.to_text();
  }
  return text;
}

std::string to_text(const PlanReport& report, bool all_tensors) {
  const BudgetReport& first = report.budgets.front();
  std::string text = fmt::format("target           {}\n", escaped(report.target.text));
  text += fmt::format("tensor data      {} bytes, {}, {:.4f} bpw\n", report.tensor_bytes,
                      format_bytes(report.tensor_bytes), report.bpw);
  text += fmt::format("file             {} bytes, {}\n", report.file_bytes, format_bytes(report.file_bytes));
  if (report.proof) text += fmt::format("budget           {}\n", used_text(first));
  text += report.predicted_error ? fmt::format("predicted error  {:.6g}{}\n", *report.predicted_error,
                                               report.error_unit == "nats" ? " nats of KL divergence"
                                                                           : " (relative: only ratios count)")
                                 : "predicted error  unknown: formats that were not measured\n";
  if (report.quality) text += fmt::format("quality          {}\n", quality_text(report));
  for (const BudgetReport& budget : report.budgets)
    if (budget.fill) text += label("filled", budget, &budget == &first) + fill_text(*budget.fill) + '\n';
  if (report.unfilled_error && report.predicted_error && *report.unfilled_error != *report.predicted_error)
    text += fmt::format(
        "price of that    predicted error {:.6g} became {:.6g}{}\n", *report.unfilled_error,
        *report.predicted_error,
        *report.unfilled_error > 0
            ? fmt::format(" ({:+.3g} %)", 100 * (*report.predicted_error / *report.unfilled_error - 1))
            : "");
  if (report.proof) text += fmt::format("proof            {}\n", proof_text(*report.proof));
  for (const std::string& limit : report.limits) text += fmt::format("limited by       {}\n", escaped(limit));
  for (const std::string& note : report.notes) text += fmt::format("note             {}\n", escaped(note));
  if (report.has_memory) text += '\n' + memory_table(report);
  if (!report.candidates.empty()) text += '\n' + candidates_table(report);
  text += '\n' + format_table(report.formats, report.tensor_bytes);
  const auto nearest = nearest_statics(report.statics.compared, report.tensor_bytes);
  if (!nearest.empty()) text += '\n' + static_table(nearest);
  if (!report.statics.without.empty()) {
    std::vector<std::string> names;
    for (const StaticWithoutReport& recipe : report.statics.without) names.push_back(recipe.name);
    text += fmt::format("not compared: {}; --verbose says why\n", fmt::join(names, ", "));
  }
  if (report.predicted_error) text += cost_tables(report);
  if (all_tensors) {
    Table table({"tensor", "shape", "from", "to", "bytes", "relative error", "weight", "cost"});
    for (const TensorReport& tensor : report.tensors)
      table.add({tensor.name, shape_text(tensor.shape), tensor.from, tensor.format,
                 std::to_string(tensor.bytes), tensor.kept ? "" : fmt::format("{:.3e}", tensor.nmse),
                 tensor.kept ? "" : fmt::format("{:.3g}", tensor.sensitivity),
                 tensor.kept ? "" : fmt::format("{:.3e}", tensor.error())});
    text += '\n' + table.to_text();
  }
  return text;
}

std::string written_text(const PlanReport& report) {
  const std::string more = report.more_files == 0 ? "" : fmt::format(" and {} more", report.more_files);
  const std::string reused = report.reused_tensors == 0
                                 ? ""
                                 : fmt::format("; {} of {} tensors were encoded before",
                                               report.reused_tensors, report.encoded_tensors);
  return fmt::format("\nwrote {}{} ({}) in {}{}\nrun it with: {}\n", escaped(report.output), more,
                     format_bytes(report.file_bytes), format_duration(report.write_seconds), reused,
                     escaped(shell_text(report.run_command)));
}

std::string memory_table(const PlanReport& report) {
  if (!report.has_memory) return "";
  Table table({"memory", "on", "size", "how"});
  for (const MemoryItemReport& item : report.memory)
    table.add({item.what, item.on, format_bytes(item.bytes), item.how});
  for (const BudgetReport& budget : report.budgets)
    table.add({"weights", budget.of, format_bytes(budget.used_bytes),
               budget.limit_bytes ? fmt::format("of {} left for them", format_bytes(*budget.limit_bytes))
                                  : std::string("no limit given")});
  return table.to_text();
}

namespace {

// Rounded sizes that read alike would contradict a sentence about a budget.
bool reads_alike(const BudgetReport& budget) {
  const std::string limit = format_bytes(budget.limit_bytes.value_or(0));
  return limit == format_bytes(budget.smallest_bytes) || limit == format_bytes(budget.largest_bytes);
}

// A size of a budget, exact where rounding would mislead.
std::string exact(const BudgetReport& budget, std::uint64_t bytes) {
  return reads_alike(budget) ? fmt::format("{} bytes", bytes) : format_bytes(bytes);
}

}  // namespace

std::string infeasible_sentence(const PlanReport& report) {
  const BudgetReport& budget = report.budgets.front();
  const std::uint64_t limit = budget.limit_bytes.value_or(0);
  const bool alike = reads_alike(budget);
  const auto size = [&](std::uint64_t bytes) { return exact(budget, bytes); };
  if (report.target.kind == "bpw") {
    const int digits = alike ? 8 : 4;
    return fmt::format(
        "{} cannot be reached: this model can be between {:.{}f} and {:.{}f} bpw ({} to {}) with the formats "
        "and "
        "constraints given",
        report.target.text, bits_per_element(budget.smallest_bytes, report.elements), digits,
        bits_per_element(budget.largest_bytes, report.elements), digits, size(budget.smallest_bytes),
        size(budget.largest_bytes));
  }
  if (report.has_memory) {
    std::vector<std::string> reasons;
    for (const BudgetReport& memory : report.budgets) {
      if (memory.feasible) continue;
      reasons.push_back(memory.shortfall_bytes != 0
                            ? fmt::format("cache and buffers alone need {} more than the {} has",
                                          format_bytes(memory.shortfall_bytes), memory.of)
                            : fmt::format("{} are left for weights {}, which take {} to {}",
                                          exact(memory, memory.limit_bytes.value_or(0)),
                                          memory.of == "GPU" ? "on the GPU" : "in RAM",
                                          exact(memory, memory.smallest_bytes),
                                          exact(memory, memory.largest_bytes)));
    }
    return fmt::format("{} cannot be met: {}", report.target.text, fmt::join(reasons, "; "));
  }
  return fmt::format(
      "{}{} cannot be reached: this model's file can be between {} and {} with the formats and "
      "constraints given",
      report.target.text, alike ? fmt::format(", {} bytes,", limit) : "", size(budget.smallest_bytes),
      size(budget.largest_bytes));
}

std::string to_text(const FrontierReport& report, std::size_t points, bool steps) {
  Table table({"bpw", "size", "predicted error", "lambda per MiB"});
  for (const std::size_t i : thinned(report.curve.size(), points)) {
    const CurvePoint& point = report.curve[i];
    table.add({fmt::format("{:.4f}", point.bpw), format_bytes(point.bytes),
               fmt::format("{:.6g}", point.error),
               i == 0 ? "" : fmt::format("{:.3g}", point.multiplier * 1048576)});
  }
  std::string text = table.to_text();
  if (!report.statics.compared.empty()) text += '\n' + static_table(report.statics.compared);
  text += without_text(report.statics);
  if (steps) {
    Table changes({"bpw", "tensor or group", "from", "to"});
    for (const CurvePoint& point : report.curve)
      if (!point.changed.empty())
        changes.add({fmt::format("{:.4f}", point.bpw), point.changed, point.from, point.to});
    text += '\n' + changes.to_text();
  }
  return text;
}

std::string to_text(const DiffReport& report) {
  Table table({"tensor", "before", "after", "bpw"});
  for (const DiffReport::Change& change : report.changes)
    table.add({change.tensor, change.before.value_or("absent"), change.after.value_or("absent"),
               change.before && change.after ? fmt::format("{:+.4f}", change.bpw_change) : ""});
  std::string text = report.changes.empty() ? "" : table.to_text() + "\n";
  text += fmt::format("formats: {} tensors differ, {} are the same\n", report.changes.size(), report.same);
  if (!report.other_bytes) return text + "bytes: not compared, a recipe has none\n";
  text += fmt::format("bytes: {} of the tensors of one format and shape differ, {} are equal\n",
                      report.other_bytes->size(), report.equal_bytes);
  for (const std::string& name : *report.other_bytes) text += fmt::format("  {}\n", escaped(name));
  if (report.not_compared != 0)
    text +=
        fmt::format("{} tensors were not compared: their data are not in the file\n", report.not_compared);
  return text;
}

}  // namespace quantfit::cli
