// What errors cost at the weights of a recipe instead of the original's: a backward pass of the divergence
// through the quantized model itself.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/model.h"
#include "kernels/row_kernels.h"
#include "optimizer/calibration/text.h"
#include "optimizer/engine/forward.h"
#include "optimizer/job/job.h"

namespace quantfit::optimizer {

// By tensor, half the product of the gradient of the KL divergence from `original`, taken at `quantized`, and
// of what its weights are off by: 1/2 <dKL/dW, W' - W>, nats per token, the mean over `windows`, which are of
// equal length. Where the divergence is quadratic they add up to it, and each is what its tensor adds among
// all others' errors; single ones may be negative. Tensors without an error have 0. The same bits for any
// number of threads. Errors of Engine::open and BackwardPass::run (Unsupported: the model runs forward only).
[[nodiscard]] Result<std::map<std::string, double>> shares_of_divergence(
    const Model& original, const Model& quantized, const engine::TokenWindows& windows,
    const engine::RunOptions& run, const kernels::RowKernels& kernels, const JobControl& control);

struct SecondLookRequest {
  // Costs four forward passes over so many tokens, in whole windows spread over the text.
  static constexpr std::uint64_t kTokens = 4096;

  calibration::TextRequest text;  // that gradients were taken from
  engine::RunOptions run;
  std::filesystem::path folder;  // the recipe is written there and removed again
};

// Sensitivities, one per tensor like PreparedJob::sensitivity, with which the errors that `recipe` makes cost
// what shares_of_divergence says, at least a tenth of what they did. Errors of write_model, read_text and
// the above.
[[nodiscard]] Result<std::vector<double>> look_again(const JobInputs& inputs, const PreparedJob& job,
                                                     const JobRequest& request, const Recipe& recipe,
                                                     const SecondLookRequest& look,
                                                     const kernels::RowKernels& kernels,
                                                     const JobControl& control);

}  // namespace quantfit::optimizer
