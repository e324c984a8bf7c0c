#include "cli/render.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "cli/console.h"
#include "cli/table.h"
#include "core/byte_size.h"

namespace quantfit::cli {
namespace {

std::string dims_of(const TensorInfo& tensor) {
  std::string text;
  for (std::uint32_t d = 0; d < std::max(tensor.n_dims, 1U); ++d)
    text += (d == 0 ? "" : " x ") + std::to_string(tensor.ne[d]);
  return text;
}

double bpw_of(std::uint64_t bytes, std::uint64_t elements) {
  return elements == 0 ? 0 : 8.0 * double(bytes) / double(elements);
}

std::string percent(double part, double whole) {
  return whole > 0 ? fmt::format("{:.1f} %", 100 * part / whole) : "";
}

// A metadata value as one line; long strings and arrays are cut.
std::string value_text(const GgufKeyValue& value) {
  if (const auto text = value.as_string()) {
    std::string line(text->substr(0, 80));
    std::ranges::replace(line, '\n', ' ');
    return line + (text->size() > 80 ? fmt::format("... ({} bytes)", text->size()) : "");
  }
  if (value.type == GgufType::Array) {
    if (const auto numbers = value.as_int_array(); numbers && numbers->size() <= 8)
      return fmt::format("[{}]", fmt::join(*numbers, ", "));
    return fmt::format("array of {}", value.count);
  }
  if (const auto number = value.as_int()) return std::to_string(*number);
  if (const auto number = value.as_double()) return fmt::format("{:.9g}", *number);
  if (const auto flag = value.as_bool()) return *flag ? "true" : "false";
  return "?";
}

std::string format_table(std::span<const FormatUse> uses, std::uint64_t total_bytes) {
  Table table({"format", "tensors", "weights", "size", "bpw", "share"});
  for (const FormatUse& use : uses)
    table.add({std::string(name_of(use.format)), std::to_string(use.tensors),
               format_count(double(use.elements)), format_bytes(use.bytes),
               fmt::format("{:.4f}", bpw_of(use.bytes, use.elements)),
               percent(double(use.bytes), double(total_bytes))});
  return table.to_text();
}

double nmse_of(const optimizer::PreparedJob& job, const TensorInfo& tensor, Format format) {
  const auto found = job.measured.measurements.find(tensor.name);
  if (found != job.measured.measurements.end())
    for (const FormatMeasurement& error : found->second.errors)
      if (error.format == format) return error.nmse;
  return 0;
}

std::string used_text(const optimizer::Solution& solution) {
  const double left = solution.budget_bytes == 0
                          ? 0
                          : 100.0 * (double(solution.budget_bytes) - double(solution.used_bytes)) /
                                double(solution.budget_bytes);
  return fmt::format("{} of {} bytes ({:.4f} % unused)", solution.used_bytes, solution.budget_bytes, left);
}

// What filling a budget took, and its proof's range, in one line.
std::string fill_text(const optimizer::Fill& fill) {
  if (fill.least_bytes == 0)
    return fill.met ? fmt::format("{} bytes or more: the optimum for the budget alone does that",
                                  fill.wanted_bytes)
                    : fmt::format("not to {} bytes", fill.wanted_bytes);
  return fmt::format("to {} bytes or more{}; the optimum for the budget alone has {}", fill.least_bytes,
                     fill.met ? "" : fmt::format(" instead of {}", fill.wanted_bytes), fill.unfilled_bytes);
}

// The certificate of one search.
std::string proof_text(const optimizer::Allocation& allocation) {
  const std::string range = allocation.least_bytes == 0 ? "" : " among recipes that are as full";
  if (allocation.why == optimizer::Termination::Optimal)
    return fmt::format("optimal{}, {} partial states, {:.0f} ms", range, allocation.states,
                       1000 * allocation.seconds);
  return fmt::format("{}: at most {:.2e} above the optimum{}", to_string(allocation.why),
                     allocation.objective > 0 ? allocation.gap() / allocation.objective : 0.0, range);
}

// The static recipes on either side of a size, one each.
std::vector<optimizer::StaticComparison> nearest_statics(std::span<const optimizer::StaticComparison> statics,
                                                         std::uint64_t tensor_bytes) {
  std::vector<optimizer::StaticComparison> nearest;
  const auto above = std::ranges::find_if(
      statics, [&](const optimizer::StaticComparison& recipe) { return recipe.tensor_bytes > tensor_bytes; });
  if (above != statics.begin()) nearest.push_back(*(above - 1));
  if (above != statics.end()) nearest.push_back(*above);
  return nearest;
}

std::string static_table(std::span<const optimizer::StaticComparison> statics) {
  Table table({"static recipe", "bpw", "size", "its error", "ours at its size", "ratio"});
  for (const optimizer::StaticComparison& recipe : statics)
    table.add({std::string(optimizer::name_of(recipe.type)), fmt::format("{:.4f}", recipe.bpw),
               format_bytes(recipe.tensor_bytes), fmt::format("{:.6g}", recipe.predicted_error),
               fmt::format("{:.6g}", recipe.optimized_error),
               recipe.predicted_error > 0
                   ? fmt::format("{:.3f}", recipe.optimized_error / recipe.predicted_error)
                   : ""});
  return table.to_text();
}

nlohmann::ordered_json statics_to_json(std::span<const optimizer::StaticComparison> statics) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const optimizer::StaticComparison& recipe : statics)
    json.push_back({{"name", optimizer::name_of(recipe.type)},
                    {"bpw", recipe.bpw},
                    {"tensor_bytes", recipe.tensor_bytes},
                    {"predicted_error", recipe.predicted_error},
                    {"optimized_error", recipe.optimized_error}});
  return json;
}

