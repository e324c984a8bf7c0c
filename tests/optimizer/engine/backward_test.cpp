// Gradients of whole models against differences of the loss, for every family; the same bits whatever the
// threads, batches, memory and instruction set; interruption.
#include "optimizer/engine/backward.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <random>

#include "kernels/row_kernels.h"
#include "tests/optimizer/engine/generated_families.h"
#include "tests/optimizer/engine/recorded_model.h"
#include "tests/support/test_paths.h"

namespace quantfit::test {
namespace {

using engine::MatrixGradient;
using kernels::MatrixView;
using testing::HasSubstr;

// -ln p of labels that are given: in double from the engine's logits.
class GivenLabels final : public engine::LogitLoss {
 public:
  explicit GivenLabels(std::vector<std::int32_t> labels) : labels_(std::move(labels)) {}
  Result<void> gradient(std::uint64_t first_token, MatrixView<const float> logits,
                        MatrixView<float> gradient) override {
    for (std::size_t t = 0; t < logits.rows; ++t) {
      const float* z = logits.row(t);
      const double log_sum = log_sum_of(z, logits.columns);
      for (std::size_t i = 0; i < logits.columns; ++i)
        gradient.row(t)[i] = static_cast<float>(std::exp(z[i] - log_sum));
      gradient.row(t)[static_cast<std::size_t>(labels_[first_token + t])] -= 1;
    }
    return outcome::success();
  }
  [[nodiscard]] double loss(const std::vector<std::vector<float>>& logits) const {
    double sum = 0;
    for (std::size_t t = 0; t < logits.size(); ++t)
      sum += log_sum_of(logits[t].data(), logits[t].size()) - logits[t][static_cast<std::size_t>(labels_[t])];
    return sum;
  }

 private:
  static double log_sum_of(const float* z, std::size_t n) {
    const double top = *std::max_element(z, z + n);
    double sum = 0;
    for (std::size_t i = 0; i < n; ++i) sum += std::exp(z[i] - top);
    return top + std::log(sum);
  }
  std::vector<std::int32_t> labels_;
};

// Gradients of every weight: of matrices and tables by outer products, of norms as the engine gives them.
class WeightGradients : public engine::BackwardObserver {
 public:
  std::map<std::string, std::vector<double>> all;
  // Every float that was shown, in order.
  std::vector<float> shown;

  Result<void> gradient(const MatrixGradient& g) override {
    std::vector<double>& sum = of(*g.matrix->tensor);
    const std::size_t first = std::size_t{g.index} * g.matrix->rows + g.first_row;
    for (std::size_t r = 0; r < g.input.rows; ++r) {
      if (!g.tokens.empty() && r != 0) {
        EXPECT_LT(g.tokens[r - 1], g.tokens[r]);
      }
      for (std::size_t o = 0; o < g.output_gradient.columns; ++o) {
        const double d = g.output_gradient.row(r)[o];
        for (std::size_t i = 0; i < g.input.columns; ++i)
          sum[(first + o) * g.matrix->columns + i] += d * g.input.row(r)[i];
      }
      shown.insert(shown.end(), g.output_gradient.row(r),
                   g.output_gradient.row(r) + g.output_gradient.columns);
    }
    return outcome::success();
  }
  Result<void> lookup(const engine::LookupGradient& g) override {
    std::vector<double>& sum = of(*g.tensor);
    for (std::size_t t = 0; t < g.tokens.size(); ++t)
      for (std::size_t i = 0; i < g.gradient.columns; ++i)
        sum[static_cast<std::size_t>(g.tokens[t]) * g.tensor->ne[0] + g.first_column + i] +=
            g.gradient.row(t)[i];
    return outcome::success();
  }
  Result<void> parameter(std::uint32_t, const TensorInfo& tensor, std::span<const double> gradient) override {
    std::vector<double>& sum = of(tensor);
    EXPECT_EQ(sum.size(), gradient.size());
    for (std::size_t i = 0; i < gradient.size(); ++i) sum[i] += gradient[i];
    return outcome::success();
  }
  [[nodiscard]] bool wants_parameters() const override { return true; }

