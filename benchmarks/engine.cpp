// engine: the forward pass by hand. `engine perplexity MODEL TEXT` scores a text as llama-perplexity does;
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

Result<void> perplexity(const Settings& settings) {
  QF_ASSIGN(const Model model, Model::open(settings.model));
  QF_ASSIGN(const engine::Engine engine, engine::Engine::open(model));
  QF_ASSIGN(const Tokenizer tokenizer, Tokenizer::from_metadata(model.metadata(), settings.model));
  std::ifstream in(settings.text, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  QF_ASSIGN(auto tokens, tokens_of_text(tokenizer, text));
  const auto most = settings.windows == 0 ? std::nullopt : std::optional(settings.windows);
  QF_ASSIGN(const TokenWindows windows,
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

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"The forward pass by hand"};
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
  for (CLI::App* one : {score, time}) {
    one->add_option("--window", settings.window);
    one->add_option("--windows", settings.windows);
    one->add_option("--threads", settings.threads);
    one->add_option("--memory-gib", settings.memory_gib);
  }
  CLI11_PARSE(app, argc, argv);
  const Result<void> done = *score ? perplexity(settings) : speed(settings);
  if (!done) fmt::print(stderr, "{}\n", done.error().message);
  return done ? 0 : 1;
}