nlohmann::ordered_json allocation_to_json(const optimizer::Allocation& allocation) {
  return {{"objective", allocation.objective}, {"lower_bound", allocation.lower_bound},
          {"gap", allocation.gap()},           {"multiplier", allocation.multiplier},
          {"cost_unit", allocation.cost_unit}, {"states", allocation.states},
          {"seconds", allocation.seconds},     {"termination", to_string(allocation.why)}};
}

nlohmann::ordered_json fill_to_json(const optimizer::Fill& fill) {
  return {{"wanted_bytes", fill.wanted_bytes},
          {"least_bytes", fill.least_bytes},
          {"unfilled_bytes", fill.unfilled_bytes},
          {"met", fill.met},
          {"proven_impossible", fill.proven_impossible}};
}

// One point of the frontier, and the step that led to it.
struct CurvePoint {
  std::uint64_t bytes = 0;
  double bpw = 0;
  double error = 0;
  double multiplier = 0;
  std::string changed, from, to;
};

std::vector<CurvePoint> curve_of(const Model& model, const optimizer::ModelFrontier& frontier) {
  const optimizer::Knapsack& knapsack = frontier.knapsack;
  std::vector<CurvePoint> curve;
  const auto point = [&](std::uint64_t bytes, double cost) {
    CurvePoint result;
    result.bytes = bytes + knapsack.fixed_bytes;
    result.bpw = bpw_of(result.bytes, model.total_elements());
    result.error = cost + knapsack.fixed_cost;
    return result;
  };
  curve.push_back(point(frontier.frontier.smallest_bytes, frontier.frontier.smallest_cost));
  for (const optimizer::FrontierStep& step : frontier.frontier.steps) {
    curve.push_back(point(step.bytes, step.cost));
    curve.back().multiplier = step.multiplier;
    curve.back().changed = knapsack.classes[step.class_index].name;
    curve.back().from = name_of(step.from_format);
    curve.back().to = name_of(step.to_format);
  }
  return curve;
}

}  // namespace

std::vector<FormatUse> formats_used(std::span<const TensorInfo> tensors) {
  std::map<Format, FormatUse> uses;
  for (const TensorInfo& tensor : tensors) {
    FormatUse& use = uses.try_emplace(tensor.format, FormatUse{tensor.format}).first->second;
    ++use.tensors;
    use.elements += tensor.elements();
    use.bytes += tensor.bytes;
  }
  std::vector<FormatUse> sorted;
  for (const auto& [format, use] : uses) sorted.push_back(use);
  std::ranges::sort(sorted, std::greater<>(), &FormatUse::bytes);
  return sorted;
}

