#include "optimizer/calibration/sensitivity.h"
#include "optimizer/planning/fisher_sensitivity.h"
#include "optimizer/planning/foresight.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <random>

#include "core/fingerprint.h"
#include "core/gguf_writer.h"
#include "kernels/row_kernels.h"
#include "tests/optimizer/calibration/naive_qwen3.h"
#include "tests/optimizer/calibration/trained_text.h"

namespace quantfit::test {
namespace {

using calibration::collect_sensitivity;
using calibration::plan_sensitivity;
using calibration::SensitivityOptions;
using calibration::SensitivityReport;

// Windows of unequal lengths from the example text.
engine::TokenWindows some_windows(std::vector<std::uint32_t> lengths) {
  const engine::TokenWindows all = trained_text(6).inputs();
  engine::TokenWindows out;
  out.lengths = std::move(lengths);
  std::size_t tokens = 0;
  for (const std::uint32_t length : out.lengths) tokens += length;
  out.tokens.assign(all.tokens.begin(), all.tokens.begin() + static_cast<std::ptrdiff_t>(tokens));
  return out;
}

SensitivityReport collect(const Model& model, const engine::TokenWindows& windows,
                          const SensitivityOptions& options = {}) {
  const auto engine = engine::Engine::open(model).value();
  NoProgress progress;
  const CancellationToken cancel;
  auto report = collect_sensitivity(engine, windows, options, progress, cancel);
  EXPECT_TRUE(report) << report.error().message;
  return std::move(report).value();
}

double error_of_ratio(const std::vector<double>& sums, const std::vector<std::uint32_t>& counts) {
  double total = 0, tokens = 0;
  for (std::size_t w = 0; w < sums.size(); ++w) total += sums[w], tokens += counts[w];
  double squares = 0;
  for (std::size_t w = 0; w < sums.size(); ++w) {
    const double off = sums[w] - total / tokens * counts[w];
    squares += off * off;
  }
  const auto windows = static_cast<double>(sums.size());
  return std::sqrt(squares * windows / (windows - 1)) / tokens;
}

TEST(CollectSensitivity, TrainedModelsFiguresAreThoseOfANaiveComputationInDouble) {
  const engine::TokenWindows windows = some_windows({28, 20, 33});
  const std::size_t tokens = windows.tokens.size();
  const SensitivityReport report = collect(trained_model(), windows, {.seed = 7});
  const NaiveQwen3 naive(trained_model());
  std::map<std::string, NaiveSums> total;
  std::map<std::string, std::vector<Vector>> by_window;
  Vector embedding, embedding_columns;
  std::size_t first = 0;
  for (const std::uint32_t length : windows.lengths) {
    const auto begin = windows.tokens.begin() + static_cast<std::ptrdiff_t>(first);
    std::map<std::string, NaiveSums> sums;
    naive.run(
        {begin, begin + length},
        [&](std::size_t t, const Vector& p) {
          const double draw = engine::label_draw(7, first + t);
          double cumulative = 0;
          for (std::size_t i = 0; i < p.size(); ++i)
            if ((cumulative += p[i]) > draw) return i;
          return p.size() - 1;
        },
        sums, embedding, embedding_columns);
    for (const auto& [name, one] : sums) {
      by_window[name].push_back(one.gradient);
      const auto add = [](Vector& to, const Vector& from) {
        to.resize(from.size(), 0.0);
        for (std::size_t i = 0; i < from.size(); ++i) to[i] += from[i];
      };
      add(total[name].gradient, one.gradient);
      add(total[name].output, one.output);
      add(total[name].input, one.input);
    }
    first += length;
  }
  ASSERT_EQ(report.statistics.matrices.size(), 6 * 7U + 1);
  const auto count = static_cast<double>(tokens);
  for (const auto& [name, sums] : total) {
    ASSERT_TRUE(report.statistics.matrices.contains(name)) << name;
    const MatrixStatistics& ours = report.statistics.matrices.at(name);
    ASSERT_EQ(ours.rows, sums.gradient.size());
    EXPECT_EQ(ours.tokens, std::vector<double>{count});
    double mean = 0, nats = 0;
    for (const double g : sums.gradient) mean += g / count / static_cast<double>(sums.gradient.size());
    const std::size_t columns = naive.columns(name);
    for (std::size_t i = 0; i < ours.rows; ++i) {
      const double g = sums.gradient[i] / count;
      EXPECT_NEAR(ours.gradient[i], g, 2e-4 * g + 2e-5 * mean) << name << ", row " << i;
      EXPECT_NEAR(ours.output[i], sums.output[i] / count, 1e-4 * sums.output[i] / count);
      double energy = 0;
      for (std::size_t j = 0; j < columns; ++j) {
        const double w = naive.values(name)[i * columns + j];
        energy += sums.input[j] / count * w * w;
      }
      EXPECT_NEAR(ours.energy[i], energy, 1e-4 * energy);
      nats += 0.5 * g * energy;
      std::vector<double> windows_of_row;
      for (const Vector& one : by_window[name]) windows_of_row.push_back(one[i]);
      const double error = error_of_ratio(windows_of_row, windows.lengths);
      EXPECT_NEAR(ours.gradient_error[i], error, 1e-3 * g + 1e-4 * mean);
    }
    const NatsEstimate estimate = mean_of_windows(ours.nats_by_window, report.statistics.window_tokens);
    EXPECT_NEAR(estimate.value, nats, 2e-4 * nats) << name;
    EXPECT_GT(estimate.standard_error, 0) << name;
    EXPECT_LT(estimate.standard_error, nats) << name;
  }

  ASSERT_EQ(report.statistics.tables.size(), 1U);
  const TableStatistics& table = report.statistics.tables.at("token_embd.weight");
  std::vector<double> rows(table.rows, 0.0), seen(table.rows, 0.0);
  double nats = 0;
  for (std::size_t t = 0; t < tokens; ++t) {
    const auto token = static_cast<std::size_t>(windows.tokens[t]);
    rows[token] += embedding[t] / count;
    seen[token] += 1;
    double square = 0;
    for (std::size_t j = 0; j < 256; ++j) {
      const double w = naive.values("token_embd.weight")[token * 256 + j];
      square += w * w / 256;
    }
    nats += 0.5 * embedding[t] * square / count;
  }
  EXPECT_EQ(table.row_tokens, seen);
  for (std::size_t v = 0; v < rows.size(); ++v) EXPECT_NEAR(table.row_gradient[v], rows[v], 2e-4 * rows[v]);
  for (std::size_t j = 0; j < 256; ++j)
    EXPECT_NEAR(table.gradient[j], embedding_columns[j] / count, 2e-4 * embedding_columns[j] / count);
  EXPECT_NEAR(mean_of_windows(table.nats_by_window, windows.lengths).value, nats, 2e-4 * nats);
}

// Small models of several kinds: experts, tied embeddings, latent attention, delta nets, state spaces.
std::vector<std::string> small_models() {
  return {"deepseek2", "gptoss", "gemma3", "kimi", "qwen35moe", "falconh1"};
}

engine::TokenWindows random_windows(const Model& model, std::vector<std::uint32_t> lengths) {
  const auto engine = engine::Engine::open(model).value();
  engine::TokenWindows out;
  std::mt19937 random(9);
  out.lengths = std::move(lengths);
  for (const std::uint32_t length : out.lengths)
    for (std::uint32_t i = 0; i < length; ++i)
      out.tokens.push_back(static_cast<std::int32_t>(random() % engine.graph().vocabulary));
  return out;
}

TEST(CollectSensitivity, SameBitsWithAnyThreadsBatchesMemoryAndInstructionSet) {
  for (const std::string& name : small_models()) {
    const auto model = Model::open(data_dir() / "engine" / (name + ".gguf")).value();
    const auto windows = random_windows(model, {19, 30, 1, 24});
    const ModelStatistics expected = collect(model, windows, {.run = {.threads = 1}}).statistics;
    EXPECT_TRUE(expected == collect(model, windows, {.run = {.threads = 2}}).statistics) << name;
    EXPECT_TRUE(expected == collect(model, windows, {.run = {.threads = 2, .batch_tokens = 1}}).statistics)
        << name;
    const auto engine = engine::Engine::open(model).value();
    const auto plan = plan_sensitivity(engine, windows, {.run = {.threads = 1}}).value();
    EXPECT_GT(plan.multiply_adds, 2 * plan.forward_multiply_adds);
    SensitivityOptions little{.run = {.threads = 1}};
    little.run.memory_limit = plan.memory_bytes - 1;
    const auto less = plan_sensitivity(engine, windows, little);
    ASSERT_TRUE(less) << less.error().message;
    EXPECT_LE(less.value().memory_bytes, little.run.memory_limit) << name;
    EXPECT_TRUE(expected == collect(model, windows, little).statistics) << name;
    ASSERT_EQ(setenv("QUANTFIT_ISA", "scalar", 1), 0);
    EXPECT_TRUE(expected == collect(model, windows, {.run = {.threads = 1}}).statistics) << name;
    ASSERT_EQ(unsetenv("QUANTFIT_ISA"), 0);
    EXPECT_FALSE(expected == collect(model, windows, {.seed = 2}).statistics) << name;
  }
}

TEST(CollectSensitivity, ExpertsSumOverTheirTokensAndDivideByAll) {
  const auto model = Model::open(data_dir() / "engine" / "qwen35moe.gguf").value();
  const auto windows = random_windows(model, {32, 32});
  const ModelStatistics statistics = collect(model, windows).statistics;
  std::size_t tensors = 0;
  for (const auto& [name, one] : statistics.matrices) {
    if (name.find("_exps.") == std::string::npos) continue;
    ++tensors;
    double routed = 0;
    for (std::uint32_t e = 0; e < one.matrices; ++e) {
      routed += one.tokens[e];
      double gradient = 0;
      for (std::uint32_t i = 0; i < one.rows; ++i) gradient += one.gradient[e * one.rows + i];
      EXPECT_EQ(gradient > 0, one.tokens[e] > 0) << name << " " << e;
    }
    const auto engine = engine::Engine::open(model).value();
    EXPECT_EQ(routed, 64.0 * engine.graph().layers[0].experts.used) << name;
    // What is in the file adds up to its nats.
    double nats = 0;
    for (std::size_t i = 0; i < one.gradient.size(); ++i) nats += 0.5 * one.gradient[i] * one.energy[i];
    EXPECT_NEAR(mean_of_windows(one.nats_by_window, statistics.window_tokens).value, nats, 1e-4 * nats)
        << name;
  }
  EXPECT_GT(tensors, 2U);
}

TEST(CollectSensitivity, ATiedEmbeddingIsAMatrixAndATable) {
  const auto model = Model::open(data_dir() / "engine" / "gemma3.gguf").value();
  const ModelStatistics statistics = collect(model, random_windows(model, {20, 20})).statistics;
  ASSERT_TRUE(statistics.matrices.contains("token_embd.weight"));
  ASSERT_TRUE(statistics.tables.contains("token_embd.weight"));
  const NatsEstimate both = predicted_divergence(statistics, {{"token_embd.weight", 0.01}});
  const double head =
      mean_of_windows(statistics.matrices.at("token_embd.weight").nats_by_window, statistics.window_tokens)
          .value;
  const double lookup =
      mean_of_windows(statistics.tables.at("token_embd.weight").nats_by_window, statistics.window_tokens)
          .value;
  EXPECT_NEAR(both.value, 0.01 * (head + lookup), 1e-12);
}

// The model with every weight of some tensors times 1 + deviation * (a normal number): a relative error of
// deviation^2.
std::filesystem::path with_noise(const Model& model, const std::vector<std::string>& names, double deviation,
                                 const std::filesystem::path& path) {
  const kernels::RowKernels& kernels = *kernels::default_kernels().value();
  const auto chosen = [&](const TensorInfo& tensor) {
    return std::ranges::find(names, tensor.name) != names.end();
  };
  std::vector<TensorInfo> infos(model.tensors().begin(), model.tensors().end());
  for (TensorInfo& info : infos)
    if (chosen(info)) info.format = Format::F32;
  auto writer = GgufWriter::create(path, model.metadata(), infos).value();
  std::mt19937 random(11);
  std::normal_distribution<double> normal;
  for (const TensorInfo& tensor : model.tensors()) {
    if (!chosen(tensor)) {
      EXPECT_TRUE(writer.append(model.data(tensor)));
      continue;
    }
    std::vector<float> row(tensor.ne[0]);
    for (std::uint64_t i = 0; i < tensor.rows(); ++i) {
      kernels.decode[static_cast<std::size_t>(tensor.format)](model.row(tensor, i).data(), row.size(),
                                                              row.data());
      for (float& w : row) w = static_cast<float>(w * (1 + deviation * normal(random)));
      EXPECT_TRUE(writer.append(std::as_bytes(std::span(row))));
    }
  }
  EXPECT_TRUE(writer.commit());
  return path;
}

std::vector<float> logits_of(const Model& model, const engine::TokenWindows& windows) {
  const auto engine = engine::Engine::open(model).value();
  NoProgress progress;
  const CancellationToken cancel;
  const engine::HiddenStates states = engine.run(windows, {}, nullptr, progress, cancel).value();
  std::vector<float> buffer, out(states.rows() * engine.graph().vocabulary);
  const std::size_t vocabulary = engine.graph().vocabulary;
  EXPECT_TRUE(engine.logits(states.read(0, states.rows(), buffer).value(),
                            {out.data(), states.rows(), vocabulary, vocabulary}));
  return out;
}

// Mean KL divergence per token.
double divergence_of(const std::vector<float>& base, const std::vector<float>& other,
                     std::size_t vocabulary) {
  double sum = 0;
  const std::size_t tokens = base.size() / vocabulary;
  for (std::size_t t = 0; t < tokens; ++t) {
    const float* p = base.data() + t * vocabulary;
    const float* q = other.data() + t * vocabulary;
    double p_sum = 0, q_sum = 0;
    for (std::size_t i = 0; i < vocabulary; ++i) p_sum += std::exp(p[i]), q_sum += std::exp(q[i]);
    for (std::size_t i = 0; i < vocabulary; ++i)
      sum += std::exp(p[i]) / p_sum * ((p[i] - std::log(p_sum)) - (q[i] - std::log(q_sum)));
  }
  return sum / static_cast<double>(tokens);
}

// What the figures are for: small independent errors of a tensor change the predictions by as many nats as
// foreseen. The labels are drawn and there is one set of errors, so both values have an error of their own;
// what is coherent between tokens is not foreseen (a factor of 1.5 in the first layers). Of the mixture only
// what no router follows is looked at: small errors before a router change choices, which costs more than any
// second-order figure says.
TEST(CollectSensitivity, ForeseesTheDivergenceOfSmallErrors) {
  std::vector<std::pair<std::filesystem::path, std::vector<std::string>>> cases{
      {data_dir() / "tale-dense-F16.gguf",
       {"token_embd.weight", "blk.0.attn_q.weight", "blk.0.attn_v.weight", "blk.1.attn_output.weight",
        "blk.2.ffn_gate.weight", "blk.3.ffn_up.weight", "blk.5.ffn_down.weight", "output.weight"}}};
  if (const auto shared = shared_dir()) {
    cases.push_back({*shared / "models" / "tale-moe-F16.gguf",
                     {"blk.3.ffn_gate_exps.weight", "blk.3.ffn_up_exps.weight", "blk.3.ffn_down_exps.weight",
                      "output.weight"}});
  }
  for (const auto& [path, names] : cases) {
    if (!std::filesystem::exists(path)) continue;
    const auto model = Model::open(path).value();
    const engine::TokenWindows windows = trained_text(16).inputs();
    const ModelStatistics statistics = collect(model, windows).statistics;
    const std::vector<float> base = logits_of(model, windows);
    double log_sum = 0;
    for (const std::string& name : names) {
      const TemporaryFolder folder;
      const double deviation = 0.1;
      const auto other = Model::open(with_noise(model, {name}, deviation, folder / "noise.gguf")).value();
      const double measured =
          divergence_of(base, logits_of(other, windows), base.size() / windows.tokens.size());
      const NatsEstimate predicted = predicted_divergence(statistics, {{name, deviation * deviation}});
      std::printf("%-28s measured over predicted %.3f, standard error %.2f of the prediction\n", name.c_str(),
                  measured / predicted.value, predicted.standard_error / predicted.value);
      EXPECT_GT(measured, 0.7 * predicted.value) << name;
      EXPECT_LT(measured, 1.6 * predicted.value) << name;
      log_sum += std::log(measured / predicted.value);
    }
    EXPECT_NEAR(std::exp(log_sum / static_cast<double>(names.size())), 1, 0.2) << path;
  }
}

// All matrices of a mixture together, with errors as large as those of three and of five bits: half of what
// happens is other choices of experts.
TEST(CollectSensitivity, ForeseesWhatOtherChoicesOfExpertsCost) {
  const auto shared = shared_dir();
  if (!shared) GTEST_SKIP() << "the trained mixture is not here";
  const auto model = Model::open(*shared / "models" / "tale-moe-F16.gguf").value();
  const engine::TokenWindows windows = trained_text(16).inputs();
  const ModelStatistics with = collect(model, windows).statistics;
  const ModelStatistics without = collect(model, windows, {.choice_error = 0}).statistics;
  EXPECT_GT(with.choice_error, 0);
  EXPECT_GT(with.choice_cost, 0);
  EXPECT_EQ(without.choice_cost, 0);
  const std::vector<float> base = logits_of(model, windows);
  std::vector<std::string> names;
  for (const auto& [name, one] : with.matrices)
    if (name.starts_with("blk.") && name.find("gate_inp") == std::string::npos) names.push_back(name);
  const optimizer::Foresight foresight{
      with.choice_cost * optimizer::kChoicesPerError,
      with.choice_cost * std::pow(optimizer::kChoicesPerError, 2) / (2 * double{with.choice_error})};
  std::printf("other choices cost %.4f nats per spread of the scores, %.2f of the weights\n",
              with.choice_cost, foresight.choice_share);
  for (const double deviation : {0.02, 0.05, 0.1, 0.2}) {
    std::map<std::string, double, std::less<>> errors;
    for (const std::string& name : names) errors[name] = deviation * deviation;
    const TemporaryFolder folder;
    const auto other = Model::open(with_noise(model, names, deviation, folder / "noise.gguf")).value();
    const double measured =
        divergence_of(base, logits_of(other, windows), base.size() / windows.tokens.size());
    const double foreseen = predicted_divergence(with, errors).value;
    const double second_order = predicted_divergence(without, errors).value;
    std::printf("errors of %.2f: measured %.3g, over predicted %.3f, by weights %.3f, without choices %.3f\n",
                deviation, measured, measured / foresight(foreseen), measured / foreseen,
                measured / second_order);
    EXPECT_GT(measured, 0.67 * foresight(foreseen));
    EXPECT_LT(measured, 1.5 * foresight(foreseen));
    EXPECT_GT(measured, 1.2 * second_order);
    EXPECT_GT(foreseen, 1.1 * second_order);
  }
}

// Cancels after so many advances.
class Stopper final : public ProgressSink {
 public:
  Stopper(CancellationToken& token, int advances) : token_(&token), left_(advances) {}
  void begin(std::string_view, std::uint64_t) override {}
  void advance(std::uint64_t, std::string_view) override {
    if (--left_ == 0) token_->cancel();
  }
  void end() override {}

