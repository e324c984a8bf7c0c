// What the original model predicts on the text of a tuning, and how far a student is from it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/error.h"
#include "core/progress.h"
#include "kernels/math/math_kernels.h"
#include "optimizer/engine/backward.h"
#include "optimizer/engine/forward.h"

namespace quantfit::tuning {

// Windows of a text by their numbers: all have the same length.
using WindowList = std::vector<std::uint32_t>;

// Those windows of `all`, one after another.
[[nodiscard]] engine::TokenWindows windows_of(const engine::TokenWindows& all, const WindowList& list);

// Keeps the original's final states of all tokens, width numbers each in memory or in a scratch file, and
// makes logits of them as they are asked for: the targets are exact, at the cost of one product with the
// output matrix per use.
class Teacher {
 public:
  // Runs `windows`, which are of equal length, through the original. Both must outlive the object.
  // `in_memory`: whether the states may stay there, outside the limit of `options`. Errors of Engine::run.
  [[nodiscard]] static Result<Teacher> run(const engine::Engine& original,
                                           const engine::TokenWindows& windows,
                                           const engine::RunOptions& options, bool in_memory,
                                           ProgressSink& progress, const CancellationToken& cancel);

  // The same from final states that there are already.
  [[nodiscard]] static Teacher of(const engine::Engine& original, const engine::TokenWindows& windows,
                                  const engine::RunOptions& options, engine::HiddenStates states);

  [[nodiscard]] const Model& original() const { return original_->model(); }
  [[nodiscard]] const engine::TokenWindows& windows() const { return *windows_; }
  [[nodiscard]] std::size_t window_tokens() const { return windows_->lengths.front(); }

  // Logits of tokens first .. first + out.rows - 1 of the text that windows_of(windows(), list) is.
  [[nodiscard]] Result<void> logits(const WindowList& list, std::uint64_t first,
                                    kernels::MatrixView<float> out) const;

  // KL divergence of `student`'s predictions from the original's in nats per token, the mean over all
  // positions of each window of `list`. Errors of Engine::run; Malformed when a logit is not finite.
  [[nodiscard]] Result<std::vector<double>> divergences(const engine::Engine& student, const WindowList& list,
                                                        ProgressSink& progress,
                                                        const CancellationToken& cancel) const;

 private:
  Teacher() = default;
  const engine::Engine* original_ = nullptr;
  const engine::TokenWindows* windows_ = nullptr;
  engine::RunOptions options_;
  engine::HiddenStates states_;
  mutable std::vector<float> rows_, buffer_;
};

// The KL divergence from the teacher's predictions as the loss of a backward pass over windows_of(.., list):
// the gradient at logits z is softmax(z) - p.
class DivergenceLoss final : public engine::LogitLoss {
 public:
  DivergenceLoss(const kernels::MathKernels& math, const Teacher& teacher, const WindowList& list)
      : math_(&math), teacher_(&teacher), list_(&list) {}

  Result<void> gradient(std::uint64_t first_token, kernels::MatrixView<const float> logits,
                        kernels::MatrixView<float> gradient) override;
  // Of all tokens so far, nats.
  [[nodiscard]] double sum() const { return sum_; }

 private:
  const kernels::MathKernels* math_;
  const Teacher* teacher_;
  const WindowList* list_;
  std::vector<float> targets_, probabilities_;
  double sum_ = 0;
};

}  // namespace quantfit::tuning