std::string describe_model(const Model& model, bool all_tensors, bool metadata) {
  std::string text;
  const GgufShard& first = model.shards()[0];
  std::uint64_t file_bytes = 0;
  for (const GgufShard& shard : model.shards()) file_bytes += shard.file_bytes;
  text += fmt::format("{}: GGUF version {}{}\n", first.path.filename().string(), first.version,
                      model.shards().size() > 1 ? fmt::format(", {} shards", model.shards().size()) : "");
  if (!model.architecture().empty()) text += fmt::format("architecture  {}\n", model.architecture());
  if (const auto name = model.metadata().string("general.name"))
    text += fmt::format("name          {}\n", *name);
  text += fmt::format(
      "tensors       {}\nweights       {}\nfile size     {}\ntensor data   {}\nbpw           {:.4f}\n\n",
      model.tensors().size(), format_count(double(model.total_elements())), format_bytes(file_bytes),
      format_bytes(model.total_tensor_bytes()), bpw_of(model.total_tensor_bytes(), model.total_elements()));
  text += format_table(formats_used(model.tensors()), model.total_tensor_bytes());
  if (metadata) {
    Table table({"key", "value"});
    for (const GgufKeyValue& value : model.metadata().all()) table.add({value.key, value_text(value)});
    text += '\n' + table.to_text();
  }
  if (all_tensors) {
    Table table({"tensor", "shape", "format", "size", "bpw"});
    for (const TensorInfo& tensor : model.tensors())
      table.add({tensor.name, dims_of(tensor), std::string(name_of(tensor.format)),
                 std::to_string(tensor.bytes),
                 fmt::format("{:.4f}", bpw_of(tensor.bytes, tensor.elements()))});
    text += '\n' + table.to_text();
  }
  return text;
}

nlohmann::ordered_json model_to_json(const Model& model, bool metadata) {
  nlohmann::ordered_json json;
  json["file"] = model.shards()[0].path.string();
  json["gguf_version"] = model.shards()[0].version;
  json["shards"] = model.shards().size();
  json["architecture"] = model.architecture();
  json["elements"] = model.total_elements();
  json["tensor_bytes"] = model.total_tensor_bytes();
  json["bpw"] = bpw_of(model.total_tensor_bytes(), model.total_elements());
  json["tensors"] = nlohmann::ordered_json::array();
  for (const TensorInfo& tensor : model.tensors()) {
    nlohmann::ordered_json dims = nlohmann::ordered_json::array();
    for (std::uint32_t d = 0; d < tensor.n_dims; ++d) dims.push_back(tensor.ne[d]);
    json["tensors"].push_back({{"name", tensor.name},
                               {"dims", dims},
                               {"format", name_of(tensor.format)},
                               {"bytes", tensor.bytes},
                               {"shard", tensor.shard}});
  }
  if (metadata)
    for (const GgufKeyValue& value : model.metadata().all()) {
      nlohmann::ordered_json& slot = json["metadata"][value.key];
      if (const auto text = value.as_string())
        slot = *text;
      else if (const auto flag = value.as_bool(); flag && value.type == GgufType::Bool)
        slot = *flag;
      else if (const auto number = value.as_int())
        slot = *number;
      else if (const auto real = value.as_double())
        slot = *real;
      else
        slot = value_text(value);
    }
  return json;
}

