// A job on a small model, run the way a front end runs it.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/row_kernels.h"
#include "optimizer/job/job.h"
#include "optimizer/job/preset.h"
#include "optimizer/job/solve.h"
#include "optimizer/job/yardstick.h"
#include "tests/optimizer/small_model.h"

namespace quantfit::test {

// Embedding, output head and one layer, all with importance data; rows of 256 weights.
[[nodiscard]] inline std::vector<SmallTensor> one_layer() {
  std::vector<SmallTensor> tensors;
  for (const char* name : {"token_embd", "output", "blk.0.attn_q", "blk.0.attn_k", "blk.0.attn_v",
                           "blk.0.attn_output", "blk.0.ffn_gate", "blk.0.ffn_up", "blk.0.ffn_down"})
    tensors.push_back({std::string(name) + ".weight", {256, 64, 1}, Format::F16, {}, {100}});
  return tensors;
}

struct Job {
  explicit Job(const std::vector<SmallTensor>& tensors = one_layer(), bool with_importance = true)
      : files(tensors) {
    request.paths.model = files.path();
    if (with_importance) request.paths.importance = files.folder() / "imatrix.gguf";
    request.sampler.effort = kernels::Effort::Fast;
    request.program_version = "test";
  }

  void open() {
    auto opened = optimizer::open_inputs(request.paths);
    ASSERT_TRUE(opened) << opened.error().message;
    inputs.emplace(std::move(opened).value());
  }
  // Opened, checked; not measured.
  Result<optimizer::PreparedJob> check(const std::vector<optimizer::Target>& targets) {
    if (!inputs) open();
    return optimizer::check_job(*inputs, request, targets, *kernels::default_kernels().value());
  }
  // A named mixture with the request's rules.
  Result<optimizer::GivenRecipe> preset(std::string_view name) {
    if (!inputs) open();
    return optimizer::preset_recipe(*inputs, request, name);
  }
  // Checked and measured.
  optimizer::PreparedJob prepare(const std::vector<optimizer::Target>& targets) {
    auto job = check(targets);
    EXPECT_TRUE(job) << job.error().message;
    if (!job) return {};
    const auto done =
        optimizer::measure_job(*inputs, request, *kernels::default_kernels().value(), control, job.value());
    EXPECT_TRUE(done) << done.error().message;
    return std::move(job).value();
  }
  optimizer::Solution solve(const optimizer::Target& target) {
    const optimizer::PreparedJob job = prepare({target});
    auto solution = optimizer::choose(*inputs, job, request, job.budgets.at(0), control);
    EXPECT_TRUE(solution) << solution.error().message;
    return solution ? std::move(solution).value() : optimizer::Solution{};
  }

  SmallModel files;
  optimizer::JobRequest request;
  std::optional<optimizer::JobInputs> inputs;
  NoProgress progress;
  CancellationToken cancel;
  optimizer::JobControl control{progress, cancel};
};

[[nodiscard]] inline Format format_of(const optimizer::Solution& solution, const std::string& tensor) {
  const RecipeEntry* entry = solution.recipe.find(tensor);
  EXPECT_NE(entry, nullptr) << tensor;
  return entry == nullptr ? Format::F64 : entry->format;
}

}  // namespace quantfit::test
