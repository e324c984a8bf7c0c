#include "optimizer/calibration/evaluate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/gguf_writer.h"
#include "kernels/half.h"
#include "tests/optimizer/calibration/trained_text.h"

namespace quantfit::test {
namespace {

using namespace calibration;
using ::testing::HasSubstr;

Result<EvaluationScores> scores_of(const Text& text, std::span<const Model* const> candidates,
                                   const EvaluateOptions& options = {}) {
  NoProgress progress;
  const CancellationToken cancel;
  return evaluate(trained_model(), candidates, text, options, progress, cancel);
}

// A copy of the trained model whose first block's down projection is multiplied by a factor.
Model changed_model(const std::filesystem::path& path, float factor) {
  const Model& source = trained_model();
  std::vector<TensorInfo> infos(source.tensors().begin(), source.tensors().end());
  for (TensorInfo& info : infos)
    if (info.name == "blk.0.ffn_down.weight") info.format = Format::F32;
  auto writer = GgufWriter::create(path, source.metadata(), infos).value();
  for (const TensorInfo& tensor : source.tensors()) {
    const auto bytes = source.data(tensor);
    if (tensor.name != "blk.0.ffn_down.weight") {
      EXPECT_TRUE(writer.append(bytes));
      continue;
    }
    std::vector<float> values(tensor.elements());
    for (std::size_t i = 0; i < values.size(); ++i) {
      std::uint16_t half = 0;
      std::memcpy(&half, bytes.data() + 2 * i, 2);
      values[i] = kernels::half_to_float(half) * factor;
    }
    EXPECT_TRUE(writer.append(std::as_bytes(std::span(values))));
  }
  EXPECT_TRUE(writer.commit());
  return Model::open(path).value();
}

TEST(Evaluate, FiguresAreThoseOfPlainSoftmaxInDouble) {
  const TemporaryFolder folder;
  const Model other = changed_model(folder / "other.gguf", 0.8F);
  const Text text = trained_text(2, 32);
  const Model* candidates[] = {&other};
  const auto scores = scores_of(text, candidates).value();
  ASSERT_EQ(scores.chunk_positions, 15U);
  ASSERT_EQ(scores.base.size(), 30U);

  const auto log_probabilities = [&](const Model& model) {
    const auto engine = engine::Engine::open(model).value();
    NoProgress progress;
    const CancellationToken cancel;
    const auto states = engine.run(text.inputs(), {}, nullptr, progress, cancel).value();
    std::vector<float> buffer;
    const auto rows = states.read(0, 64, buffer).value();
    std::vector<float> logits(64 * 4096);
    EXPECT_TRUE(engine.logits(rows, {logits.data(), 64, 4096, 4096}));
    std::vector<double> out(logits.begin(), logits.end());
    for (std::size_t t = 0; t < 64; ++t) {
      double sum = 0;
      for (std::size_t v = 0; v < 4096; ++v) sum += std::exp(out[t * 4096 + v]);
      for (std::size_t v = 0; v < 4096; ++v) out[t * 4096 + v] -= std::log(sum);
    }
    return out;
  };
  const auto p = log_probabilities(trained_model()), q = log_probabilities(other);
  for (std::size_t i = 0; i < 30; ++i) {
    const std::size_t window = i / 15, position = 16 + i % 15, row = window * 32 + position;
    const std::size_t target = text.windows.text(window)[position + 1];
    double divergence = 0;
    for (std::size_t v = 0; v < 4096; ++v) {
      const double lp = p[row * 4096 + v], lq = q[row * 4096 + v];
      divergence += std::exp(lp) * (lp - lq);
    }
    EXPECT_NEAR(scores.base[i].log_loss, -p[row * 4096 + target], 1e-5);
    EXPECT_NEAR(scores.candidates[0][i].log_loss, -q[row * 4096 + target], 1e-5);
    EXPECT_NEAR(scores.candidates[0][i].divergence, divergence, 1e-6 + 1e-4 * divergence);
    EXPECT_NEAR(scores.candidates[0][i].probability_difference,
                std::exp(q[row * 4096 + target]) - std::exp(p[row * 4096 + target]), 1e-6);
  }
}

TEST(Evaluate, TheBaseAgainstItselfDivergesNowhere) {
  const Model* candidates[] = {&trained_model()};
  const auto scores = scores_of(trained_text(2), candidates).value();
  for (const CandidateScore& score : scores.candidates[0]) {
    EXPECT_EQ(score.divergence, 0);
    EXPECT_TRUE(score.same_top);
  }
}

TEST(Evaluate, TheSameBitsWithAnyMemoryAndThreads) {
  const TemporaryFolder folder;
  const Model other = changed_model(folder / "other.gguf", 0.9F);
  const Model* candidates[] = {&other, &trained_model()};
  const Text text = trained_text(6);
  const auto expected = scores_of(text, candidates).value();
  EvaluateOptions options;
  options.run.threads = 1;
  options.run.memory_limit = 6'000'000;
  const auto scores = scores_of(text, candidates, options);
  ASSERT_TRUE(scores) << scores.error().message;
  for (std::size_t i = 0; i < expected.base.size(); ++i) {
    ASSERT_EQ(scores.value().base[i].log_loss, expected.base[i].log_loss);
    ASSERT_EQ(scores.value().candidates[0][i].divergence, expected.candidates[0][i].divergence);
  }
}

TEST(Evaluate, StopsWhenThePrecisionAskedForIsReached) {
  const TemporaryFolder folder;
  const Model other = changed_model(folder / "other.gguf", 0.8F);
  const Model* candidates[] = {&other};
  const Text text = trained_text(96, 32);
  EvaluateOptions options;
  options.precision = 0.2;
  const auto scores = scores_of(text, candidates, options).value();
  EXPECT_EQ(scores.chunks, 32U);
  options.precision = 1e-6;
  EXPECT_EQ(scores_of(text, candidates, options).value().chunks, 96U);
}

TEST(Evaluate, AModelThatGivesNoNumbersIsRefusedByName) {
  const TemporaryFolder folder;
  const Model wild = changed_model(folder / "wild.gguf", std::numeric_limits<float>::max());
  const Model* candidates[] = {&wild};
  const auto refused = scores_of(trained_text(2), candidates);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("wild.gguf"));
}

// To four digits the perplexity that the field's tool reports for the same windows.
TEST(Evaluate, PerplexityOfTheTrainedModels) {
  const auto shared = shared_dir();
  if (!shared) GTEST_SKIP() << "the trained models are not here";
  for (const auto& [name, expected] : {std::pair("tale-dense", 47.391), std::pair("tale-moe", 70.136)}) {
    const auto model = Model::open(*shared / "models" / (std::string(name) + "-F16.gguf")).value();
    TextRequest request;
    request.texts = {*shared / "models" / "eval-books.txt"};
    request.context = 256;
    const Text text = read_text(model, request).value();
    EXPECT_EQ(text.windows.count(), 328U);
    NoProgress progress;
    const CancellationToken cancel;
    const auto scores = evaluate(model, {}, text, {}, progress, cancel).value();
    EXPECT_NEAR(perplexity(scores.base).value, expected, 0.006) << name;
  }
}

}  // namespace
}  // namespace quantfit::test