std::string describe_solution(const Model& model, const optimizer::PreparedJob& job,
                              const optimizer::Solution& solution,
                              std::span<const optimizer::StaticComparison> statics, bool all_tensors) {
  std::vector<TensorInfo> outputs(model.tensors().begin(), model.tensors().end());
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    outputs[i].format = solution.recipe.entries[i].format;
    if (auto bytes = tensor_bytes(outputs[i].format, outputs[i].row_length(), outputs[i].rows()))
      outputs[i].bytes = bytes.value();
  }
  const optimizer::Allocation& allocation = solution.allocation;
  const bool searched = !std::holds_alternative<optimizer::RecipeTarget>(solution.target);
  std::string text = fmt::format("target           {}\n", to_text(solution.target));
  text += fmt::format("result           {:.4f} bpw", solution.bpw());
  if (searched) text += ", " + used_text(solution);
  text += fmt::format("\nfile size        {}\n", format_bytes(solution.file_bytes));
  text += solution.error_is_known ? fmt::format("predicted error  {:.6g}\n", solution.predicted_error)
                                  : "predicted error  unknown: formats that were not measured\n";
  if (solution.fill) text += fmt::format("filled           {}\n", fill_text(*solution.fill));
  if (solution.host_fill) text += fmt::format("filled (RAM)     {}\n", fill_text(*solution.host_fill));
  if ((solution.fill || solution.host_fill) && solution.unfilled_error != solution.predicted_error)
    text += fmt::format(
        "price of that    predicted error {:.6g} became {:.6g}{}\n", solution.unfilled_error,
        solution.predicted_error,
        solution.unfilled_error > 0
            ? fmt::format(" ({:+.3g} %)", 100 * (solution.predicted_error / solution.unfilled_error - 1))
            : "");
  if (searched) text += fmt::format("proof            {}\n", proof_text(allocation));
  if (solution.host_allocation && solution.host_budget_bytes)
    text += fmt::format("proof (RAM)      {}\n", proof_text(*solution.host_allocation));
  for (const std::string& limit : solution.limits) text += fmt::format("limited by       {}\n", limit);
  for (const std::string& note : solution.notes) text += fmt::format("note             {}\n", note);
  if (solution.memory) text += '\n' + describe_memory(solution);
  text += '\n' + format_table(formats_used(outputs), solution.tensor_bytes);
  const auto nearest = nearest_statics(statics, solution.tensor_bytes);
  if (!nearest.empty()) text += '\n' + static_table(nearest);
  if (all_tensors) {
    Table table({"tensor", "shape", "from", "to", "size", "relative error", "weight", "cost"});
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const bool kept = outputs[i].format == model.tensors()[i].format;
      const double nmse = nmse_of(job, outputs[i], outputs[i].format);
      table.add({outputs[i].name, dims_of(outputs[i]), std::string(name_of(model.tensors()[i].format)),
                 std::string(name_of(outputs[i].format)), std::to_string(outputs[i].bytes),
                 kept ? "" : fmt::format("{:.3e}", nmse),
                 kept ? "" : fmt::format("{:.3g}", job.sensitivity[i]),
                 kept ? "" : fmt::format("{:.3e}", job.sensitivity[i] * nmse)});
    }
    text += '\n' + table.to_text();
  }
  return text;
}

std::string describe_memory(const optimizer::Solution& solution) {
  if (!solution.memory) return "";
  const optimizer::MemoryEstimate& memory = *solution.memory;
  Table table({"memory", "on", "size", "how"});
  for (const optimizer::MemoryItem& item : memory.items)
    table.add({item.what, std::string(to_string(item.device)), format_bytes(item.bytes), item.how});
  if (memory.gpu_weight_budget_bytes)
    table.add({"weights", std::string(to_string(optimizer::Device::Gpu)), format_bytes(solution.used_bytes),
               fmt::format("of {} left for them", format_bytes(*memory.gpu_weight_budget_bytes))});
  if (solution.host_used_bytes != 0)
    table.add({"weights", std::string(to_string(optimizer::Device::Host)),
               format_bytes(solution.host_used_bytes),
               solution.host_budget_bytes
                   ? fmt::format("of {} left for them", format_bytes(*solution.host_budget_bytes))
                   : std::string("no limit given")});
  return table.to_text();
}