 private:
  std::vector<double>& of(const TensorInfo& tensor) {
    std::vector<double>& sum = all[tensor.name];
    sum.resize(tensor.elements(), 0.0);
    return sum;
  }
};

// Two windows of random tokens, shorter ones from the second text on.
engine::TokenWindows some_windows(std::uint32_t vocabulary, std::uint32_t text = 0) {
  engine::TokenWindows out;
  out.lengths = text == 0 ? std::vector{13U, 9U} : std::vector{6U, 3U};
  std::mt19937 random(5 + text);
  for (std::uint32_t i = 0; i < out.lengths[0] + out.lengths[1]; ++i)
    out.tokens.push_back(static_cast<std::int32_t>(random() % vocabulary));
  return out;
}

GivenLabels some_labels(std::uint32_t vocabulary) {
  std::mt19937 random(6);
  std::vector<std::int32_t> out;
  for (int i = 0; i < 22; ++i) out.push_back(static_cast<std::int32_t>(random() % vocabulary));
  return GivenLabels(std::move(out));
}

Result<void> run_pass(const engine::Engine& engine, const engine::TokenWindows& windows,
                      const engine::BackwardOptions& options, engine::BackwardObserver& observer) {
  NoProgress progress;
  const CancellationToken cancel;
  return engine::BackwardPass(engine).run(windows, options, nullptr, observer, progress, cancel);
}

struct Family {
  std::string name;
  std::filesystem::path recorded;  // or:
  GeneratedShape shape;
};
void PrintTo(const Family& one, std::ostream* out) {
  *out << one.name;
}

std::vector<Family> families() {
  std::vector<Family> out;
  for (const RecordedModel& one : recorded_models()) out.push_back({"recorded_" + one.name, one.path, {}});
  for (const GeneratedShape& shape : generated_families())
    if (shape.format == Format::F32) out.push_back({shape.name, {}, shape});
  for (Family& one : out)
    for (char& c : one.name)
      if (c == '-' || c == '.') c = '_';
  return out;
}

class BackwardFamilies : public testing::TestWithParam<Family> {};

// For every tensor of F32: the derivative along a direction (its gradient, plus noise), against central
// differences of the loss of the changed file. The engine computes in binary32 (small steps drown in
// rounding), families curve differently, and experts are chosen (large steps change the choice): so several
// steps are tried, each extrapolated from two, and another text where none agrees. A wrong gradient agrees
// with none of them.
TEST_P(BackwardFamilies, GradientsAreThoseOfTheLoss) {
  const TemporaryFolder folder;
  const auto path = folder / "model.gguf";
  if (GetParam().recorded.empty())
    write_generated(GetParam().shape, path);
  else
    std::filesystem::copy_file(GetParam().recorded, path);
  std::filesystem::permissions(path, std::filesystem::perms::owner_write, std::filesystem::perm_options::add);
  std::map<std::string, std::string> failed;  // tensors without agreement so far
  double worst = 0;
  std::size_t checked = 0, texts = 0;
  for (std::uint32_t text = 0; text < 6 && (text == 0 || !failed.empty()); ++text, ++texts) {
    WeightGradients gradients;
    std::vector<TensorInfo> tensors;
    std::uint64_t data_offset = 0;
    std::uint32_t vocabulary = 0;
    {
      const auto model = Model::open(path);
      ASSERT_TRUE(model) << model.error().message;
      const auto engine = engine::Engine::open(model.value());
      ASSERT_TRUE(engine) << engine.error().message;
      vocabulary = engine.value().graph().vocabulary;
      GivenLabels labels = some_labels(vocabulary);
      const auto done = run_pass(engine.value(), some_windows(vocabulary, text),
                                 {.run = {.threads = 1, .batch_tokens = 13}, .loss = &labels}, gradients);
      ASSERT_TRUE(done) << done.error().message;
      tensors.assign(model.value().tensors().begin(), model.value().tensors().end());
      data_offset = model.value().shards()[0].data_offset;
    }
    const engine::TokenWindows windows = some_windows(vocabulary, text);
    const GivenLabels labels = some_labels(vocabulary);
    const auto loss = [&]() -> double {
      const auto model = Model::open(path);
      EXPECT_TRUE(model);
      const auto engine = engine::Engine::open(model.value());
      EXPECT_TRUE(engine);
      const auto logits = logits_of(engine.value(), windows, {.threads = 1});
      EXPECT_TRUE(logits);
      return labels.loss(logits.value());
    };
    for (const TensorInfo& tensor : tensors) {
      if (text != 0 && !failed.contains(tensor.name)) continue;
      const auto found = gradients.all.find(tensor.name);
      if (found == gradients.all.end()) {
        // Every matrix must have come by.
        const bool matrix = tensor.significant_dims() > 1 && tensor.name.ends_with(".weight") &&
                            tensor.name.find("conv") == std::string::npos &&
                            tensor.name.find("position") == std::string::npos &&
                            tensor.name.find("nextn") == std::string::npos;
        EXPECT_FALSE(matrix) << tensor.name << " was not seen";
        continue;
      }
      if (tensor.format != Format::F32) continue;
      const std::vector<double>& gradient = found->second;
      double norm = 0;
      for (const double v : gradient) norm += v * v;
      norm = std::sqrt(norm);
      std::mt19937 random(static_cast<unsigned>(tensor.elements()));
      std::normal_distribution<double> normal;
      std::vector<double> direction(gradient.size());
      double noise = 0;
      for (double& v : direction) v = normal(random), noise += v * v;
      double expected = 0;
      for (std::size_t i = 0; i < gradient.size(); ++i) {
        direction[i] = 0.5 * direction[i] / std::sqrt(noise) + (norm > 0 ? gradient[i] / norm : 0);
        expected += direction[i] * gradient[i];
      }
      std::vector<float> original(tensor.elements());
      const auto at = static_cast<std::streamoff>(data_offset + tensor.offset);
      {
        std::ifstream in(path, std::ios::binary);
        in.seekg(at);
        in.read(reinterpret_cast<char*>(original.data()), static_cast<std::streamsize>(tensor.bytes));
        ASSERT_TRUE(in);
      }
      const auto put = [&](double step) {
        std::vector<float> changed(original);
        for (std::size_t i = 0; i < changed.size(); ++i)
          changed[i] = static_cast<float>(original[i] + step * direction[i]);
        std::fstream out(path, std::ios::binary | std::ios::in | std::ios::out);
        out.seekp(at);
        out.write(reinterpret_cast<const char*>(changed.data()), static_cast<std::streamsize>(tensor.bytes));
        ASSERT_TRUE(out.flush());
      };
      const auto difference = [&](double step) {
        put(step);
        const double up = loss();
        put(-step);
        return (up - loss()) / (2 * step);
      };
      double best = 1e30, value_found = 0;
      for (double change = 2.56; change > 1e-3 && best > 2e-3; change /= 4) {
        const double step = std::min(0.08, change / (std::abs(expected) + 1e-9));
        const double fine = difference(step), coarse = difference(2 * step);
        const double value = (4 * fine - coarse) / 3;
        const double error = std::abs(value - expected) / (std::abs(expected) + 2e-2);
        if (error < best) best = error, value_found = value;
      }
      put(0);
      if (text == 0) ++checked;
      if (best < 5e-3) {
        worst = std::max(worst, best);
        failed.erase(tensor.name);
      } else {
        failed[tensor.name] = fmt::format("gradient {}, difference {}", expected, value_found);
      }
    }
  }
  EXPECT_THAT(failed, testing::IsEmpty());
  EXPECT_GT(checked, 4U);
  std::printf("%-32s %3zu tensors, %zu texts, largest relative difference %.2g\n", GetParam().name.c_str(),
              checked, texts, worst);
}

TEST_P(BackwardFamilies, SameBitsWhateverTheThreadsMemoryAndInstructionSet) {
  const TemporaryFolder folder;
  auto path = GetParam().recorded;
  if (path.empty()) write_generated(GetParam().shape, path = folder / "model.gguf");
  const auto model = Model::open(path);
  ASSERT_TRUE(model);
  const auto pass = [&](const engine::RunOptions& run) {
    const auto engine = engine::Engine::open(model.value());
    EXPECT_TRUE(engine);
    WeightGradients out;
    const auto done =
        run_pass(engine.value(), some_windows(engine.value().graph().vocabulary), {.run = run}, out);
    EXPECT_TRUE(done) << done.error().message;
    return out.all;
  };
  const auto reference = pass({.threads = 1});
  EXPECT_TRUE(reference == pass({.threads = 2})) << "two threads";
  EXPECT_TRUE(reference == pass({.threads = 3, .batch_tokens = 1})) << "small batches";
  const auto engine = engine::Engine::open(model.value());
  const auto plan = engine::BackwardPass(engine.value())
                        .plan(some_windows(engine.value().graph().vocabulary), {.run = {.threads = 1}});
  ASSERT_TRUE(plan);
  engine::RunOptions tight{.threads = 1};
  tight.memory_limit = plan.value().memory_bytes - 1;
  const auto tight_plan = engine::BackwardPass(engine.value())
                              .plan(some_windows(engine.value().graph().vocabulary), {.run = tight});
  ASSERT_TRUE(tight_plan) << tight_plan.error().message;
  EXPECT_LE(tight_plan.value().memory_bytes, tight.memory_limit);
  EXPECT_TRUE(reference == pass(tight)) << "tight memory";
  for (const kernels::MathKernels& kernels : kernels::runnable_math_kernels()) {
    ASSERT_EQ(setenv("QUANTFIT_ISA", std::string(kernels.isa).c_str(), 1), 0);
    EXPECT_TRUE(reference == pass({.threads = 1})) << kernels.isa;
    ASSERT_EQ(unsetenv("QUANTFIT_ISA"), 0);
  }
}

using States = std::map<std::uint32_t, std::vector<float>>;

void keep(States& states, std::uint32_t layer, MatrixView<const float> rows) {
  for (std::size_t t = 0; t < rows.rows; ++t)
    states[layer].insert(states[layer].end(), rows.row(t), rows.row(t) + rows.columns);
}
void give(const std::vector<float>& from, std::uint64_t first, MatrixView<float> rows) {
  for (std::size_t t = 0; t < rows.rows; ++t)
    std::copy_n(from.begin() + static_cast<std::ptrdiff_t>((first + t) * rows.columns), rows.columns,
                rows.row(t));
}

class KeepsInputs final : public engine::ForwardObserver {
 public:
  States inputs;
  Result<void> layer_input(std::uint32_t layer, std::uint64_t, MatrixView<const float> rows) override {
    keep(inputs, layer, rows);
    return outcome::success();
  }
};

class KeepsCarried final : public WeightGradients {
 public:
  States gradients;  // in front of each layer
  [[nodiscard]] bool wants_carried(std::uint32_t) const override { return true; }
  Result<void> carried(std::uint32_t layer, std::uint32_t plane, std::uint64_t,
                       MatrixView<const float> rows) override {
    if (plane == 0) keep(gradients, layer, rows);
    return outcome::success();
  }
};

class GivenGradient final : public engine::LayerLoss {
 public:
  GivenGradient(const std::vector<float>& outputs, const std::vector<float>& gradients)
      : outputs_(&outputs), gradients_(&gradients) {}
  Result<void> gradient(std::uint64_t first_token, MatrixView<const float> output,
                        MatrixView<float> gradient) override {
    std::vector<float> expected(output.rows * output.columns);
    give(*outputs_, first_token, {expected.data(), output.rows, output.columns, output.columns});
    EXPECT_EQ(std::memcmp(expected.data(), output.data, expected.size() * sizeof(float)), 0);
    give(*gradients_, first_token, gradient);
    return outcome::success();
  }

