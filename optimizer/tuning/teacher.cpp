#include "optimizer/tuning/teacher.h"

#include <tbb/parallel_for.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <utility>

#include "optimizer/parallel/workers.h"

namespace quantfit::tuning {
namespace {

using kernels::MatrixView;

// Rows of logits that are compared at a time: some megabytes of them.
constexpr std::size_t kLogitBytes = 32U << 20;

std::size_t block_rows(std::size_t vocabulary) {
  return std::clamp<std::size_t>(kLogitBytes / (vocabulary * sizeof(float)), 16, 512);
}

double log_sum_of(const kernels::MathKernels& math, const float* logits, std::size_t n) {
  kernels::LogSum sum;
  math.add_to_log_sum(logits, n, sum);
  return math.log_sum(sum);
}

}  // namespace

engine::TokenWindows windows_of(const engine::TokenWindows& all, const WindowList& list) {
  engine::TokenWindows out;
  const std::size_t length = all.lengths.front();
  for (const std::uint32_t window : list) {
    const auto first = all.tokens.begin() + static_cast<std::ptrdiff_t>(window * length);
    out.tokens.insert(out.tokens.end(), first, first + static_cast<std::ptrdiff_t>(length));
    out.lengths.push_back(static_cast<std::uint32_t>(length));
  }
  return out;
}

Result<Teacher> Teacher::run(const engine::Engine& original, const engine::TokenWindows& windows,
                             const engine::RunOptions& options, bool in_memory, ProgressSink& progress,
                             const CancellationToken& cancel) {
  Teacher out;
  out.original_ = &original;
  out.windows_ = &windows;
  out.options_ = options;
  QF_ASSIGN(out.states_, original.run(windows, options, nullptr, progress, cancel));
  if (in_memory || !out.states_.resident()) return out;
  const std::filesystem::path folder =
      options.scratch_folder.empty() ? std::filesystem::temp_directory_path() : options.scratch_folder;
  QF_ASSIGN(engine::HiddenStates file,
            engine::HiddenStates::in_file(folder, out.states_.rows(), out.states_.width()));
  QF_ASSIGN(const auto rows, std::as_const(out.states_).read(0, out.states_.rows(), out.buffer_));
  QF_TRY(file.write(0, rows));
  out.states_ = std::move(file);
  return out;
}

Teacher Teacher::of(const engine::Engine& original, const engine::TokenWindows& windows,
                    const engine::RunOptions& options, engine::HiddenStates states) {
  Teacher out;
  out.original_ = &original;
  out.windows_ = &windows;
  out.options_ = options;
  out.states_ = std::move(states);
  return out;
}

Result<void> Teacher::logits(const WindowList& list, std::uint64_t first, MatrixView<float> out) const {
  const std::size_t length = window_tokens(), width = states_.width();
  rows_.resize(out.rows * width);
  for (std::size_t done = 0; done < out.rows;) {
    const std::uint64_t token = first + done;
    const std::size_t at = token % length, count = std::min(length - at, out.rows - done);
    QF_ASSIGN(const auto rows, states_.read(list[token / length] * length + at, count, buffer_));
    for (std::size_t t = 0; t < count; ++t)
      std::copy_n(rows.row(t), width, rows_.begin() + static_cast<std::ptrdiff_t>((done + t) * width));
    done += count;
  }
  return original_->logits({rows_.data(), out.rows, width, width}, out, options_.threads);
}

Result<std::vector<double>> Teacher::divergences(const engine::Engine& student, const WindowList& list,
                                                 ProgressSink& progress,
                                                 const CancellationToken& cancel) const {
  const engine::TokenWindows windows = windows_of(*windows_, list);
  QF_ASSIGN(const engine::HiddenStates states, student.run(windows, options_, nullptr, progress, cancel));
  QF_ASSIGN(const kernels::MathKernels* math, kernels::default_math_kernels());
  const std::size_t vocabulary = student.graph().vocabulary, length = window_tokens();
  const std::size_t block = block_rows(vocabulary);
  std::vector<float> own(block * vocabulary), base(own.size()), buffer;
  std::vector<double> out(list.size(), 0.0), of_row(block);
  optimizer::Workers workers(options_.threads);
  for (std::size_t first = 0; first < windows.tokens.size(); first += block) {
    if (cancel.cancelled()) return fail(ErrorCode::Interrupted, "interrupted");
    const std::size_t rows = std::min(block, windows.tokens.size() - first);
    QF_ASSIGN(const auto some, states.read(first, rows, buffer));
    QF_TRY(student.logits(some, {own.data(), rows, vocabulary, vocabulary}, options_.threads));
    QF_TRY(logits(list, first, {base.data(), rows, vocabulary, vocabulary}));
    workers.run([&] {
      tbb::parallel_for(std::size_t{0}, rows, [&](std::size_t t) {
        const float* p = base.data() + t * vocabulary;
        const float* q = own.data() + t * vocabulary;
        of_row[t] = math->divergence(p, log_sum_of(*math, p, vocabulary), q, log_sum_of(*math, q, vocabulary),
                                     vocabulary);
      });
    });
    for (std::size_t t = 0; t < rows; ++t) {
      if (!std::isfinite(of_row[t]))
        return fail(ErrorCode::Malformed, "predictions of token {} are not finite", first + t);
      out[(first + t) / length] += of_row[t] / static_cast<double>(length);
    }
  }
  return out;
}

Result<void> DivergenceLoss::gradient(std::uint64_t first_token, MatrixView<const float> logits,
                                      MatrixView<float> gradient) {
  const std::size_t rows = logits.rows, n = logits.columns;
  targets_.resize(rows * n);
  probabilities_.resize(rows * n);
  QF_TRY(teacher_->logits(*list_, first_token, {targets_.data(), rows, n, n}));
  std::vector<double> of_row(rows);
  tbb::parallel_for(std::size_t{0}, rows, [&](std::size_t t) {
    const float* base = targets_.data() + t * n;
    float* p = probabilities_.data() + t * n;
    const double base_sum = log_sum_of(*math_, base, n), own_sum = log_sum_of(*math_, logits.row(t), n);
    of_row[t] = math_->divergence(base, base_sum, logits.row(t), own_sum, n);
    math_->softmax_gradient(base, n, base_sum, n, 1.0F, p);
    math_->softmax_gradient(logits.row(t), n, own_sum, n, 1.0F, gradient.row(t));
    math_->add_scaled(p, -1.0F, n, gradient.row(t));
  });
  for (std::size_t t = 0; t < rows; ++t) {
    if (!std::isfinite(of_row[t]))
      return fail(ErrorCode::Malformed, "predictions of token {} are not finite", first_token + t);
    sum_ += of_row[t];
  }
  return outcome::success();
}

}  // namespace quantfit::tuning