nlohmann::ordered_json solution_to_json(const Model& model, const optimizer::PreparedJob& job,
                                        const optimizer::Solution& solution,
                                        std::span<const optimizer::StaticComparison> statics) {
  nlohmann::ordered_json json;
  json["target"] = to_text(solution.target);
  json["feasible"] = solution.feasible;
  json["budget_bytes"] = solution.budget_bytes;
  json["used_bytes"] = solution.used_bytes;
  json["smallest_bytes"] = solution.smallest_bytes;
  json["largest_bytes"] = solution.largest_bytes;
  json["bpw"] = solution.bpw();
  json["tensor_bytes"] = solution.tensor_bytes;
  json["file_bytes"] = solution.file_bytes;
  if (solution.error_is_known) json["predicted_error"] = solution.predicted_error;
  json["limits"] = solution.limits;
  json["notes"] = solution.notes;
  if (!std::holds_alternative<optimizer::RecipeTarget>(solution.target))
    json["allocation"] = allocation_to_json(solution.allocation);
  if (solution.fill) json["fill"] = fill_to_json(*solution.fill);
  if (solution.host_fill) json["host_fill"] = fill_to_json(*solution.host_fill);
  if (solution.fill || solution.host_fill) json["unfilled_error"] = solution.unfilled_error;
  if (solution.host_allocation) json["host_allocation"] = allocation_to_json(*solution.host_allocation);
  if (solution.memory) {
    nlohmann::ordered_json& memory = json["memory"];
    memory["ctx_size"] = solution.memory->ctx_size;
    for (const optimizer::MemoryItem& item : solution.memory->items)
      memory["items"].push_back({{"what", item.what},
                                 {"device", to_string(item.device)},
                                 {"bytes", item.bytes},
                                 {"how", item.how}});
    if (solution.memory->gpu_weight_budget_bytes)
      memory["gpu_weight_budget_bytes"] = *solution.memory->gpu_weight_budget_bytes;
    if (solution.host_budget_bytes) memory["host_weight_budget_bytes"] = *solution.host_budget_bytes;
    memory["host_weight_bytes"] = solution.host_used_bytes;
  }
  json["static_recipes"] = statics_to_json(statics);
  json["tensors"] = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < solution.recipe.entries.size(); ++i) {
    const RecipeEntry& entry = solution.recipe.entries[i];
    const TensorInfo& tensor = model.tensors()[i];
    nlohmann::ordered_json row = {
        {"name", entry.tensor}, {"from", name_of(tensor.format)}, {"format", name_of(entry.format)}};
    if (auto bytes = tensor_bytes(entry.format, tensor.row_length(), tensor.rows()))
      row["bytes"] = bytes.value();
    if (entry.format != tensor.format) {
      row["nmse"] = nmse_of(job, tensor, entry.format);
      row["sensitivity"] = job.sensitivity[i];
      row["sensitivity_source"] = job.sensitivity_source[i];
    } else if (!job.candidates[i].kept_because.empty()) {
      row["kept_because"] = job.candidates[i].kept_because;
    }
    json["tensors"].push_back(std::move(row));
  }
  return json;
}

std::string describe_infeasible(const optimizer::Solution& solution) {
  const double scale = solution.elements == 0 ? 0 : 8.0 / double(solution.elements);
  if (std::holds_alternative<optimizer::BpwTarget>(solution.target))
    return fmt::format(
        "{} cannot be reached: this model can be between {:.4f} and {:.4f} bpw ({} to {}) "
        "with the formats and constraints given",
        to_text(solution.target), double(solution.smallest_bytes) * scale,
        double(solution.largest_bytes) * scale, format_bytes(solution.smallest_bytes),
        format_bytes(solution.largest_bytes));
  if (solution.memory)
    return fmt::format("{} cannot be met: {} are left for weights {}, which take {} to {}{}{}",
                       to_text(solution.target), format_bytes(solution.budget_bytes),
                       solution.memory->gpu_weight_budget_bytes ? "on the GPU" : "in RAM",
                       format_bytes(solution.smallest_bytes), format_bytes(solution.largest_bytes),
                       solution.limits.empty() ? "" : "; ", fmt::join(solution.limits, "; "));
  return fmt::format(
      "{} cannot be reached: this model's file can be between {} and {} with the formats and "
      "constraints given",
      to_text(solution.target), format_bytes(solution.smallest_bytes), format_bytes(solution.largest_bytes));
}

