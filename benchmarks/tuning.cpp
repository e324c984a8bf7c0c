// tuning: what a tuning gains, near the text it was tuned on and far from it.
//
//   tuning BASE.gguf FILE.gguf --text TUNE.txt --near A.txt --far B.txt --level codes --seed 2
//
// tunes the file and prints one JSON object: for each text the divergences before and after, their ratio with
// its standard error over chunks (paired), and the processor's time of a step over that of a forward pass of
// the original over the same tokens. tuning_table runs it for many files.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/model.h"
#include "optimizer/calibration/evaluate.h"
#include "optimizer/tuning/tune.h"
#include "optimizer/tuning/tuned_file.h"

namespace {

using namespace quantfit;

struct Settings {
  std::string original, quantized, text, near, far, level = "scales";
  std::uint32_t context = 256, chunks = 0, skip = 0, judged = 60, judged_skip = 0;
  bool moments_in_bytes = false, by_layers = false, both = false, by_chunk = false;
  tuning::TuneOptions tune;
};

double processor_seconds() {
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}

Result<calibration::Text> read(const Model& model, const std::string& path, std::uint32_t context,
                               std::uint32_t skip, std::uint32_t most) {
  calibration::TextRequest request;
  request.texts = {path};
  request.context = context;
  request.skip = skip;
  if (most != 0) request.most = most;
  return calibration::read_text(model, request);
}

// Ratio of sums over chunks with its standard error; `by_chunk`: and the means of every chunk afterwards.
Result<nlohmann::ordered_json> judge(const Model& original, const Model& before, const Model& after,
                                     const calibration::Text& text, unsigned threads, bool by_chunk) {
  NoProgress progress;
  const CancellationToken cancel;
  const Model* models[] = {&before, &after};
  calibration::EvaluateOptions options;
  options.run.threads = threads;
  QF_ASSIGN(const calibration::EvaluationScores scores,
            calibration::evaluate(original, models, text, options, progress, cancel));
  const auto chunks = static_cast<std::size_t>(scores.chunks);
  std::vector<double> sums[2];
  double all[2] = {0, 0};
  for (const int m : {0, 1}) {
    sums[m].assign(chunks, 0.0);
    for (std::size_t i = 0; i < chunks * scores.chunk_positions; ++i)
      sums[m][i / scores.chunk_positions] += scores.candidates[static_cast<std::size_t>(m)][i].divergence;
    for (const double one : sums[m]) all[m] += one;
  }
  const double ratio = all[1] / all[0], n = static_cast<double>(chunks);
  double squares = 0;
  for (std::size_t c = 0; c < chunks; ++c) squares += std::pow(sums[1][c] - ratio * sums[0][c], 2);
  const auto of_chunk = static_cast<double>(scores.chunk_positions);
  nlohmann::ordered_json out = {{"before", all[0] / (n * of_chunk)},
                                {"after", all[1] / (n * of_chunk)},
                                {"ratio", ratio},
                                {"error", std::sqrt(squares * n / (n - 1)) / all[0]}};
  if (by_chunk)
    for (const double sum : sums[1]) out["chunks"].push_back(sum / of_chunk);
  return out;
}

Result<void> run(const Settings& settings) {
  QF_ASSIGN(const Model original, Model::open(settings.original));
  QF_ASSIGN(const Model quantized, Model::open(settings.quantized));
  QF_ASSIGN(const calibration::Text text,
            read(original, settings.text, settings.context, settings.skip, settings.chunks));
  tuning::TuneOptions options = settings.tune;
  options.level = tuning::parse_level(settings.level);
  if (settings.moments_in_bytes) options.moments = tuning::MomentForm::Bytes;
  if (settings.by_layers) options.form = tuning::TuneForm::Layers;
  if (settings.both) options.form = tuning::TuneForm::Both;
  NoProgress progress;
  const CancellationToken cancel;
  QF_ASSIGN(const tuning::TunePlan plan, tuning::plan_tuning(original, quantized, text, options));
  double begun = processor_seconds();
  QF_ASSIGN(const tuning::TuneResult result,
            tuning::tune(original, quantized, text, options, progress, cancel));
  const double seconds = processor_seconds() - begun;
  begun = processor_seconds();
  {
    QF_ASSIGN(const engine::Engine engine, engine::Engine::open(original));
    QF_TRY(engine.run(text.spread(std::min<std::size_t>(text.windows.count(), 16)), options.run, nullptr,
                      progress, cancel));
  }
  const double forward =
      (processor_seconds() - begun) /
      static_cast<double>(std::min<std::size_t>(text.windows.count(), 16) * settings.context);
  const tuning::Attempt& attempt = result.attempts.back();
  nlohmann::ordered_json out = {{"level", settings.level},
                                {"kept", attempt.kept},
                                {"tokens", result.training_tokens},
                                {"rates", attempt.rates},
                                {"steps", attempt.steps},
                                {"best_step", attempt.best_step},
                                {"held_back", attempt.gain.ratio()},
                                {"codes_moved", attempt.codes_moved},
                                {"seconds", seconds},
                                {"forward_seconds_per_token", forward},
                                {"memory", plan.memory_bytes},
                                {"moments", tuning::to_string(attempt.moments)}};
  const auto path =
      std::filesystem::temp_directory_path() / fmt::format("quantfit-tuning-{}.gguf", ::getpid());
  QF_TRY(tuning::write_tuned(quantized, result.replaced(), {}, {}, path, Existing::Replace));
  Result<void> judged = [&]() -> Result<void> {
    QF_ASSIGN(const Model after, Model::open(path));
    for (const auto& [name, file] : {std::pair("near", settings.near), std::pair("far", settings.far)}) {
      if (file.empty()) continue;
      QF_ASSIGN(const calibration::Text other,
                read(original, file, settings.context, settings.judged_skip, settings.judged));
      QF_ASSIGN(out[name], judge(original, quantized, after, other, options.run.threads, settings.by_chunk));
    }
    return outcome::success();
  }();
  std::error_code ignored;
  std::filesystem::remove(path, ignored);
  QF_TRY(judged);
  fmt::print("{}\n", out.dump());
  return outcome::success();
}

}  // namespace

