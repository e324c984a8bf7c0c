// Families without a recorded model, and further shapes of the others: generated models through the real
// llama.cpp and through the engine.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "tests/client/llama_library.h"
#include "tests/optimizer/engine/generated_families.h"
#include "tests/optimizer/engine/recorded_model.h"
#include "tests/support/test_paths.h"

namespace quantfit::test {
namespace {

class Client : public testing::TestWithParam<GeneratedShape> {};

TEST_P(Client, LogitsAgree) {
  GeneratedShape shape = GetParam();
  const auto library = LlamaLibrary::load();
  if (!library) GTEST_SKIP() << library.error().message;
  const TemporaryFolder folder;
  const auto path = folder / "model.gguf";
  write_generated(shape, path);
  auto client = LlamaModel::open(path, 64, 1, ClientPrecision::Float32);
  ASSERT_TRUE(client) << client.error().message;
  std::mt19937 random(3);
  std::vector<std::int32_t> tokens(48);
  for (std::int32_t& token : tokens) token = static_cast<std::int32_t>(random() % shape.vocabulary);
  ASSERT_TRUE(client.value().decode(tokens, 0));
  std::vector<std::vector<float>> theirs;
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    const auto row = client.value().logits(t);
    theirs.emplace_back(row.begin(), row.end());
  }
  const auto model = Model::open(path);
  ASSERT_TRUE(model);
  const auto engine = engine::Engine::open(model.value());
  ASSERT_TRUE(engine) << engine.error().message;
  const auto ours = logits_of(engine.value(), {tokens, {48}}, {.threads = 1});
  ASSERT_TRUE(ours) << ours.error().message;
  const LogitDifference difference = compare_logits(theirs, ours.value());
  bool gelu = false;
  for (const engine::LayerGraph& layer : engine.value().graph().layers) {
    gelu = gelu || layer.ffn.activation == engine::Activation::Gelu ||
           layer.experts.experts.activation == engine::Activation::Gelu;
  }
  std::printf("%-24s largest difference %.2g, KL divergence %.2g\n", shape.name.c_str(), difference.largest,
              difference.divergence);
  const double coarse = shape.format == Format::BF16 ? 0.3 : shape.format == Format::F16 ? 0.05 : 0;
  EXPECT_LT(difference.largest, coarse != 0 ? coarse : gelu ? 5e-2 : 3e-4);
  EXPECT_LT(difference.divergence, shape.format == Format::BF16 ? 1e-3 : 1e-5);
}

// A model that was really trained: the same tokens scored by both.
TEST(TrainedModel, PerplexityIsTheClients) {
  constexpr std::size_t kWindow = 256, kWindows = 8, kFirst = kWindow / 2;
  const auto library = LlamaLibrary::load();
  if (!library) GTEST_SKIP() << library.error().message;
  const auto path = data_dir() / "tale-dense-F16.gguf";
  auto client = LlamaModel::open(path, kWindow, 1);
  ASSERT_TRUE(client) << client.error().message;
  const std::vector<std::byte> text = read_file(data_dir() / "eval-books.txt");
  const auto tokens = client.value().tokenize({reinterpret_cast<const char*>(text.data()), text.size()});
  ASSERT_TRUE(tokens);
  const auto windows =
      engine::TokenWindows::of_length(std::span(tokens.value()).first(kWindow * kWindows), kWindow);
  const auto model = Model::open(path);
  ASSERT_TRUE(model);
  const auto engine = engine::Engine::open(model.value());
  ASSERT_TRUE(engine);
  const auto ours = logits_of(engine.value(), windows, {.threads = 1});
  ASSERT_TRUE(ours);
  const auto surprise = [](std::span<const float> z, std::int32_t target) {
    double sum = 0;
    const double top = *std::max_element(z.begin(), z.end());
    for (const float v : z) sum += std::exp(v - top);
    return top + std::log(sum) - z[static_cast<std::size_t>(target)];
  };
  double our_sum = 0, their_sum = 0;
  for (std::size_t w = 0; w < kWindows; ++w) {
    const auto window = std::span(tokens.value()).subspan(w * kWindow, kWindow);
    ASSERT_TRUE(client.value().decode(window, kFirst));
    for (std::size_t j = kFirst; j + 1 < kWindow; ++j) {
      our_sum += surprise(ours.value()[w * kWindow + j], window[j + 1]);
      their_sum += surprise(client.value().logits(j - kFirst), window[j + 1]);
    }
  }
  const double count = kWindows * (kWindow - 1 - kFirst);
  std::printf("perplexity %.4f, llama.cpp %.4f\n", std::exp(our_sum / count), std::exp(their_sum / count));
  EXPECT_NEAR(our_sum / count, their_sum / count, 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Engine, Client, testing::ValuesIn(generated_families()),
                         [](const auto& each) { return each.param.name; });

}  // namespace
}  // namespace quantfit::test
