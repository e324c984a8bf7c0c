#include "cli/report/json.h"

#include <nlohmann/json.hpp>

#include "core/text.h"

namespace quantfit::cli {
namespace {

using Json = nlohmann::ordered_json;

Json formats_json(const std::vector<FormatUse>& formats) {
  Json json = Json::array();
  for (const FormatUse& use : formats)
    json.push_back(
        {{"format", use.format}, {"tensors", use.tensors}, {"elements", use.elements}, {"bytes", use.bytes}});
  return json;
}

Json proof_json(const ProofReport& proof, double multiplier) {
  return {{"objective", proof.objective}, {"lower_bound", proof.lower_bound}, {"gap", proof.gap},
          {"multiplier", multiplier},     {"cost_unit", proof.cost_unit},     {"states", proof.states},
          {"seconds", proof.seconds},     {"termination", proof.termination}};
}

Json fill_json(const FillReport& fill) {
  return {{"wanted_bytes", fill.wanted_bytes},
          {"least_bytes", fill.least_bytes},
          {"unfilled_bytes", fill.unfilled_bytes},
          {"met", fill.met},
          {"proven_impossible", fill.proven_impossible}};
}

Json budget_json(const BudgetReport& budget) {
  Json json = {{"of", budget.of}};
  if (budget.limit_bytes) json["budget_bytes"] = *budget.limit_bytes;
  json["used_bytes"] = budget.used_bytes;
  json["smallest_bytes"] = budget.smallest_bytes;
  json["largest_bytes"] = budget.largest_bytes;
  if (budget.shortfall_bytes != 0) json["shortfall_bytes"] = budget.shortfall_bytes;
  json["multiplier"] = budget.multiplier;
  if (budget.fill) json["fill"] = fill_json(*budget.fill);
  return json;
}

Json memory_json(const PlanReport& report) {
  Json memory;
  memory["ctx_size"] = report.ctx_size;
  memory["items"] = Json::array();
  for (const MemoryItemReport& item : report.memory)
    memory["items"].push_back(
        {{"what", item.what}, {"device", item.on}, {"bytes", item.bytes}, {"how", item.how}});
  memory["host_weight_bytes"] = 0;
  for (const BudgetReport& budget : report.budgets) {
    const bool gpu = budget.of == "GPU";
    if (budget.limit_bytes)
      memory[gpu ? "gpu_weight_budget_bytes" : "host_weight_budget_bytes"] = *budget.limit_bytes;
    if (!gpu) memory["host_weight_bytes"] = budget.used_bytes;
  }
  return memory;
}

Json target_json(const TargetReport& target) {
  Json json = {{"kind", target.kind}};
  if (target.bpw) {
    json["value"] = *target.bpw;
    json["unit"] = "bits per weight";
  }
  if (target.file_bytes) {
    json["value"] = *target.file_bytes;
    json["unit"] = "bytes";
  }
  if (target.vram_bytes) json["vram_bytes"] = *target.vram_bytes;
  if (target.ram_bytes) json["ram_bytes"] = *target.ram_bytes;
  if (!target.recipe.empty()) json["recipe"] = target.recipe;
  json["text"] = target.text;
  return json;
}

Json quality_json(const QualityReport& quality) {
  Json json = {{"like", quality.like}};
  if (quality.ratio) json["ratio"] = *quality.ratio;
  return json;
}

Json candidates_json(const std::vector<CandidateReport>& candidates) {
  Json json = Json::array();
  for (const CandidateReport& one : candidates)
    json.push_back(
        {{"rule", one.rule},
         {"file_bytes", one.file_bytes},
         {"predicted_error", one.predicted_error},
         {"kl_divergence", {{"mean", one.divergence}, {"standard_error_over_chunks", one.divergence_error}}},
         {"kept", one.kept}});
  return json;
}

Json entries_json(const std::vector<ModelReport::Entry>& entries) {
  Json json = Json::object();
  for (const ModelReport::Entry& entry : entries) {
    Json& slot = json[entry.key];
    std::visit(
        [&](const auto& value) {
          if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::monostate>)
            slot = entry.text;
          else
            slot = value;
        },
        entry.value);
  }
  return json;
}

template <class Row>
Json rows_json(const std::vector<Row>& rows) {
  Json json = Json::array();
  for (const Row& row : rows) json.push_back(to_json(row));
  return json;
}

}  // namespace