int main(int argc, char** argv) {
  Settings s;
  CLI::App app("What a tuning gains, near the text it was tuned on and far from it");
  app.add_option("original", s.original)->required();
  app.add_option("quantized", s.quantized)->required();
  app.add_option("--text", s.text)->required();
  app.add_option("--near", s.near);
  app.add_option("--far", s.far);
  app.add_option("--level", s.level);
  app.add_option("--context", s.context);
  app.add_option("--chunks", s.chunks);
  app.add_option("--skip-chunks", s.skip);
  app.add_option("--judged", s.judged, "chunks of --near and --far");
  app.add_option("--judged-skip", s.judged_skip, "chunks of them that come before");
  app.add_flag("--by-chunk", s.by_chunk, "divergence of every chunk judged, to compare runs in pairs");
  app.add_option("--steps", s.tune.steps);
  app.add_option("--step-tokens", s.tune.step_tokens);
  app.add_option("--seed", s.tune.seed);
  app.add_flag("--by-layers", s.by_layers, "one layer at a time");
  app.add_flag("--both", s.both, "so first, and then whole");
  app.add_flag("--moments-in-bytes", s.moments_in_bytes);
  app.add_option("--value-rate", s.tune.value_rate);
  app.add_option("--scale-rate", s.tune.scale_rate);
  app.add_option("--code-rate", s.tune.code_rate);
  app.add_option("--spread", s.tune.spread);
  s.tune.run.threads = 1;
  app.add_option("--threads", s.tune.run.threads);
  CLI11_PARSE(app, argc, argv);
  if (const auto done = run(s); !done) {
    fmt::print(stderr, "error: {}\n", done.error().message);
    return 1;
  }
  return 0;
}