std::string describe_frontier(const Model& model, const optimizer::ModelFrontier& frontier,
                              std::span<const optimizer::StaticComparison> statics, std::size_t points,
                              bool steps) {
  const std::vector<CurvePoint> curve = curve_of(model, frontier);
  Table table({"bpw", "size", "predicted error", "lambda per MiB"});
  const std::size_t stride = points == 0 ? 1 : std::max<std::size_t>((curve.size() + points - 1) / points, 1);
  for (std::size_t i = 0; i < curve.size(); ++i)
    if (i % stride == 0 || i + 1 == curve.size())
      table.add({fmt::format("{:.4f}", curve[i].bpw), format_bytes(curve[i].bytes),
                 fmt::format("{:.6g}", curve[i].error),
                 i == 0 ? "" : fmt::format("{:.3g}", curve[i].multiplier * 1048576)});
  std::string text = table.to_text();
  if (!statics.empty()) text += '\n' + static_table(statics);
  if (steps) {
    Table changes({"bpw", "tensor or group", "from", "to"});
    for (std::size_t i = 1; i < curve.size(); ++i)
      changes.add({fmt::format("{:.4f}", curve[i].bpw), curve[i].changed, curve[i].from, curve[i].to});
    text += '\n' + changes.to_text();
  }
  return text;
}

nlohmann::ordered_json frontier_to_json(const Model& model, const optimizer::ModelFrontier& frontier,
                                        std::span<const optimizer::StaticComparison> statics) {
  nlohmann::ordered_json json;
  json["curve"] = nlohmann::ordered_json::array();
  for (const CurvePoint& point : curve_of(model, frontier)) {
    nlohmann::ordered_json row = {
        {"bpw", point.bpw}, {"bytes", point.bytes}, {"predicted_error", point.error}};
    if (!point.changed.empty()) {
      row["multiplier"] = point.multiplier;
      row["changed"] = point.changed;
      row["from"] = point.from;
      row["to"] = point.to;
    }
    json["curve"].push_back(std::move(row));
  }
  json["static_recipes"] = statics_to_json(statics);
  return json;
}

std::string frontier_to_csv(const Model& model, const optimizer::ModelFrontier& frontier,
                            std::span<const optimizer::StaticComparison> statics) {
  std::string text = "kind,name,bpw,bytes,predicted_error,multiplier,from,to\n";
  for (const CurvePoint& point : curve_of(model, frontier))
    text += fmt::format("curve,{},{:.6f},{},{:.9g},{:.9g},{},{}\n", point.changed, point.bpw, point.bytes,
                        point.error, point.multiplier, point.from, point.to);
  for (const optimizer::StaticComparison& recipe : statics)
    text += fmt::format("static,{},{:.6f},{},{:.9g},,,\n", optimizer::name_of(recipe.type), recipe.bpw,
                        recipe.tensor_bytes, recipe.predicted_error);
  return text;
}

std::string describe_diff(const optimizer::RecipeDiff& diff) {
  Table table({"tensor", "before", "after", "bpw"});
  for (const optimizer::RecipeChange& change : diff.changes)
    table.add({change.tensor, change.before ? std::string(name_of(*change.before)) : "absent",
               change.after ? std::string(name_of(*change.after)) : "absent",
               change.before && change.after
                   ? fmt::format("{:+.4f}", bits_per_weight(*change.after) - bits_per_weight(*change.before))
                   : ""});
  return fmt::format("{}{} tensors differ, {} are the same\n",
                     diff.changes.empty() ? "" : table.to_text() + "\n", diff.changes.size(), diff.same);
}

nlohmann::ordered_json diff_to_json(const optimizer::RecipeDiff& diff) {
  nlohmann::ordered_json json;
  json["same"] = diff.same;
  json["changes"] = nlohmann::ordered_json::array();
  for (const optimizer::RecipeChange& change : diff.changes) {
    nlohmann::ordered_json row = {{"tensor", change.tensor}};
    row["before"] = change.before ? nlohmann::ordered_json(name_of(*change.before)) : nullptr;
    row["after"] = change.after ? nlohmann::ordered_json(name_of(*change.after)) : nullptr;
    json["changes"].push_back(std::move(row));
  }
  return json;
}

}  // namespace quantfit::cli
