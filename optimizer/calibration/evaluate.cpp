#include "optimizer/calibration/evaluate.h"

#include <tbb/parallel_for.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <utility>

#include "kernels/math/math_kernels.h"
#include "optimizer/parallel/workers.h"

namespace quantfit::calibration {
namespace {

// Chunks between two looks at the precision reached.
constexpr std::size_t kChunksOfALook = 32;
// Logits of one model that are in memory at a time, as far as rows are enough to use the machine.
constexpr std::uint64_t kLogitBytes = std::uint64_t{32} << 20;
constexpr std::uint64_t kFewestRows = 8, kMostRows = 256;

std::string file_of(const Model& model) {
  return model.shards()[0].path.filename().string();
}

// The same error with the file in front.
Error named(const Model& model, const Error& error) {
  if (error.code == ErrorCode::Interrupted) return error;
  return fail(error.code, "{}: {}", model.shards()[0].path.string(), error.message);
}

// Says whose run it is.
class NamedProgress final : public ProgressSink {
 public:
  NamedProgress(ProgressSink& sink, std::string name) : sink_(&sink), name_(std::move(name)) {}
  void begin(std::string_view, std::uint64_t total) override { sink_->begin("running " + name_, total); }
  void advance(std::uint64_t done, std::string_view what) override { sink_->advance(done, what); }
  void end() override { sink_->end(); }

 private:
  ProgressSink* sink_;
  std::string name_;
};

class Evaluation {
 public:
  Evaluation(const Text& text, const EvaluateOptions& options, const kernels::MathKernels& math,
             ProgressSink& progress, const CancellationToken& cancel)
      : text_(&text), options_(&options), math_(&math), progress_(&progress), cancel_(&cancel) {}

  Result<void> open(const Model& base, std::span<const Model* const> candidates) {
    models_.push_back(&base);
    for (const Model* candidate : candidates) {
      QF_TRY(check_same_tokens(base, *candidate));
      models_.push_back(candidate);
    }
    for (const Model* model : models_) {
      auto engine = engine::Engine::open(*model, options_->arithmetic);
      if (!engine) return named(*model, engine.error());
      if (engine.value().graph().vocabulary != vocabulary_ && vocabulary_ != 0)
        return fail(ErrorCode::ShapeMismatch, "{} predicts {} tokens, {} {}: they cannot be compared",
                    file_of(*model), engine.value().graph().vocabulary, file_of(base), vocabulary_);
      vocabulary_ = engine.value().graph().vocabulary;
      engines_.push_back(std::move(engine).value());
    }
    scores_.candidates.resize(candidates.size());
    scores_.chunk_positions = text_->windows.scored();
    return outcome::success();
  }

  Result<EvaluationScores> run() {
    const std::size_t all = text_->windows.count();
    const std::size_t step = options_->precision ? kChunksOfALook : all;
    for (std::size_t first = 0; first < all; first += step) {
      QF_TRY(run_chunks(first, std::min(step, all - first)));
      if (precise_enough()) break;
    }
    return std::move(scores_);
  }

 private:
  Result<void> run_chunks(std::size_t first, std::size_t count) {
    std::vector<engine::HiddenStates> kept;
    for (std::size_t m = 0; m < models_.size(); ++m) {
      auto states = states_of(m, first, count);
      if (!states) return named(*models_[m], states.error());
      kept.push_back(std::move(states).value());
    }
    QF_TRY(score(first, count, kept));
    scores_.chunks += count;
    return outcome::success();
  }

  // What of the memory limit the states of all models may take together: beyond it they are on disk.
  [[nodiscard]] std::uint64_t limit_of_states() const {
    const std::uint64_t limit = options_->run.memory_limit;
    return limit == 0 ? std::numeric_limits<std::uint64_t>::max() : limit / 4;
  }

  Result<engine::HiddenStates> states_of(std::size_t m, std::size_t first, std::size_t count) {
    const TokenWindows& windows = text_->windows;
    const std::size_t width = engines_[m].graph().width;
    const std::size_t rows = count * windows.scored();
    engine::RunOptions run = options_->run;
    if (run.memory_limit != 0) run.memory_limit -= limit_of_states();
    NamedProgress progress(*progress_, file_of(*models_[m]));
    QF_ASSIGN(const engine::HiddenStates all,
              engines_[m].run(text_->inputs(first, count), run, nullptr, progress, *cancel_));
    const bool in_memory = std::uint64_t{rows} * width * sizeof(float) <= limit_of_states() / models_.size();
    QF_ASSIGN(engine::HiddenStates kept,
              in_memory ? engine::HiddenStates::in_memory(rows, width)
                        : engine::HiddenStates::in_file(run.scratch_folder.empty()
                                                            ? std::filesystem::temp_directory_path()
                                                            : run.scratch_folder,
                                                        rows, width));
    std::vector<float> from, to;
    for (std::size_t i = 0; i < count; ++i) {
      QF_ASSIGN(const auto source,
                all.read(i * windows.window_tokens() + windows.first_scored(), windows.scored(), from));
      QF_ASSIGN(const auto target, kept.read_mutable(i * windows.scored(), windows.scored(), to));
      for (std::size_t t = 0; t < source.rows; ++t) std::copy_n(source.row(t), width, target.row(t));
      QF_TRY(kept.write(i * windows.scored(), {target.data, target.rows, target.columns, target.stride}));
    }
    return kept;
  }

  // Of one row of logits.
  struct RowSummary {
    double log_sum = 0;
    std::size_t top = 0;
  };