Json document_of(std::string_view kind) {
  return {{"schema_version", kSchemaVersion}, {"program", "quantfit " QUANTFIT_VERSION}, {"kind", kind}};
}

Json to_json(const ModelReport& report, bool metadata) {
  Json json = document_of("model");
  json["file"] = report.files[0].path;
  json["files"] = Json::array();
  for (const ModelReport::File& file : report.files)
    json["files"].push_back({{"path", file.path}, {"bytes", file.bytes}});
  json["gguf_version"] = report.gguf_version;
  json["shards"] = report.files.size();
  json["architecture"] = report.architecture;
  if (report.name) json["name"] = *report.name;
  json["elements"] = report.elements;
  json["file_bytes"] = report.file_bytes;
  json["tensor_bytes"] = report.tensor_bytes;
  json["bpw"] = report.bpw;
  json["formats"] = formats_json(report.formats);
  json["provenance"] = entries_json(report.provenance);
  json["tensors"] = Json::array();
  for (const ModelReport::Tensor& tensor : report.tensors) {
    Json row = {{"name", tensor.name}, {"role", tensor.role}};
    if (tensor.layer) row["layer"] = *tensor.layer;
    row["dims"] = tensor.shape;
    row["elements"] = tensor.elements;
    row["format"] = tensor.format;
    row["bytes"] = tensor.bytes;
    row["shard"] = tensor.shard;
    json["tensors"].push_back(std::move(row));
  }
  if (metadata) json["metadata"] = entries_json(report.metadata);
  return json;
}

Json to_json(const StaticReport& recipe) {
  Json json = {{"name", recipe.name},
               {"bpw", recipe.bpw},
               {"tensor_bytes", recipe.tensor_bytes},
               {"predicted_error", recipe.predicted_error}};
  if (recipe.optimized_error) json["optimized_error"] = *recipe.optimized_error;
  return json;
}

Json to_json(const StaticWithoutReport& recipe) {
  return {{"name", recipe.name}, {"why", recipe.why}};
}

Json to_json(const GainReport& gain) {
  return {{"tensor", gain.tensor},
          {"from", gain.from},
          {"to", gain.to},
          {"more_bytes", gain.more_bytes},
          {"saved_error", gain.saved_error}};
}

Json to_json(const TensorReport& tensor) {
  Json row = {{"name", tensor.name}, {"role", tensor.role}};
  if (tensor.layer) row["layer"] = *tensor.layer;
  row["from"] = tensor.from;
  row["format"] = tensor.format;
  row["elements"] = tensor.elements;
  row["bytes"] = tensor.bytes;
  if (tensor.kept) {
    if (!tensor.kept_because.empty()) row["kept_because"] = tensor.kept_because;
    return row;
  }
  row["nmse"] = tensor.nmse;
  row["bias_share"] = tensor.bias_share;
  if (!tensor.sensitivity_source.empty()) {
    row["error"] = tensor.error();
    row["sensitivity"] = tensor.sensitivity;
    row["sensitivity_source"] = tensor.sensitivity_source;
  }
  return row;
}