 private:
  CancellationToken* token_;
  int left_;
};

TEST(CollectSensitivity, InterruptedAnywhereItEndsWithTheSameBytes) {
  std::vector<std::pair<std::string, std::filesystem::path>> models;
  for (const std::string& name : small_models())
    models.emplace_back(name, data_dir() / "engine" / (name + ".gguf"));
  // Keys and embeddings that layers share.
  if (const auto shared = shared_dir())
    models.emplace_back("gemma4", *shared / "running" / "tiny" / "gemma4.gguf");
  for (const auto& [name, path] : models) {
    if (!std::filesystem::exists(path)) continue;
    const auto model = Model::open(path).value();
    const auto engine = engine::Engine::open(model).value();
    const auto windows = random_windows(model, {16, 16, 16});
    const TemporaryFolder folder;
    SensitivityOptions options;
    options.run = {.threads = 2, .batch_tokens = 16};
    options.model_fingerprint = fingerprint(model);
    options.text_fingerprint = "text";
    options.checkpoint_seconds = 0;
    const ModelStatistics expected = collect(model, windows, options).statistics;
    ASSERT_TRUE(write_statistics(folder / "expected", expected));
    options.checkpoint = folder / "pass";
    const auto layers = static_cast<int>(engine.graph().layers.size());
    std::uint32_t begun = static_cast<std::uint32_t>(layers) + 1;
    // Three batches a layer: forward, logits, back. Every run gets two layers further.
    const auto interrupted = [&](int advances) {
      CancellationToken cancel;
      Stopper stopper(cancel, advances);
      const auto stopped = collect_sensitivity(engine, windows, options, stopper, cancel);
      EXPECT_FALSE(stopped);
      EXPECT_EQ(stopped.error().code, ErrorCode::Interrupted) << stopped.error().message;
    };
    interrupted(2);
    EXPECT_FALSE(std::filesystem::exists(options.checkpoint));
    interrupted(3 * layers + 3 + 3 + 2);  // within the second layer of the way back
    ASSERT_TRUE(std::filesystem::exists(options.checkpoint)) << name;
    // Another seed does not continue there.
    SensitivityOptions other = options;
    other.seed = 5;
    other.checkpoint = folder / "copy";
    std::filesystem::copy_file(options.checkpoint, other.checkpoint);
    EXPECT_EQ(collect(model, windows, other).first_layer, begun) << name;
    // A checkpoint is no finished file.
    EXPECT_FALSE(read_statistics(options.checkpoint));
    const SensitivityReport resumed = collect(model, windows, options);
    EXPECT_EQ(resumed.first_layer, begun - 2) << name;
    EXPECT_FALSE(std::filesystem::exists(options.checkpoint));
    ASSERT_TRUE(write_statistics(folder / "resumed", resumed.statistics));
    EXPECT_EQ(read_file(folder / "expected"), read_file(folder / "resumed")) << name;
    const auto read = read_statistics(folder / "resumed");
    ASSERT_TRUE(read) << read.error().message;
    EXPECT_TRUE(read.value() == expected) << name;
  }
}

TEST(CollectSensitivity, ADamagedCheckpointIsNotUsed) {
  const TemporaryFolder folder;
  const auto model = Model::open(data_dir() / "engine" / "llama.gguf").value();
  SensitivityOptions options;
  options.checkpoint = folder / "pass";
  write_file(options.checkpoint, std::vector<std::byte>(100, std::byte{7}));
  const auto engine = engine::Engine::open(model).value();
  EXPECT_EQ(collect(model, random_windows(model, {8}), options).first_layer,
            engine.graph().layers.size() + 1);
}

}  // namespace
}  // namespace quantfit::test
