// engine: forward and backward passes by hand. `engine perplexity MODEL TEXT` scores a text as
// llama-perplexity does; `engine backward MODEL` (or `--weights 1e9`) times gradients in multiples of a
// forward pass; `engine convergence MODEL TEXT` shows how sensitivities settle with the number of tokens;
// `engine speed MODEL` (or `--weights 1e9`) times a pass over random tokens, beside llama.cpp's prompt
// processing of the same file with the same number of threads where its libraries are installed. CPU time is
// what a busy machine can compare.
#include <fmt/format.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "benchmarks/generated_model.h"
#include "core/model.h"
#include "core/tokenizer/token_windows.h"
#include "core/tokenizer/tokenizer.h"
#include "optimizer/calibration/sensitivity.h"
#include "optimizer/engine/backward.h"
#include "optimizer/engine/forward.h"
#include "tests/client/llama_library.h"

namespace {

using namespace quantfit;

struct Settings {
  std::string model;
  std::string text;
  std::uint32_t window = 256;
  std::size_t windows = 0;
  std::size_t tokens = 2048;
  unsigned threads = 2;
  double memory_gib = 0;
  int rounds = 2;
  bool client = true;
  bool plan_only = false;
  double weights = 0;
  std::string folder = "build/engine";
  bool sparse = false;
};

struct Times {
  double wall = 0, cpu = 0;
};

Times now() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](timeval t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  const auto wall = std::chrono::steady_clock::now().time_since_epoch();
  return {std::chrono::duration<double>(wall).count(), seconds(usage.ru_utime) + seconds(usage.ru_stime)};
}

// Anonymous memory of this process, bytes: what it allocated, without the mapped model.
double anonymous_memory() {
  std::ifstream status("/proc/self/status");
  std::string word;
  double anonymous = 0;
  while (status >> word)
    if (word == "RssAnon:") status >> anonymous;
  return anonymous * 1024;
}

// Looks at the end of each layer, when everything that a run needs is in use.
class PeakMemory final : public engine::ForwardObserver {
 public:
  Result<void> end_layer(std::uint32_t) override {
    most_ = std::max(most_, anonymous_memory());
    return outcome::success();
  }
  [[nodiscard]] double bytes() const { return most_ - before_; }

 private:
  double before_ = anonymous_memory();
  double most_ = 0;
};

engine::RunOptions options_of(const Settings& settings) {
  engine::RunOptions options;
  options.threads = settings.threads;
  options.memory_limit = static_cast<std::uint64_t>(settings.memory_gib * (1 << 30));
  return options;
}