  [[nodiscard]] RowSummary summary_of(const float* logits) const {
    kernels::LogSum sum;
    math_->add_to_log_sum(logits, vocabulary_, sum);
    return {math_->log_sum(sum), math_->argmax(logits, vocabulary_)};
  }

  Result<void> score(std::size_t first_chunk, std::size_t chunks,
                     std::span<const engine::HiddenStates> kept) {
    const TokenWindows& windows = text_->windows;
    const std::size_t rows = chunks * windows.scored();
    const std::size_t block = static_cast<std::size_t>(
        std::clamp(kLogitBytes / (std::uint64_t{vocabulary_} * sizeof(float)), kFewestRows, kMostRows));
    optimizer::Workers workers(options_->run.threads);
    std::vector<float> base_logits, logits, buffer;
    try {
      base_logits.resize(block * vocabulary_);
      logits.resize(kept.size() > 1 ? block * vocabulary_ : 0);
    } catch (const std::bad_alloc&) {
      return fail(ErrorCode::NoSpace, "out of memory for {} rows of {} logits", block, vocabulary_);
    }
    std::vector<RowSummary> summaries(block);
    progress_->begin("comparing predictions", std::uint64_t{rows} * kept.size());
    for (std::size_t first = 0; first < rows; first += block) {
      const std::size_t count = std::min(block, rows - first);
      const auto target = [&](std::size_t t) {
        const std::size_t chunk = (first + t) / windows.scored(), position = (first + t) % windows.scored();
        return static_cast<std::size_t>(
            windows.text(first_chunk + chunk)[windows.first_scored() + position + 1]);
      };
      const auto each_row = [&](const auto& function) {
        workers.run([&] { tbb::parallel_for(std::size_t{0}, count, function); });
      };
      for (std::size_t m = 0; m < kept.size(); ++m) {
        if (cancel_->cancelled()) return fail(ErrorCode::Interrupted, "interrupted");
        float* out = m == 0 ? base_logits.data() : logits.data();
        QF_ASSIGN(const auto states, kept[m].read(first, count, buffer));
        QF_TRY(engines_[m].logits(states, {out, count, vocabulary_, vocabulary_}, options_->run.threads));
        const auto row = [&](const float* data, std::size_t t) { return data + t * vocabulary_; };
        std::vector<double> sums(count);
        if (m == 0) {
          scores_.base.resize(scores_.base.size() + count);
          BaseScore* scores = &scores_.base[scores_.base.size() - count];
          each_row([&](std::size_t t) {
            summaries[t] = summary_of(row(out, t));
            sums[t] = summaries[t].log_sum;
            scores[t].log_loss = summaries[t].log_sum - row(out, t)[target(t)];
          });
        } else {
          std::vector<CandidateScore>& own = scores_.candidates[m - 1];
          own.resize(own.size() + count);
          CandidateScore* scores = &own[own.size() - count];
          each_row([&](std::size_t t) {
            const RowSummary summary = summary_of(row(out, t));
            sums[t] = summary.log_sum;
            const float* base = row(base_logits.data(), t);
            scores[t].log_loss = summary.log_sum - row(out, t)[target(t)];
            scores[t].divergence =
                math_->divergence(base, summaries[t].log_sum, row(out, t), summary.log_sum, vocabulary_);
            scores[t].probability_difference =
                std::exp(-scores[t].log_loss) - std::exp(base[target(t)] - summaries[t].log_sum);
            scores[t].same_top = summary.top == summaries[t].top;
          });
        }
        if (!std::ranges::all_of(sums, [](double sum) { return std::isfinite(sum); }))
          return fail(ErrorCode::Malformed,
                      "{}: predictions that are no numbers; the model's weights are damaged or too large",
                      models_[m]->shards()[0].path.string());
        progress_->advance(count, file_of(*models_[m]));
      }
    }
    progress_->end();
    return outcome::success();
  }

  [[nodiscard]] bool precise_enough() const {
    if (!options_->precision || scores_.candidates.empty()) return false;
    return std::ranges::all_of(scores_.candidates, [&](const std::vector<CandidateScore>& own) {
      const DivergenceFigures figures = divergence_figures(scores_.base, own, scores_.chunk_positions);
      return figures.divergence_chunk_error <= *options_->precision * figures.divergence.value;
    });
  }

  const Text* text_;
  const EvaluateOptions* options_;
  const kernels::MathKernels* math_;
  ProgressSink* progress_;
  const CancellationToken* cancel_;
  std::vector<const Model*> models_;  // the base, then the candidates
  std::vector<engine::Engine> engines_;
  std::uint32_t vocabulary_ = 0;
  EvaluationScores scores_;
};

}  // namespace

Result<EvaluationScores> evaluate(const Model& base, std::span<const Model* const> candidates,
                                  const Text& text, const EvaluateOptions& options, ProgressSink& progress,
                                  const CancellationToken& cancel) {
  QF_ASSIGN(const kernels::MathKernels* math, kernels::default_math_kernels());
  Evaluation evaluation(text, options, *math, progress, cancel);
  QF_TRY(evaluation.open(base, candidates));
  return evaluation.run();
}

Result<engine::RunPlan> plan_evaluation(const Model& model, const Text& text,
                                        const EvaluateOptions& options) {
  auto engine = engine::Engine::open(model);
  if (!engine) return named(model, engine.error());
  auto plan = engine.value().plan(text.inputs(), options.run);
  if (!plan) return named(model, plan.error());
  return std::move(plan).value();
}

}  // namespace quantfit::calibration
