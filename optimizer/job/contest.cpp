#include "optimizer/job/contest.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "core/clock.h"
#include "core/out_of_memory.h"
#include "optimizer/job/search.h"
#include "optimizer/job/temporary_files.h"
#include "optimizer/job/yardstick.h"
#include "optimizer/output/model_writer.h"
#include "optimizer/planning/recipe_cost.h"

namespace quantfit::optimizer {
namespace {

namespace fs = std::filesystem;

// Share of the measured sensitivity in the blend, as an exponent: what did best on three models.
constexpr double kBlend = 0.75;
// Costs as powers of the relative error. Whole models at few bits cost more than the sum of their tensors.
constexpr double kCautious = 1.3;
constexpr double kBold = 0.8;

// The prior in the unit of the job's sensitivities, so that what speed is worth keeps its weight.
std::vector<double> prior_of(const JobInputs& inputs, const PreparedJob& job, const JobRequest& request) {
  std::vector<double> prior;
  for (const TensorSensitivity& one :
       default_sensitivities(inputs.traits, inputs.model.tensors(), request.role_weights))
    prior.push_back(one.value);
  double sum = 0;
  std::size_t count = 0;
  for (std::size_t i = 0; i < prior.size(); ++i) {
    if (!(prior[i] > 0) || !(job.sensitivity[i] > 0)) continue;
    sum += std::log(job.sensitivity[i] / prior[i]);
    ++count;
  }
  const double scale = count == 0 ? 1 : std::exp(sum / static_cast<double>(count));
  for (double& value : prior) value *= scale;
  return prior;
}

void raise_errors(PreparedJob& job, double power) {
  for (auto& [name, tensor] : job.measured.measurements)
    for (FormatMeasurement& one : tensor.errors)
      if (one.nmse > 0 && one.nmse < 1) one.nmse = std::pow(one.nmse, power);
}

}  // namespace

Result<SplitText> split_text(const Model& model, const calibration::TextRequest& text) {
  constexpr std::size_t kShare = 8;
  QF_ASSIGN(const calibration::Text read, calibration::read_text(model, text));
  const std::size_t windows = read.windows.count();
  if (windows < kShare)
    return fail(ErrorCode::InvalidArgument,
                "a text of {} chunks is too short to hold an eighth of it back for judging candidates",
                windows);
  SplitText split{text, text,
                  static_cast<std::uint32_t>(std::min<std::size_t>(windows / kShare, kMostHeldWindows))};
  const auto kept = static_cast<std::uint32_t>(windows - split.held_windows);
  split.measured.most = kept;
  split.held_back.skip = text.skip + kept;
  split.held_back.most = split.held_windows;
  return split;
}

Result<std::vector<Contender>> find_contenders(const JobInputs& inputs, const PreparedJob& job,
                                               const JobRequest& request, const Budget& budget,
                                               const Solution& solution, unsigned most,
                                               const SecondLook& second_look, const JobControl& control) {
  return or_out_of_memory("finding candidates", [&]() -> Result<std::vector<Contender>> {
    std::vector<Contender> contenders;
    const KnapsackOptions options = knapsack_options(job, request, 1);
    const auto add = [&](std::string rule, const Recipe& recipe) {
      const auto known = [&](const Contender& other) { return other.recipe.entries == recipe.entries; };
      if (contenders.size() >= most || std::ranges::any_of(contenders, known)) return;
      const auto cost =
          recipe_cost(job.candidates, job.measured.measurements, job.sensitivity, options, recipe);
      contenders.push_back({std::move(rule), recipe, 0, cost ? job.foresight(cost->error) : 0, {}});
    };
    const bool measured = job.error_unit == state::SensitivityUnit::Nats;
    add(measured ? "measured sensitivities" : "built-in sensitivities", solution.recipe);
    if (!solution.feasible || std::holds_alternative<RecipeTarget>(budget.target)) return contenders;
    QF_ASSIGN(const auto best_static, best_static_recipe(inputs, job, request, budget, solution, false));
    if (best_static) add("the static recipe " + best_static->name, best_static->recipe);

    AllocatorLimits limits = request.allocator;
    limits.cancel = &control.cancel;
    const auto search_as = [&](std::string rule,
                               const std::function<void(PreparedJob&)>& change) -> Result<void> {
      if (contenders.size() >= most) return outcome::success();
      PreparedJob other = job;
      change(other);
      QF_ASSIGN(const Found found, search(other, request, budget, limits));
      add(std::move(rule), found.recipe);
      return outcome::success();
    };
    if (measured && second_look && contenders.size() < most) {
      QF_ASSIGN(const auto weights, second_look(solution.recipe));
      if (weights)
        QF_TRY(search_as("gradients at the weights of the first recipe",
                         [&](PreparedJob& other) { other.sensitivity = *weights; }));
    }
    const std::vector<double> prior = prior_of(inputs, job, request);
    if (measured)
      QF_TRY(search_as("a blend of measured and built-in sensitivities", [&](PreparedJob& other) {
        for (std::size_t i = 0; i < prior.size(); ++i)
          other.sensitivity[i] = std::pow(prior[i], 1 - kBlend) * std::pow(job.sensitivity[i], kBlend);
      }));
    QF_TRY(
        search_as("large errors counted more", [](PreparedJob& other) { raise_errors(other, kCautious); }));
    if (measured)
      QF_TRY(search_as("built-in sensitivities", [&](PreparedJob& other) { other.sensitivity = prior; }));
    QF_TRY(search_as("large errors counted less", [](PreparedJob& other) { raise_errors(other, kBold); }));
    return contenders;
  });
}

Result<Contest> hold_contest(const JobInputs& inputs, const JobRequest& request,
                             std::vector<Contender> contenders, const ContestRequest& contest,
                             const kernels::RowKernels& kernels, const JobControl& control) {
  const auto started = Clock::now();
  Contest out;
  out.contenders = std::move(contenders);
  TemporaryFiles files(contest.folder, "candidate");
  for (Contender& one : out.contenders) {
    WriterOptions writer = writer_options(inputs, request);
    writer.existing = Existing::Replace;
    writer.split = {};
    // What they have in common is encoded once.
    writer.keys = tensor_digest_keys(inputs.model.tensors().size());
    for (const auto& earlier : files.paths()) writer.reuse.files.push_back(earlier);
    QF_ASSIGN(const WriteSummary written,
              write_model(inputs.model, inputs.importance_or_null(), one.recipe, files.add(), writer, kernels,
                          control.progress, control.cancel));
    one.file_bytes = written.file_bytes;
  }
  QF_ASSIGN(const EvaluatedFiles evaluated,
            evaluate_files(inputs.model, files.paths(), contest.evaluation, control));
  for (std::size_t i = 0; i < out.contenders.size(); ++i) {
    const calibration::DivergenceFigures& figures = evaluated.files[i].figures;
    out.contenders[i].divergence = {figures.divergence.value, figures.divergence_chunk_error};
    if (out.contenders[i].divergence.value < out.contenders[out.best].divergence.value) out.best = i;
  }
  out.text = evaluated.text;
  out.chunks = evaluated.chunks;
  out.seconds = seconds_since(started);
  return out;
}

}  // namespace quantfit::optimizer
