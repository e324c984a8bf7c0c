// Gradients of the divergence at scales and values against differences of the divergence itself.
#include "optimizer/tuning/gradients.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "kernels/block_scales.h"
#include "optimizer/tuning/teacher.h"
#include "tests/optimizer/engine/generated_shape.h"
#include "tests/optimizer/tuning/quantized_copy.h"

namespace quantfit::test {
namespace {

using namespace tuning;

engine::ReplacedTensors replaced_of(const Parameters& parameters) {
  engine::ReplacedTensors out;
  for (const Parameter& one : parameters.all()) out.emplace(one.tensor, one.bytes);
  return out;
}

struct Gradients {
  double loss = 0;
  std::vector<std::vector<double>> all;
};

Gradients gradients_of(const Model& quantized, const Teacher& teacher, const WindowList& list,
                       Parameters& parameters, const engine::RunOptions& run) {
  const auto student =
      engine::Engine::open(quantized, engine::Arithmetic::Exact, replaced_of(parameters)).value();
  const auto windows = windows_of(teacher.windows(), list);
  DivergenceLoss loss(*kernels::default_math_kernels().value(), teacher, list);
  GradientCollector collector(*kernels::default_math_kernels().value(), *kernels::default_kernels().value(),
                              parameters, windows.lengths);
  parameters.clear_gradients();
  NoProgress progress;
  const CancellationToken cancel;
  const auto done = engine::BackwardPass(student).run(windows, {.run = run, .loss = &loss}, nullptr,
                                                      collector, progress, cancel);
  EXPECT_TRUE(done) << done.error().message;
  Gradients out{loss.sum(), {}};
  for (const Parameter& one : parameters.all()) out.all.push_back(one.gradient);
  return out;
}

// Number `i` of a tensor as its bytes have it.
double stored(const Parameter& one, std::size_t i) {
  Parameter copy;
  copy.tensor = one.tensor;
  copy.kind = one.kind;
  if (one.kind == Parameter::Kind::Values) {
    float value = 0;
    std::memcpy(&value, one.bytes.data() + i * sizeof(float), sizeof(float));
    return value;
  }
  const std::size_t per_block = kernels::block_scales(one.tensor->format);
  return kernels::block_scale(one.tensor->format,
                              one.bytes.data() + i / per_block * traits(one.tensor->format).block_bytes,
                              i % per_block);
}

// Every tensor's numbers move a little along their gradient, with noise; what the divergence does is what the
// gradient says of what was stored.
void expect_gradients_of_the_loss(const Model& original, const Model& quantized,
                                  const engine::TokenWindows& text, double largest_miss) {
  const auto base = engine::Engine::open(original).value();
  const auto plain = engine::Engine::open(quantized).value();
  NoProgress progress;
  const CancellationToken cancel;
  const auto teacher = Teacher::run(base, text, {.threads = 1}, true, progress, cancel).value();
  WindowList list;
  for (std::uint32_t w = 0; w < text.lengths.size(); ++w) list.push_back(w);
  Parameters parameters = Parameters::collect(quantized, plain.graph(), original,
                                              *kernels::default_kernels().value(), Level::Scales)
                              .value();
  const Gradients gradients = gradients_of(quantized, teacher, list, parameters, {.threads = 1});
  const auto mean = teacher.divergences(plain, list, progress, cancel).value();
  double sum = 0;
  for (const double one : mean) sum += one * static_cast<double>(text.lengths.front());
  EXPECT_NEAR(gradients.loss, sum, 1e-5 * sum);
  const auto student =
      engine::Engine::open(quantized, engine::Arithmetic::Exact, replaced_of(parameters)).value();
  const auto loss = [&] {
    double out = 0;
    const auto means = teacher.divergences(student, list, progress, cancel).value();
    for (const double one : means) out += one * static_cast<double>(text.lengths.front());
    return out;
  };
  std::size_t checked = 0;
  for (std::size_t p = 0; p < parameters.all().size(); ++p) {
    Parameter& one = parameters.all()[p];
    double largest = 0;
    for (std::size_t i = 0; i < one.size(); ++i)
      largest = std::max(largest, std::abs(gradients.all[p][i] * static_cast<double>(one.unit(i))));
    if (largest == 0) continue;
    std::mt19937 random(9);
    std::vector<float> direction(one.size());
    for (std::size_t i = 0; i < one.size(); ++i)
      direction[i] = static_cast<float>(gradients.all[p][i] * static_cast<double>(one.unit(i)) / largest) +
                     0.1F * (static_cast<float>(random() % 1000) / 500.0F - 1);
    double best = 1e30;
    for (const float step : {0.03F, 0.01F}) {
      double expected = 0, values[2], at[2] = {0, 0};
      for (const int side : {0, 1}) {
        for (std::size_t i = 0; i < one.size(); ++i)
          one.offset[i] = (side == 0 ? step : -step) * direction[i];
        one.store();
        for (std::size_t i = 0; i < one.size(); ++i)
          at[side] += gradients.all[p][i] * (stored(one, i) - static_cast<double>(one.start[i]));
        values[side] = loss();
      }
      expected = at[0] - at[1];
      best = std::min(best, std::abs((values[0] - values[1]) / expected - 1));
    }
    std::ranges::fill(one.offset, 0.0F);
    one.store();
    EXPECT_LT(best, largest_miss) << one.tensor->name;
    ++checked;
  }
  EXPECT_GT(checked, 10U);
}

TEST(TuningGradients, AreThoseOfTheDivergenceOfATrainedModel) {
  const TemporaryFolder folder;
  const Model quantized = quantized_copy(trained_model(), folder / "q.gguf", mixed_format);
  expect_gradients_of_the_loss(trained_model(), quantized, trained_text(2, 16).inputs(), 0.03);
}

TEST(TuningGradients, AreThoseOfTheDivergenceWithExpertsAndBiases) {
  const TemporaryFolder folder;
  GeneratedShape shape{.architecture = "qwen3moe",
                       .head_dim = 8,
                       .qk_norm = GeneratedShape::QkNorm::PerHead,
                       .experts = 4,
                       .expert_ffn = 32};
  for (const bool experts : {true, false}) {
    if (!experts) shape = {.ffn = 64, .qkv_bias = true, .output_bias = true, .ffn_bias = true};
    shape.format = Format::F32;
    write_generated(shape, folder / "f32.gguf");
    shape.format = Format::Q4_0;
    write_generated(shape, folder / "q.gguf");
    const Model original = Model::open(folder / "f32.gguf").value(),
                quantized = Model::open(folder / "q.gguf").value();
    engine::TokenWindows text;
    std::mt19937 random(4);
    for (int i = 0; i < 60; ++i)
      text.tokens.push_back(static_cast<std::int32_t>(random() % shape.vocabulary));
    text.lengths = {20, 20, 20};
    expect_gradients_of_the_loss(original, quantized, text, 0.05);
  }
}

TEST(TuningGradients, SameBitsWhateverTheThreadsAndBatches) {
  const TemporaryFolder folder;
  const Model quantized = quantized_copy(trained_model(), folder / "q.gguf", mixed_format);
  const auto base = engine::Engine::open(trained_model()).value();
  const auto plain = engine::Engine::open(quantized).value();
  const auto text = trained_text(3, 20).inputs();
  NoProgress progress;
  const CancellationToken cancel;
  const auto teacher = Teacher::run(base, text, {.threads = 1}, true, progress, cancel).value();
  const auto pass = [&](const engine::RunOptions& run) {
    Parameters parameters = Parameters::collect(quantized, plain.graph(), trained_model(),
                                                *kernels::default_kernels().value(), Level::Scales)
                                .value();
    return gradients_of(quantized, teacher, {0, 2}, parameters, run).all;
  };
  const auto reference = pass({.threads = 1});
  EXPECT_TRUE(reference == pass({.threads = 2})) << "two threads";
  EXPECT_TRUE(reference == pass({.threads = 3, .batch_tokens = 1})) << "small batches";
}

}  // namespace
}  // namespace quantfit::test