 private:
  const std::vector<float>* outputs_;
  const std::vector<float>* gradients_;
};

TEST_P(BackwardFamilies, ALayerAloneGivesTheBitsOfTheWholePass) {
  const TemporaryFolder folder;
  auto path = GetParam().recorded;
  if (path.empty()) write_generated(GetParam().shape, path = folder / "model.gguf");
  const auto model = Model::open(path);
  ASSERT_TRUE(model);
  const auto opened = engine::Engine::open(model.value());
  ASSERT_TRUE(opened);
  const engine::Engine& engine = opened.value();
  const engine::BackwardPass pass(engine);
  const auto windows = some_windows(engine.graph().vocabulary);
  const engine::RunOptions run{.threads = 2};
  NoProgress progress;
  const CancellationToken cancel;
  KeepsInputs forward;
  KeepsCarried whole;
  ASSERT_TRUE(pass.run(windows, {.run = run}, &forward, whole, progress, cancel));
  const auto layers = static_cast<std::uint32_t>(engine.graph().layers.size());
  std::vector<float> out;
  const engine::TakeStates take = [&](std::uint64_t, MatrixView<const float> rows) -> Result<void> {
    for (std::size_t t = 0; t < rows.rows; ++t)
      out.insert(out.end(), rows.row(t), rows.row(t) + rows.columns);
    return outcome::success();
  };
  ASSERT_TRUE(pass.embeddings(windows, run, take, cancel));
  EXPECT_TRUE(out == forward.inputs[0]);
  for (std::uint32_t layer = 0; layer < layers; ++layer) {
    const engine::FillStates input = [&](std::uint64_t first, MatrixView<float> rows) -> Result<void> {
      give(forward.inputs[layer], first, rows);
      return outcome::success();
    };
    const engine::RunOptions small{.threads = 1, .batch_tokens = 1};
    GivenGradient loss(forward.inputs[layer + 1], whole.gradients[layer + 1]);
    WeightGradients alone;
    const auto back = pass.run_layer(layer, windows, small, input, loss, alone, progress, cancel);
    out.clear();
    const auto there = pass.layer_outputs(layer, windows, small, input, take, progress, cancel);
    if (!engine.can_resume()) {
      ASSERT_FALSE(back);
      ASSERT_FALSE(there);
      EXPECT_EQ(back.error().code, ErrorCode::InvalidArgument);
      EXPECT_EQ(there.error().code, ErrorCode::InvalidArgument);
      continue;
    }
    ASSERT_TRUE(there) << there.error().message;
    ASSERT_TRUE(back) << back.error().message;
    EXPECT_TRUE(out == forward.inputs[layer + 1]) << "layer " << layer;
    EXPECT_FALSE(alone.all.empty());
    for (const auto& [name, gradient] : alone.all) EXPECT_TRUE(gradient == whole.all[name]) << name;
  }
  // With little memory the same; with less than a window takes, an error.
  if (!engine.can_resume()) return;
  const auto memory = pass.layer_memory(windows, run);
  ASSERT_TRUE(memory);
  const auto tight = pass.layer_memory(windows, {.threads = 2, .memory_limit = memory.value().bytes - 1});
  if (tight) {
    EXPECT_LT(tight.value().batch_tokens, memory.value().batch_tokens);
  }
  EXPECT_EQ(pass.layer_memory(windows, {.memory_limit = 1000}).error().code, ErrorCode::NoSpace);
}

TEST(Backward, LogitsThatAreNoNumbersAreAnError) {
  const TemporaryFolder folder;
  write_generated(GeneratedShape{}, folder / "model.gguf");
  std::vector<std::byte> bytes = read_file(folder / "model.gguf");
  {
    const auto model = Model::open(folder / "model.gguf").value();
    const float nan = std::nanf("");
    const std::size_t at =
        model.shards()[0].data_offset + model.find("output.weight")->offset + 7 * sizeof(float);
    std::memcpy(bytes.data() + at, &nan, sizeof(nan));
  }
  write_file(folder / "nan.gguf", bytes);
  const auto model = Model::open(folder / "nan.gguf").value();
  const auto engine = engine::Engine::open(model).value();
  engine::BackwardObserver observer;
  const auto done = run_pass(engine, some_windows(40), {.run = {.threads = 2}}, observer);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, ErrorCode::Malformed);
  EXPECT_THAT(done.error().message, HasSubstr("logits of token 0 are not finite"));
}

TEST(Backward, RefusesWhatCannotBeRun) {
  const TemporaryFolder folder;
  write_generated(GeneratedShape{}, folder / "model.gguf");
  const auto model = Model::open(folder / "model.gguf").value();
  const auto engine = engine::Engine::open(model).value();
  const engine::BackwardPass pass(engine);
  const auto tiny = pass.plan(some_windows(40), {.run = {.memory_limit = 1000}});
  ASSERT_FALSE(tiny);
  EXPECT_EQ(tiny.error().code, ErrorCode::NoSpace);
  EXPECT_THAT(tiny.error().message, HasSubstr("the limit is"));
  EXPECT_THAT(pass.plan({{1, 2, 40}, {3}}, {}).error().message, HasSubstr("token 40 at position 2"));
  engine::BackwardObserver observer;
  NoProgress progress;
  CancellationToken cancel;
  const engine::BackwardResume beyond{7, {}};
  const auto wrong = pass.run(some_windows(40), {}, nullptr, observer, progress, cancel, &beyond);
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().code, ErrorCode::InvalidArgument);
  cancel.cancel();
  const auto stopped = pass.run(some_windows(40), {}, nullptr, observer, progress, cancel);
  ASSERT_FALSE(stopped);
  EXPECT_EQ(stopped.error().code, ErrorCode::Interrupted);
  // An observer's error is the pass's.
  class Refuses final : public engine::BackwardObserver {
    Result<void> end_layer(std::uint32_t) override { return fail(ErrorCode::NoSpace, "full"); }
  } refuses;
  EXPECT_EQ(run_pass(engine, some_windows(40), {}, refuses).error().message, "full");
}

