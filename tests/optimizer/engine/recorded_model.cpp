#include "tests/optimizer/engine/recorded_model.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "tests/support/test_paths.h"

namespace quantfit::test {

std::vector<RecordedModel> recorded_models() {
  std::vector<RecordedModel> out;
  std::vector<std::filesystem::path> folders{data_dir() / "engine"};
  if (const auto shared = shared_dir()) folders.push_back(*shared / "running" / "tiny");
  std::set<std::string> seen;
  for (const auto& folder : folders) {
    std::error_code ignored;
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(folder, ignored))
      if (entry.path().extension() == ".json") files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    for (const auto& file : files) {
      RecordedModel model;
      model.name = file.stem().string();
      model.path = std::filesystem::path(file).replace_extension(".gguf");
      if (!seen.insert(model.name).second || !std::filesystem::exists(model.path)) continue;
      std::ifstream in(file);
      const auto json = nlohmann::json::parse(in);
      model.tokens = json.at("tokens").get<std::vector<std::int32_t>>();
      model.logits = json.at("logits").get<std::vector<std::vector<float>>>();
      out.push_back(std::move(model));
    }
  }
  return out;
}

LogitDifference compare_logits(const std::vector<std::vector<float>>& reference,
                               const std::vector<std::vector<float>>& ours) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  LogitDifference out;
  if (reference.size() != ours.size()) return {kInfinity, kInfinity};
  for (std::size_t t = 0; t < reference.size(); ++t) {
    const auto& p = reference[t];
    const auto& q = ours[t];
    if (p.size() != q.size()) return {kInfinity, kInfinity};
    const auto log_sum = [](const std::vector<float>& z) {
      const double most = *std::max_element(z.begin(), z.end());
      double sum = 0;
      for (const float v : z) sum += std::exp(v - most);
      return most + std::log(sum);
    };
    const double p_sum = log_sum(p), q_sum = log_sum(q);
    double divergence = 0;
    for (std::size_t i = 0; i < p.size(); ++i) {
      if (!std::isfinite(p[i]) || !std::isfinite(q[i])) return {kInfinity, kInfinity};
      out.largest = std::max(out.largest, std::abs(static_cast<double>(p[i]) - q[i]));
      const double log_ratio = (p[i] - p_sum) - (q[i] - q_sum);
      divergence += std::exp(p[i] - p_sum) * log_ratio;
    }
    out.divergence = std::max(out.divergence, divergence);
  }
  return out;
}

Result<std::vector<std::vector<float>>> logits_of(const engine::Engine& engine,
                                                  const engine::TokenWindows& windows,
                                                  const engine::RunOptions& options) {
  NoProgress progress;
  const CancellationToken cancel;
  QF_ASSIGN(const engine::HiddenStates states, engine.run(windows, options, nullptr, progress, cancel));
  std::vector<float> buffer;
  QF_ASSIGN(const auto rows, states.read(0, states.rows(), buffer));
  const std::size_t vocabulary = engine.graph().vocabulary;
  std::vector<float> flat(states.rows() * vocabulary);
  QF_TRY(engine.logits(rows, {flat.data(), states.rows(), vocabulary, vocabulary}, options.threads));
  std::vector<std::vector<float>> out;
  for (std::size_t t = 0; t < states.rows(); ++t)
    out.emplace_back(flat.begin() + static_cast<std::ptrdiff_t>(t * vocabulary),
                     flat.begin() + static_cast<std::ptrdiff_t>((t + 1) * vocabulary));
  return out;
}

}  // namespace quantfit::test
