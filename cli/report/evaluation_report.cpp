#include "cli/report/evaluation_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/report/table.h"
#include "core/byte_size.h"
#include "core/text.h"

namespace quantfit::cli {
namespace {

using calibration::DivergenceFigures;
using calibration::Estimate;

std::string name_of(const std::filesystem::path& path) {
  return path.filename().string();
}

std::string with_error(const Estimate& estimate, int digits) {
  return fmt::format("{:.{}f} ± {:.{}f}", estimate.value, digits, estimate.error, digits);
}

std::string details_of(const optimizer::EvaluatedFile& file) {
  const DivergenceFigures& f = file.figures;
  std::string out = fmt::format("\n{}\n", escaped(name_of(file.path)));
  const auto line = [&](std::string_view name, const std::string& value) {
    out += fmt::format("  {:<34} {}\n", name, value);
  };
  line("perplexity", with_error(f.perplexity, 4));
  line("ln(perplexity / base's)", with_error(f.log_ratio, 5));
  line("perplexity / base's", with_error(f.perplexity_ratio, 5));
  line("correlation of log-probabilities", fmt::format("{:.2f} %", 100 * f.correlation));
  line("mean KL divergence", with_error(f.divergence, 6));
  line("  its error over chunks", fmt::format("{:.6f}", f.divergence_chunk_error));
  line("maximum KL divergence", fmt::format("{:.6f}", f.divergence_max));
  for (std::size_t i = 0; i < calibration::kQuantiles.size(); ++i)
    line(fmt::format("{:g} % of positions are below", calibration::kQuantiles[i]),
         fmt::format("{:.6f}", f.divergence_quantiles[i]));
  const auto percent = [](const Estimate& e) { return Estimate{100 * e.value, 100 * e.error}; };
  line("mean probability difference", with_error(percent(f.probability_difference), 3) + " %");
  line("RMS probability difference", with_error(percent(f.probability_rms), 3) + " %");
  line("same top token", with_error(percent(f.same_top), 2) + " %");
  return out;
}

nlohmann::ordered_json json_of(const Estimate& estimate) {
  return {{"value", estimate.value}, {"standard_error", estimate.error}};
}

nlohmann::ordered_json json_of(const optimizer::EvaluatedFile& file) {
  const DivergenceFigures& f = file.figures;
  nlohmann::ordered_json quantiles = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < calibration::kQuantiles.size(); ++i)
    quantiles.push_back({{"percent", calibration::kQuantiles[i]}, {"value", f.divergence_quantiles[i]}});
  nlohmann::ordered_json out = {{"file", file.path.string()},
                                {"fingerprint", file.fingerprint},
                                {"file_bytes", file.file_bytes},
                                {"bpw", file.bpw},
                                {"positions", f.positions},
                                {"perplexity", json_of(f.perplexity)},
                                {"log_perplexity_ratio", json_of(f.log_ratio)},
                                {"perplexity_ratio", json_of(f.perplexity_ratio)},
                                {"log_probability_correlation", f.correlation},
                                {"kl_divergence",
                                 {{"mean", f.divergence.value},
                                  {"standard_error", f.divergence.error},
                                  {"standard_error_over_chunks", f.divergence_chunk_error},
                                  {"maximum", f.divergence_max},
                                  {"quantiles", quantiles}}},
                                {"probability_difference", json_of(f.probability_difference)},
                                {"rms_probability_difference", json_of(f.probability_rms)},
                                {"same_top_token", json_of(f.same_top)}};
  if (file.predicted) out["predicted_kl_divergence"] = *file.predicted;
  if (file.against_best)
    out["against_best"] = {{"difference", json_of(file.against_best->difference)},
                           {"ratio", json_of(file.against_best->ratio)},
                           {"standard_errors_apart", file.against_best->significance},
                           {"decided", file.against_best->decided()}};
  return out;
}

}  // namespace

std::string to_text(const optimizer::EvaluatedFiles& evaluated, bool details) {
  std::string out = fmt::format(
      "{}: perplexity {} ({} chunks of {} tokens, {} positions, of {}{}{})\n",
      escaped(name_of(evaluated.base)), with_error(evaluated.base_perplexity, 4), evaluated.chunks,
      evaluated.context, evaluated.positions, escaped(evaluated.text),
      evaluated.arithmetic == engine::Arithmetic::Exact ? "" : "; activations rounded as by llama.cpp",
      evaluated.stopped_early ? "; the precision asked for was reached" : "");
  if (evaluated.files.empty()) return out;
  const bool foreseen =
      std::ranges::any_of(evaluated.files, [](const auto& file) { return file.predicted.has_value(); });
  std::vector<std::string> titles = {"file", "size",     "bpw",       "KL divergence",
                                     "99 %", "same top", "perplexity"};
  if (foreseen) titles.insert(titles.begin() + 3, "predicted");
  Table table(titles);
  for (const optimizer::EvaluatedFile& file : evaluated.files) {
    const DivergenceFigures& f = file.figures;
    std::vector<std::string> cells = {
        name_of(file.path),
        format_bytes(file.file_bytes),
        fmt::format("{:.4f}", file.bpw),
        fmt::format("{:.5f} ± {:.5f}", f.divergence.value, f.divergence_chunk_error),
        fmt::format("{:.4f}", f.divergence_quantiles[1]),
        fmt::format("{:.2f} %", 100 * f.same_top.value),
        fmt::format("{:.3f}", f.perplexity.value)};
    if (foreseen)
      cells.insert(cells.begin() + 3, file.predicted ? fmt::format("{:.5f}", *file.predicted) : "");
    table.add(cells);
  }
  out += "\n" + table.to_text();
  if (details)
    for (const optimizer::EvaluatedFile& file : evaluated.files) out += details_of(file);
  const auto best = std::ranges::find_if(
      evaluated.files, [](const optimizer::EvaluatedFile& file) { return !file.against_best; });
  if (evaluated.files.size() > 1 && best != evaluated.files.end()) {
    out += fmt::format("\nnearest to the base: {}\n", escaped(name_of(best->path)));
    for (const optimizer::EvaluatedFile& file : evaluated.files) {
      if (!file.against_best) continue;
      out += fmt::format("  {} diverges {:.3f} ± {:.3f} times as much{}\n", escaped(name_of(file.path)),
                         file.against_best->ratio.value, file.against_best->ratio.error,
                         file.against_best->decided() ? "" : ": no more than noise on this text");
    }
  }
  return out;
}

nlohmann::ordered_json to_json(const optimizer::EvaluatedFiles& evaluated) {
  nlohmann::ordered_json files = nlohmann::ordered_json::array();
  for (const optimizer::EvaluatedFile& file : evaluated.files) files.push_back(json_of(file));
  return {{"base",
           {{"file", evaluated.base.string()},
            {"fingerprint", evaluated.base_fingerprint},
            {"perplexity", json_of(evaluated.base_perplexity)}}},
          {"text", {{"name", evaluated.text}, {"fingerprint", evaluated.text_fingerprint}}},
          {"context", evaluated.context},
          {"arithmetic", evaluated.arithmetic == engine::Arithmetic::Exact ? "exact" : "llama.cpp"},
          {"chunks", evaluated.chunks},
          {"positions", evaluated.positions},
          {"stopped_early", evaluated.stopped_early},
          {"unit", "nats"},
          {"files", files},
          {"seconds", evaluated.seconds}};
}

}  // namespace quantfit::cli