// The beginning of a text as windows, and where its scored positions are.
struct TextWindows {
  TokenWindows windows;
  engine::TokenWindows sequences;
};
Result<TextWindows> windows_of(const Settings& settings, const Model& model) {
  QF_ASSIGN(const Tokenizer tokenizer, Tokenizer::from_metadata(model.metadata(), settings.model));
  std::ifstream in(settings.text, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  QF_ASSIGN(auto tokens, tokens_of_text(tokenizer, text));
  const auto most = settings.windows == 0 ? std::nullopt : std::optional(settings.windows);
  QF_ASSIGN(TokenWindows windows,
            TokenWindows::cut(std::move(tokens), settings.window, tokenizer.beginning_token(), 0, most));
  engine::TokenWindows sequences;
  sequences.tokens.resize(windows.count() * settings.window);
  sequences.lengths.assign(windows.count(), settings.window);
  std::vector<TokenId> window(settings.window);
  for (std::size_t i = 0; i < windows.count(); ++i) {
    windows.inputs(i, window);
    std::copy(window.begin(), window.end(),
              sequences.tokens.begin() + static_cast<std::ptrdiff_t>(i * settings.window));
  }
  return TextWindows{std::move(windows), std::move(sequences)};
}

Result<void> perplexity(const Settings& settings) {
  QF_ASSIGN(const Model model, Model::open(settings.model));
  QF_ASSIGN(const engine::Engine engine, engine::Engine::open(model));
  QF_ASSIGN(const TextWindows text, windows_of(settings, model));
  const TokenWindows& windows = text.windows;
  const engine::TokenWindows& sequences = text.sequences;
  const Times start = now();
  NoProgress progress;
  const CancellationToken cancel;
  QF_ASSIGN(const engine::HiddenStates states,
            engine.run(sequences, options_of(settings), nullptr, progress, cancel));
  const std::size_t vocabulary = engine.graph().vocabulary;
  const std::size_t scored = windows.scored();
  std::vector<float> logits(scored * vocabulary), buffer;
  double sum = 0;
  for (std::size_t i = 0; i < windows.count(); ++i) {
    const std::size_t first = i * settings.window + windows.first_scored();
    QF_ASSIGN(const auto rows, states.read(first, scored, buffer));
    QF_TRY(engine.logits(rows, {logits.data(), scored, vocabulary, vocabulary}, settings.threads));
    for (std::size_t j = 0; j < scored; ++j) {
      const float* z = logits.data() + j * vocabulary;
      double top = z[0], total = 0;
      for (std::size_t v = 0; v < vocabulary; ++v) top = std::max<double>(top, z[v]);
      for (std::size_t v = 0; v < vocabulary; ++v) total += std::exp(z[v] - top);
      const auto target = static_cast<std::size_t>(windows.text(i)[windows.first_scored() + j + 1]);
      sum -= z[target] - top - std::log(total);
    }
  }
  const Times end = now();
  const double count = static_cast<double>(windows.count() * scored);
  fmt::print("{} windows of {}: perplexity {:.4f} (wall {:.1f} s, CPU {:.1f} s)\n", windows.count(),
             settings.window, std::exp(sum / count), end.wall - start.wall, end.cpu - start.cpu);
  return outcome::success();
}

Result<void> speed(Settings settings) {
  if (settings.weights > 0) {
    QF_ASSIGN(const bench::GeneratedModel generated,
              bench::generate_model(settings.folder, static_cast<std::uint64_t>(settings.weights),
                                    settings.sparse));
    settings.model = generated.model;
  }
  QF_ASSIGN(const Model model, Model::open(settings.model));
  QF_ASSIGN(const engine::Engine engine, engine::Engine::open(model));
  std::mt19937 random(1);
  std::vector<std::int32_t> tokens(settings.tokens);
  for (std::int32_t& token : tokens) token = static_cast<std::int32_t>(random() % engine.graph().vocabulary);
  const auto sequences = engine::TokenWindows::of_length(tokens, settings.window);
  QF_ASSIGN(const engine::RunPlan plan, engine.plan(sequences, options_of(settings)));
  fmt::print("{}", plan.describe());
  if (settings.plan_only) return outcome::success();
  std::optional<test::LlamaModel> client;
  if (settings.client) {
    auto opened = test::LlamaModel::open(settings.model, settings.window, static_cast<int>(settings.threads));
    if (opened)
      client = std::move(opened).value();
    else
      fmt::print("without llama.cpp: {}\n", opened.error().message);
  }
  const double run_tokens = static_cast<double>(sequences.tokens.size());
  double best = 1e300, best_client = 1e300;
  for (int round = 0; round < settings.rounds; ++round) {
    NoProgress progress;
    const CancellationToken cancel;
    PeakMemory peak;
    const Times start = now();
    QF_ASSIGN(const engine::HiddenStates states,
              engine.run(sequences, options_of(settings), &peak, progress, cancel));
    // llama.cpp computes the last position's logits at least; so do we.
    std::vector<float> buffer, logits(engine.graph().vocabulary);
    for (std::size_t i = settings.window - 1; i < states.rows(); i += settings.window) {
      QF_ASSIGN(const auto row, states.read(i, 1, buffer));
      QF_TRY(engine.logits(row, {logits.data(), 1, logits.size(), logits.size()}, settings.threads));
    }
    const Times end = now();
    best = std::min(best, end.cpu - start.cpu);
    fmt::print(
        "ours:      {:8.1f} tokens/s wall, {:8.1f} per CPU second, {:.1f} G multiply-adds per CPU second; "
        "memory {:.0f} MiB, foreseen {:.0f}\n",
        run_tokens / (end.wall - start.wall), run_tokens / (end.cpu - start.cpu),
        1e-9 * plan.multiply_adds / (end.cpu - start.cpu), peak.bytes() / (1 << 20),
        static_cast<double>(plan.memory_bytes) / (1 << 20));
    if (!client) continue;
    const Times before = now();
    std::size_t at = 0;
    for (const std::uint32_t length : sequences.lengths) {
      QF_TRY(client->decode(std::span(sequences.tokens).subspan(at, length), length - 1));
      at += length;
    }
    const Times after = now();
    best_client = std::min(best_client, after.cpu - before.cpu);
    fmt::print("llama.cpp: {:8.1f} tokens/s wall, {:8.1f} per CPU second\n",
               run_tokens / (after.wall - before.wall), run_tokens / (after.cpu - before.cpu));
  }
  if (client)
    fmt::print("ours over llama.cpp, CPU time, best of {}: {:.2f}\n", settings.rounds, best_client / best);
  return outcome::success();
}

// Peak while gradients are computed, too.
class PeakMemoryBackward final : public engine::BackwardObserver {
 public:
  explicit PeakMemoryBackward(PeakMemory& peak) : peak_(&peak) {}
  Result<void> end_layer(std::uint32_t layer) override { return peak_->end_layer(layer); }

 private:
  PeakMemory* peak_;
};

// Seconds of what `work` does, the least of some rounds; an error ends the program's run.
template <class Work>
Result<Times> time_of(int rounds, const Work& work) {
  Times best{1e300, 1e300};
  for (int round = 0; round < rounds; ++round) {
    const Times start = now();
    QF_TRY(work());
    const Times end = now();
    best.wall = std::min(best.wall, end.wall - start.wall);
    best.cpu = std::min(best.cpu, end.cpu - start.cpu);
  }
  return best;
}

Result<void> backward(Settings settings) {
  if (settings.weights > 0) {
    QF_ASSIGN(const bench::GeneratedModel generated,
              bench::generate_model(settings.folder, static_cast<std::uint64_t>(settings.weights),
                                    settings.sparse));
    settings.model = generated.model;
  }
  QF_ASSIGN(const Model model, Model::open(settings.model));
  QF_ASSIGN(const engine::Engine engine, engine::Engine::open(model));
  std::mt19937 random(1);
  std::vector<std::int32_t> tokens(settings.tokens);
  for (std::int32_t& token : tokens) token = static_cast<std::int32_t>(random() % engine.graph().vocabulary);
  const auto sequences = engine::TokenWindows::of_length(tokens, settings.window);
  const engine::BackwardPass pass(engine);
  const engine::BackwardOptions options{.run = options_of(settings)};
  QF_ASSIGN(const engine::BackwardPlan plan, pass.plan(sequences, options));
  fmt::print("{}", plan.describe());
  if (settings.plan_only) return outcome::success();
  NoProgress progress;
  const CancellationToken cancel;
  // Logits of all tokens belong to a forward pass here: the loss needs them.
  constexpr std::size_t kRows = 256;
  std::vector<float> logits(kRows * engine.graph().vocabulary), buffer;
  const auto forward = [&]() -> Result<void> {
    QF_ASSIGN(const engine::HiddenStates states,
              engine.run(sequences, options.run, nullptr, progress, cancel));
    for (std::size_t first = 0; first < states.rows(); first += kRows) {
      const std::size_t rows = std::min(kRows, states.rows() - first);
      QF_ASSIGN(const auto some, states.read(first, rows, buffer));
      QF_TRY(engine.logits(some, {logits.data(), rows, engine.graph().vocabulary, engine.graph().vocabulary},
                           settings.threads));
    }
    return outcome::success();
  };
  std::optional<PeakMemory> peak;
  const auto gradients = [&] {
    if (!peak) peak.emplace();
    PeakMemoryBackward observer(*peak);
    return pass.run(sequences, options, nullptr, observer, progress, cancel);
  };
  const auto sensitivities = [&]() -> Result<void> {
    QF_ASSIGN(const calibration::SensitivityReport report,
              calibration::collect_sensitivity(engine, sequences, {.run = options.run}, progress, cancel));
    return report.statistics.matrices.empty() ? Result<void>(fail(ErrorCode::Internal, "nothing came"))
                                              : Result<void>(outcome::success());
  };
  QF_ASSIGN(const Times forward_time, time_of(settings.rounds, forward));
  QF_ASSIGN(const Times gradient_time, time_of(settings.rounds, gradients));
  QF_ASSIGN(const Times sensitivity_time, time_of(settings.rounds, sensitivities));
  const auto print = [&](const char* name, const Times& one) {
    fmt::print("{:14} wall {:8.2f} s, CPU {:8.2f} s; {:.2f} and {:.2f} forward passes\n", name, one.wall,
               one.cpu, one.wall / forward_time.wall, one.cpu / forward_time.cpu);
  };
  print("forward", forward_time);
  print("gradients", gradient_time);
  print("sensitivities", sensitivity_time);
  fmt::print(
      "{} threads, {} tokens; {:.1f} G multiply-adds per CPU second forward, {:.1f} for gradients; memory "
      "{:.0f} MiB, foreseen {:.0f}\n",
      settings.threads, sequences.tokens.size(), 1e-9 * plan.forward_multiply_adds / forward_time.cpu,
      1e-9 * plan.multiply_adds / gradient_time.cpu, peak->bytes() / (1 << 20),
      static_cast<double>(plan.memory_bytes) / (1 << 20));
  return outcome::success();
}

// Sensitivities F of all tensors from the first 1, 2, 4 ... windows of a text, beside those from all of them.
Result<void> convergence(const Settings& settings) {
  QF_ASSIGN(const Model model, Model::open(settings.model));
  QF_ASSIGN(const engine::Engine engine, engine::Engine::open(model));
  QF_ASSIGN(const TextWindows text, windows_of(settings, model));
  const auto figures = [&](std::size_t windows, std::uint32_t seed) -> Result<std::vector<double>> {
    engine::TokenWindows some;
    some.lengths.assign(windows, settings.window);
    some.tokens.assign(
        text.sequences.tokens.begin(),
        text.sequences.tokens.begin() + static_cast<std::ptrdiff_t>(windows * settings.window));
    NoProgress progress;
    const CancellationToken cancel;
    QF_ASSIGN(const calibration::SensitivityReport report,
              calibration::collect_sensitivity(engine, some, {.run = options_of(settings), .seed = seed},
                                               progress, cancel));
    std::vector<double> out;
    for (const auto& [name, one] : report.statistics.matrices)
      out.push_back(mean_of_windows(one.nats_by_window, report.statistics.window_tokens).value);
    for (const auto& [name, one] : report.statistics.tables)
      out.push_back(mean_of_windows(one.nats_by_window, report.statistics.window_tokens).value);
    return out;
  };
  const std::size_t all = text.windows.count();
  QF_ASSIGN(const std::vector<double> reference, figures(all, 1));
  fmt::print("{} tokens in windows of {}, {} tensors\n", all * settings.window, settings.window,
             reference.size());
  fmt::print("{:>8}  {:>22}  {:>10}\n", "tokens", "spread of ln F", "mean ln F");
  for (std::size_t windows = 1; windows < all; windows *= 2) {
    // Other labels than the reference's, whose windows are among these.
    QF_ASSIGN(const std::vector<double> some, figures(windows, 2));
    double sum = 0, squares = 0;
    for (std::size_t i = 0; i < some.size(); ++i) {
      const double off = std::log(some[i] / reference[i]);
      sum += off;
      squares += off * off;
    }
    const auto count = static_cast<double>(some.size());
    fmt::print("{:>8}  {:>22.3f}  {:>10.3f}\n", windows * settings.window,
               std::sqrt(std::max(0.0, squares / count - sum * sum / count / count)), sum / count);
  }
  return outcome::success();
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Forward and backward passes by hand"};
  Settings settings;
  app.require_subcommand(1);
  CLI::App* score = app.add_subcommand("perplexity", "score a text as llama-perplexity does");
  score->add_option("model", settings.model)->required();
  score->add_option("text", settings.text)->required();
  CLI::App* time = app.add_subcommand("speed", "time a pass over random tokens");
  auto* file = time->add_option("model", settings.model);
  auto* weights = time->add_option("--weights", settings.weights, "generate a model of that many weights");
  file->excludes(weights);
  time->add_option("--folder", settings.folder, "where it goes");
  time->add_flag("--sparse", settings.sparse, "most of it a hole in the file");
  time->add_option("--tokens", settings.tokens);
  time->add_option("--rounds", settings.rounds);
  time->add_flag("!--no-client", settings.client);
  time->add_flag("--plan-only", settings.plan_only);
  CLI::App* gradients = app.add_subcommand("backward", "time gradients over random tokens");
  auto* gradient_file = gradients->add_option("model", settings.model);
  gradient_file->excludes(
      gradients->add_option("--weights", settings.weights, "generate a model of that many weights"));
  gradients->add_option("--folder", settings.folder, "where it goes");
  gradients->add_flag("--sparse", settings.sparse, "most of it a hole in the file");
  gradients->add_option("--tokens", settings.tokens);
  gradients->add_option("--rounds", settings.rounds);
  gradients->add_flag("--plan-only", settings.plan_only);
  CLI::App* settle = app.add_subcommand("convergence", "sensitivities from more and more tokens");
  settle->add_option("model", settings.model)->required();
  settle->add_option("text", settings.text)->required();
  for (CLI::App* one : {score, time, gradients, settle}) {
    one->add_option("--window", settings.window);
    one->add_option("--windows", settings.windows);
    one->add_option("--threads", settings.threads);
    one->add_option("--memory-gib", settings.memory_gib);
  }
  CLI11_PARSE(app, argc, argv);
  const Result<void> done = *score       ? perplexity(settings)
                            : *gradients ? backward(settings)
                            : *settle    ? convergence(settings)
                                         : speed(settings);
  if (!done) fmt::print(stderr, "{}\n", done.error().message);
  return done ? 0 : 1;
}
