#include "optimizer/planning/fisher_sensitivity.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "optimizer/llama_cpp/tensor_role.h"
#include "optimizer/planning/foresight.h"

namespace quantfit::optimizer {
namespace {

// Of the rule for tensors that were not reached.
constexpr double kFloor = 1e-3;

// F of a tensor as matrix, as table, or both.
std::optional<NatsEstimate> nats_of(const ModelStatistics& statistics, const std::string& name) {
  std::vector<double> by_window;
  const auto add = [&](const std::vector<double>& one) {
    if (by_window.empty()) by_window.resize(one.size());
    for (std::size_t i = 0; i < std::min(one.size(), by_window.size()); ++i) by_window[i] += one[i];
  };
  const auto matrix = statistics.matrices.find(name);
  const auto table = statistics.tables.find(name);
  if (matrix != statistics.matrices.end()) add(matrix->second.nats_by_window);
  if (table != statistics.tables.end()) add(table->second.nats_by_window);
  if (by_window.empty()) return std::nullopt;
  return mean_of_windows(by_window, statistics.window_tokens);
}

// Geometric mean.
class LogMean {
 public:
  void add(double value) {
    sum_ += std::log(value);
    ++count_;
  }
  [[nodiscard]] bool empty() const { return count_ == 0; }
  [[nodiscard]] double value() const { return std::exp(sum_ / static_cast<double>(count_)); }

 private:
  double sum_ = 0;
  std::size_t count_ = 0;
};

}  // namespace

state::SensitivitySet fisher_set(const ModelStatistics& statistics, std::span<const TensorInfo> tensors,
                                 std::span<const TensorSensitivity> priors, state::SensitivityScope scope) {
  state::SensitivitySet set;
  scope.unit = state::SensitivityUnit::Nats;
  scope.method = kFisherMethod;
  set.scope = std::move(scope);
  std::vector<std::optional<NatsEstimate>> found(tensors.size());
  std::map<std::string, LogMean, std::less<>> of_role;
  LogMean of_all;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    found[i] = nats_of(statistics, tensors[i].name);
    if (!found[i] || !(found[i]->value > 0) || !(priors[i].value > 0)) continue;
    const double ratio = found[i]->value / priors[i].value;
    of_role[std::string(tensor_role(tensors[i].name))].add(ratio);
    of_all.add(ratio);
  }
  if (of_all.empty()) return set;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto role = of_role.find(tensor_role(tensors[i].name));
    const double guess = priors[i].value * (role == of_role.end() ? of_all : role->second).value();
    state::Sensitivity row;
    row.tensor = tensors[i].name;
    if (!found[i]) {
      row.value = row.standard_error = guess;
      row.obtained = "not reached by the text: as others of its role";
    } else {
      row.value = std::max(found[i]->value, kFloor * guess);
      row.standard_error = found[i]->standard_error;
      row.obtained = "gradients of the model itself";
    }
    set.rows.push_back(std::move(row));
  }
  if (statistics.choice_cost > 0 && statistics.choice_error > 0) {
    const double cost = statistics.choice_cost * kChoicesPerError;
    set.rows.push_back({std::string(kOtherChoices), cost, 0, "margins of the routers", ""});
    set.rows.push_back({std::string(kChoicesInWeights),
                        cost * kChoicesPerError / (2 * static_cast<double>(statistics.choice_error)), 0,
                        "margins of the routers", ""});
  }
  std::ranges::sort(set.rows);
  return set;
}

}  // namespace quantfit::optimizer
