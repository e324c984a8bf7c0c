#include "optimizer/job/curve.h"

#include <numeric>
#include <vector>
#include "core/out_of_memory.h"

namespace quantfit::optimizer {

Result<ModelFrontier> model_frontier(const PreparedJob& job, const JobRequest& request) {
  return or_out_of_memory("the frontier", [&]() -> Result<ModelFrontier> {
    std::vector<std::uint32_t> all(job.candidates.size());
    std::iota(all.begin(), all.end(), 0U);
    ModelFrontier result;
    QF_ASSIGN(result.knapsack, make_knapsack(job.candidates, job.measured.measurements, job.sensitivity,
                                             knapsack_options(job, request, 1), all));
    QF_ASSIGN(result.frontier, frontier(result.knapsack.classes));
    result.foresight = job.foresight;
    return result;
  });
}

Result<ModelFrontier> recorded_frontier(const Measurements& measurements,
                                        const std::map<std::string, double>& sensitivity,
                                        std::uint64_t other_bytes) {
  return or_out_of_memory("the frontier", [&]() -> Result<ModelFrontier> {
    std::vector<TensorInfo> shapes;
    std::vector<TensorCandidates> tensors;
    std::vector<double> weights;
    shapes.reserve(measurements.size());  // the tensors point into it
    for (const auto& [name, measured] : measurements) {
      if (measured.errors.empty()) continue;
      TensorInfo& shape = shapes.emplace_back(measured.shape);
      shape.name = name;
      TensorCandidates& tensor = tensors.emplace_back();
      tensor.tensor = &shape;
      tensor.formats = {shape.format};
      for (const FormatMeasurement& one : measured.errors)
        if (one.format != shape.format) tensor.formats.push_back(one.format);
      const auto weight = sensitivity.find(name);
      weights.push_back(weight == sensitivity.end() ? 0 : weight->second);
    }
    if (tensors.empty()) return fail(ErrorCode::Infeasible, "no tensor was measured: there is no curve");
    std::vector<std::uint32_t> all(tensors.size());
    std::iota(all.begin(), all.end(), 0U);
    KnapsackOptions options;
    options.max_nmse = JobRequest{}.max_nmse;
    ModelFrontier result;
    QF_ASSIGN(result.knapsack, make_knapsack(tensors, measurements, weights, options, all));
    result.knapsack.fixed_bytes += other_bytes;
    QF_ASSIGN(result.frontier, frontier(result.knapsack.classes));
    return result;
  });
}

}  // namespace quantfit::optimizer