Json to_json(const PlanReport& report) {
  const BudgetReport& first = report.budgets.front();
  Json json;
  json["target"] = target_json(report.target);
  json["feasible"] = report.feasible;
  json["budget_bytes"] = first.limit_bytes.value_or(first.used_bytes);
  json["used_bytes"] = first.used_bytes;
  json["smallest_bytes"] = first.smallest_bytes;
  json["largest_bytes"] = first.largest_bytes;
  json["bpw"] = report.bpw;
  json["tensor_bytes"] = report.tensor_bytes;
  json["file_bytes"] = report.file_bytes;
  if (report.predicted_error) json["predicted_error"] = *report.predicted_error;
  json["error_unit"] = report.error_unit;
  if (report.quality) json["quality"] = quality_json(*report.quality);
  json["limits"] = report.limits;
  json["notes"] = report.notes;
  if (report.proof) json["allocation"] = proof_json(*report.proof, first.multiplier);
  if (!report.static_recipe.empty()) json["static_recipe"] = report.static_recipe;
  if (!report.candidates.empty()) json["candidates"] = candidates_json(report.candidates);
  if (first.fill) json["fill"] = fill_json(*first.fill);
  json["budgets"] = Json::array();
  for (const BudgetReport& budget : report.budgets) json["budgets"].push_back(budget_json(budget));
  if (report.unfilled_error) json["unfilled_error"] = *report.unfilled_error;
  if (report.has_memory) json["memory"] = memory_json(report);
  json["formats"] = formats_json(report.formats);
  json["static_recipes"] = rows_json(report.statics.compared);
  json["static_recipes_not_compared"] = rows_json(report.statics.without);
  json["gains"] = rows_json(report.gains);
  json["tensors"] = rows_json(report.tensors);
  if (!report.output.empty()) {
    json["output"] = report.output;
    json["output_files"] = report.more_files + 1;
    json["write_seconds"] = report.write_seconds;
    json["source_digest"] = report.source_digest;
    json["encoded_tensors"] = report.encoded_tensors;
    json["reused_tensors"] = report.reused_tensors;
    json["run_command"] = report.run_command;
  }
  return json;
}

Json plan_document(std::span<const PlanReport> reports) {
  Json json = document_of("plan");
  json["answers"] = Json::array();
  for (const PlanReport& report : reports) json["answers"].push_back(to_json(report));
  return json;
}

Json to_json(const FrontierReport& report, std::size_t points) {
  Json json = document_of("frontier");
  json["error_unit"] = report.error_unit;
  json["all_points"] = report.curve.size();
  json["curve"] = Json::array();
  for (const std::size_t i : thinned(report.curve.size(), points)) {
    const CurvePoint& point = report.curve[i];
    Json row = {{"bpw", point.bpw}, {"tensor_bytes", point.bytes}, {"predicted_error", point.error}};
    if (!point.changed.empty()) {
      row["multiplier"] = point.multiplier;
      row["changed"] = point.changed;
      row["from"] = point.from;
      row["to"] = point.to;
    }
    json["curve"].push_back(std::move(row));
  }
  json["static_recipes"] = rows_json(report.statics.compared);
  json["static_recipes_not_compared"] = rows_json(report.statics.without);
  return json;
}

Json to_json(const DiffReport& report) {
  Json json = document_of("diff");
  json["same"] = report.same;
  json["changes"] = Json::array();
  for (const DiffReport::Change& change : report.changes) {
    Json row = {{"tensor", change.tensor}};
    row["before"] = change.before ? Json(*change.before) : Json();
    row["after"] = change.after ? Json(*change.after) : Json();
    json["changes"].push_back(std::move(row));
  }
  if (report.other_bytes)
    json["bytes"] = {{"equal", report.equal_bytes},
                     {"differing", *report.other_bytes},
                     {"not_compared", report.not_compared}};
  return json;
}

Json error_document(std::span<const Error> errors, int exit_status) {
  Json json = document_of("error");
  json["exit_status"] = exit_status;
  json["errors"] = Json::array();
  for (const Error& error : errors)
    json["errors"].push_back({{"code", to_string(error.code)}, {"message", error.message}});
  return json;
}

std::string document_text(const Json& document) {
  return printable_json(document.dump(2, ' ', false, Json::error_handler_t::replace)) + '\n';
}

std::string line_text(const Json& document) {
  return printable_json(document.dump(-1, ' ', false, Json::error_handler_t::replace)) + '\n';
}

}  // namespace quantfit::cli
