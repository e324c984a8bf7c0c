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

std::string percent(double part, double whole) { return whole > 0 ? fmt::format("{:.1f} %", 100 * part / whole) : ""; }

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
    table.add({std::string(name_of(use.format)), std::to_string(use.tensors), format_count(double(use.elements)),
               format_bytes(use.bytes), fmt::format("{:.4f}", bpw_of(use.bytes, use.elements)),
               percent(double(use.bytes), double(total_bytes))});
  return table.to_text();
}

double nmse_of(const optimizer::PreparedJob& job, const TensorInfo& tensor, Format format) {
  const auto found = job.measured.measurements.find(tensor.name);
  if (found != job.measured.measurements.end())
    for (const FormatError& error : found->second.errors)
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
  if (const auto name = model.metadata().string("general.name")) text += fmt::format("name          {}\n", *name);
  text += fmt::format("tensors       {}\nweights       {}\nfile size     {}\ntensor data   {}\nbpw           {:.4f}\n\n",
                      model.tensors().size(), format_count(double(model.total_elements())), format_bytes(file_bytes),
                      format_bytes(model.total_tensor_bytes()),
                      bpw_of(model.total_tensor_bytes(), model.total_elements()));
  text += format_table(formats_used(model.tensors()), model.total_tensor_bytes());
  if (metadata) {
    Table table({"key", "value"});
    for (const GgufKeyValue& value : model.metadata().all()) table.add({value.key, value_text(value)});
    text += '\n' + table.to_text();
  }
  if (all_tensors) {
    Table table({"tensor", "shape", "format", "size", "bpw"});
    for (const TensorInfo& tensor : model.tensors())
      table.add({tensor.name, dims_of(tensor), std::string(name_of(tensor.format)), std::to_string(tensor.bytes),
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
                              const optimizer::Solution& solution, bool all_tensors) {
  std::vector<TensorInfo> outputs(model.tensors().begin(), model.tensors().end());
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    outputs[i].format = solution.recipe.entries[i].format;
    if (auto bytes = tensor_bytes(outputs[i].format, outputs[i].row_length(), outputs[i].rows()))
      outputs[i].bytes = bytes.value();
  }
  const optimizer::Allocation& allocation = solution.allocation;
  std::string text = fmt::format("target           {}\n", to_text(solution.target));
  text += fmt::format("result           {:.4f} bpw, {}\n", solution.bpw(), used_text(solution));
  text += fmt::format("file size        {}\n", format_bytes(solution.file_bytes));
  text += fmt::format("predicted error  {:.6g}\n", solution.predicted_error);
  if (allocation.why == optimizer::Termination::Optimal) {
    text += fmt::format("proof            optimal, {} partial states, {:.0f} ms\n", allocation.states,
                        1000 * allocation.seconds);
  } else {
    text += fmt::format("proof            {}: at most {:.2e} above the optimum\n", to_string(allocation.why),
                        allocation.objective > 0 ? allocation.gap() / allocation.objective : 0.0);
  }
  text += '\n' + format_table(formats_used(outputs), solution.tensor_bytes);
  if (all_tensors) {
    Table table({"tensor", "shape", "from", "to", "size", "relative error", "cost"});
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const bool kept = outputs[i].format == model.tensors()[i].format;
      const double nmse = nmse_of(job, outputs[i], outputs[i].format);
      table.add({outputs[i].name, dims_of(outputs[i]), std::string(name_of(model.tensors()[i].format)),
                 std::string(name_of(outputs[i].format)), std::to_string(outputs[i].bytes),
                 kept ? "" : fmt::format("{:.3e}", nmse),
                 kept ? "" : fmt::format("{:.3e}", job.sensitivity[i] * nmse)});
    }
    text += '\n' + table.to_text();
  }
  return text;
}

nlohmann::ordered_json solution_to_json(const Model& model, const optimizer::PreparedJob& job,
                                        const optimizer::Solution& solution) {
  const optimizer::Allocation& allocation = solution.allocation;
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
  json["predicted_error"] = solution.predicted_error;
  json["allocation"] = {{"objective", allocation.objective},     {"lower_bound", allocation.lower_bound},
                        {"gap", allocation.gap()},               {"multiplier", allocation.multiplier},
                        {"states", allocation.states},           {"seconds", allocation.seconds},
                        {"termination", to_string(allocation.why)}};
  json["tensors"] = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < solution.recipe.entries.size(); ++i) {
    const RecipeEntry& entry = solution.recipe.entries[i];
    const TensorInfo& tensor = model.tensors()[i];
    nlohmann::ordered_json row = {{"name", entry.tensor},
                                  {"from", name_of(tensor.format)},
                                  {"format", name_of(entry.format)}};
    if (auto bytes = tensor_bytes(entry.format, tensor.row_length(), tensor.rows())) row["bytes"] = bytes.value();
    if (entry.format != tensor.format) {
      row["nmse"] = nmse_of(job, tensor, entry.format);
      row["sensitivity"] = job.sensitivity[i];
    } else if (!job.plans[i].kept_because.empty()) {
      row["kept_because"] = job.plans[i].kept_because;
    }
    json["tensors"].push_back(std::move(row));
  }
  return json;
}

std::string describe_infeasible(const optimizer::Solution& solution) {
  const double scale = solution.elements == 0 ? 0 : 8.0 / double(solution.elements);
  if (std::holds_alternative<optimizer::BpwTarget>(solution.target))
    return fmt::format(
        "{} cannot be reached: this model can be between {:.4f} and {:.4f} bpw ({} to {}) with the formats and "
        "constraints given",
        to_text(solution.target), double(solution.smallest_bytes) * scale, double(solution.largest_bytes) * scale,
        format_bytes(solution.smallest_bytes), format_bytes(solution.largest_bytes));
  return fmt::format("{} cannot be reached: this model's file can be between {} and {} with the formats and "
                     "constraints given",
                     to_text(solution.target), format_bytes(solution.smallest_bytes),
                     format_bytes(solution.largest_bytes));
}

}  // namespace quantfit::cli