// Gradients at the router of one layer, and what the router read.
class RouterGradients final : public engine::BackwardObserver {
 public:
  explicit RouterGradients(std::uint32_t layer) : layer_(layer) {}
  std::vector<std::vector<float>> gradients, inputs;
  Result<void> gradient(const MatrixGradient& g) override {
    if (g.layer != layer_ || g.matrix->tensor->name.find("ffn_gate_inp.weight") == std::string::npos)
      return outcome::success();
    for (std::size_t t = 0; t < g.input.rows; ++t) {
      gradients.emplace_back(g.output_gradient.row(t), g.output_gradient.row(t) + g.output_gradient.columns);
      inputs.emplace_back(g.input.row(t), g.input.row(t) + g.input.columns);
    }
    return outcome::success();
  }

 private:
  std::uint32_t layer_;
};

TEST(Backward, ChoiceErrorsPullTheLastChosenExpertAndTheFirstLeftOutApart) {
  const TemporaryFolder folder;
  const GeneratedShape shape{.architecture = "qwen3moe",
                             .head_dim = 8,
                             .qk_norm = GeneratedShape::QkNorm::PerHead,
                             .experts = 6,
                             .experts_used = 2};
  write_generated(shape, folder / "model.gguf");
  const auto model = Model::open(folder / "model.gguf").value();
  const auto engine = engine::Engine::open(model).value();
  engine::TokenWindows windows;
  windows.lengths = {40, 24};
  std::mt19937 random(8);
  for (int i = 0; i < 64; ++i)
    windows.tokens.push_back(static_cast<std::int32_t>(random() % shape.vocabulary));
  const auto gradients = [&](float choice_error, std::uint32_t batch, unsigned threads) {
    RouterGradients out(1);
    const auto done =
        run_pass(engine, windows,
                 {.run = {.threads = threads, .batch_tokens = batch}, .choice_error = choice_error}, out);
    EXPECT_TRUE(done);
    return out;
  };
  const RouterGradients plain = gradients(0, 64, 1), pulled = gradients(0.5F, 64, 1);
  EXPECT_EQ(pulled.gradients, gradients(0.5F, 1, 2).gradients);
  const TensorInfo& router = *model.find("blk.1.ffn_gate_inp.weight");
  std::size_t up = 0, changed = 0;
  for (std::size_t t = 0; t < 64; ++t) {
    std::vector<std::pair<double, std::size_t>> logits;
    for (std::size_t e = 0; e < 6; ++e) {
      const auto* row = reinterpret_cast<const float*>(model.row(router, e).data());
      double z = 0;
      for (std::size_t i = 0; i < 32; ++i) z += static_cast<double>(row[i]) * plain.inputs[t][i];
      logits.emplace_back(-z, e);
    }
    std::ranges::sort(logits);
    const std::size_t a = logits[1].second, b = logits[2].second;
    for (std::size_t e = 0; e < 6; ++e) {
      if (e == a || e == b) continue;
      EXPECT_EQ(pulled.gradients[t][e], plain.gradients[t][e]) << t;
    }
    const double at_a = pulled.gradients[t][a] - plain.gradients[t][a];
    const double at_b = pulled.gradients[t][b] - plain.gradients[t][b];
    EXPECT_NEAR(at_a, -at_b, 1e-5 * std::abs(at_a) + 1e-7) << t;
    // Between margins u_1 and u_2 of the same cost the sizes would go as phi(u) u; here: none far from a
    // change.
    double mean = 0, spread = 0;
    for (const auto& [z, e] : logits) mean -= z / 6;
    for (const auto& [z, e] : logits) spread += (-z - mean) * (-z - mean) / 6;
    const double u = (logits[2].first - logits[1].first) / (0.5 * std::sqrt(spread));
    if (u > 8) {
      EXPECT_NEAR(at_a, 0, 1e-6);
    }
    if (std::abs(at_a) > 1e-6) ++changed, up += at_a > 0 ? 1 : 0;
  }
  // Both signs come about equally often.
  EXPECT_GT(changed, 20U);
  EXPECT_GT(up, changed / 5);
  EXPECT_LT(up, changed * 4 / 5);
}

INSTANTIATE_TEST_SUITE_P(Engine, BackwardFamilies, testing::ValuesIn(families()),
                         [](const auto& each) { return each.param.name; });

}  // namespace
}  // namespace quantfit::test
