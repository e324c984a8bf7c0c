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
    return result;
  });
}

}  // namespace quantfit::optimizer
