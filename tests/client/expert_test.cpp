// A mixture of experts token by token: with the client's arithmetic our engine sends every token to the
// experts that llama.cpp sends it to, except where two of them are as good as equal, and everything that the
// same experts read is the same. So what differs between importance matrices and divergences of the two is
// what these few tokens bring along.
//
// In a program of its own: llama.cpp's libraries for CPUs with AMX do not round activations in front of
// matrices in F16, so one of the others is asked for before the first test.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <vector>

#include "core/importance_matrix.h"
#include "optimizer/calibration/evaluate.h"
#include "optimizer/calibration/text.h"
#include "tests/client/evaluation.h"
#include "tests/client/expert_trace.h"
#include "tests/client/reference_model.h"
#include "tests/support/test_paths.h"

namespace quantfit::test {
namespace {

#if defined(__x86_64__)
// Whoever set another one by hand means it.
[[maybe_unused]] const int kAsked =
    setenv("QUANTFIT_REFERENCE_CPU",
           __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512vl") != 0 ? "skylakex"
                                                                                              : "haswell",
           0);
#endif

// More by hand, where QUANTFIT_TEST_WINDOWS says so.
std::uint32_t windows_or(std::uint32_t usual) {
  const char* wanted = std::getenv("QUANTFIT_TEST_WINDOWS");
  return wanted == nullptr ? usual : static_cast<std::uint32_t>(std::atoi(wanted));
}

// Which tokens chose other experts in any layer so far.
using Moved = std::vector<bool>;

struct Agreement {
  std::size_t moved = 0;           // tokens whose choice differs in this layer
  std::size_t surprising = 0;      // of these, whose window no earlier move had touched
  double widest_gap = 0;           // of the router's scores, among these
  double score_error = 0;          // root of the mean squared difference of scores
  double worst_column = 0;         // of sums of squares over tokens that chose the expert in both, by theirs
  double worst_column_of_all = 0;  // over all tokens that chose the expert
};

class Sums {
 public:
  explicit Sums(std::size_t columns) : ours_(columns), theirs_(columns) {}
  void add(const float* ours, const float* theirs) {
    for (std::size_t j = 0; j < ours_.size(); ++j) {
      if (ours != nullptr) ours_[j] += static_cast<double>(ours[j]) * ours[j];
      if (theirs != nullptr) theirs_[j] += static_cast<double>(theirs[j]) * theirs[j];
    }
    our_count_ += ours != nullptr ? 1 : 0;
    their_count_ += theirs != nullptr ? 1 : 0;
  }
  // Of mean squares, in columns that matter: not below a thousandth of the mean.
  [[nodiscard]] double worst() const {
    double mean = 0, worst = 0;
    for (const double sum : theirs_) mean += sum / static_cast<double>(theirs_.size());
    for (std::size_t j = 0; j < ours_.size(); ++j)
      if (theirs_[j] >= 1e-3 * mean)
        worst = std::max(worst, std::fabs(ours_[j] / our_count_ / (theirs_[j] / their_count_) - 1));
    return worst;
  }

 private:
  std::vector<double> ours_, theirs_;
  double our_count_ = 0, their_count_ = 0;
};

constexpr std::uint32_t kWindow = 256;

// `moved` is brought up to date with this layer.
Agreement compare(const ExpertTrace& ours, const ExpertTrace& theirs, std::size_t layer, Moved& moved) {
  Agreement out;
  const ExpertLayer &x = ours.layers[layer], &y = theirs.layers[layer];
  const Moved before = moved;
  const auto window_moved = [&](std::size_t token) {
    const auto first = before.begin() + static_cast<std::ptrdiff_t>(token / kWindow * kWindow);
    return std::find(first, first + kWindow, true) != first + kWindow;
  };
  for (std::size_t i = 0; i < y.scores.size(); ++i)
    out.score_error += std::pow(static_cast<double>(x.scores[i]) - y.scores[i], 2);
  out.score_error = std::sqrt(out.score_error / static_cast<double>(y.scores.size()));
  for (std::size_t t = 0; t < theirs.tokens; ++t) {
    if (std::ranges::equal(ours.chosen(layer, t), theirs.chosen(layer, t))) continue;
    ++out.moved;
    moved[t] = true;
    if (window_moved(t)) continue;
    ++out.surprising;
    out.widest_gap = std::max(out.widest_gap, static_cast<double>(theirs.gap(layer, t)));
  }
  for (std::uint32_t e = 0; e < theirs.experts; ++e) {
    Sums input(theirs.width), hidden(theirs.hidden_width), all_input(theirs.width),
        all_hidden(theirs.hidden_width);
    for (std::size_t t = 0; t < theirs.tokens; ++t) {
      const auto place = [&](const ExpertTrace& trace) -> std::optional<std::size_t> {
        const auto chosen = trace.chosen(layer, t);
        const auto found = std::ranges::find(chosen, e);
        if (found == chosen.end()) return std::nullopt;
        return t * trace.used + static_cast<std::size_t>(found - chosen.begin());
      };
      const auto mine = place(ours), their = place(theirs);
      const float* in = mine ? x.expert_input.data() + t * theirs.width : nullptr;
      const float* their_in = their ? y.expert_input.data() + t * theirs.width : nullptr;
      const float* act = mine ? x.hidden.data() + *mine * theirs.hidden_width : nullptr;
      const float* their_act = their ? y.hidden.data() + *their * theirs.hidden_width : nullptr;
      all_input.add(in, their_in), all_hidden.add(act, their_act);
      if (!mine || !their || before[t]) continue;
      input.add(in, their_in), hidden.add(act, their_act);
    }
    out.worst_column = std::max({out.worst_column, input.worst(), hidden.worst()});
    out.worst_column_of_all = std::max({out.worst_column_of_all, all_input.worst(), all_hidden.worst()});
  }
  return out;
}

double worst_other_column(const ExpertTrace& ours, const ExpertTrace& theirs) {
  double worst = 0;
  for (const auto& [name, sums] : ours.squares) {
    const auto& reference = theirs.squares.at(name);
    double mean = 0;
    for (const double sum : reference) mean += sum / static_cast<double>(reference.size());
    for (std::size_t j = 0; j < sums.size(); ++j)
      if (reference[j] >= 1e-3 * mean) worst = std::max(worst, std::fabs(sums[j] / reference[j] - 1));
  }
  return worst;
}

void print(const char* what, std::size_t layer, const Agreement& a) {
  std::printf(
      "%s, layer %zu: scores differ by %.1e; %zu tokens moved, %zu of them in windows of their own, gaps up "
      "to "
      "%.1e; columns differ by at most %.1e, with moved tokens %.1e\n",
      what, layer, a.score_error, a.moved, a.surprising, a.widest_gap, a.worst_column, a.worst_column_of_all);
}

class Experts : public testing::Test {
 protected:
  void SetUp() override {
    const auto library = LlamaLibrary::load();
    if (!library) GTEST_SKIP() << library.error().message;
    const auto shared = shared_dir();
    if (!shared) GTEST_SKIP() << "the larger data are not there; no mixture of experts was run";
    folder_ = *shared / "models";
    path_ = folder_ / "tale-moe-F16.gguf";
  }
  [[nodiscard]] calibration::Text text(const Model& model, const char* name, std::uint32_t windows) const {
    calibration::TextRequest request;
    request.texts = {folder_ / name};
    request.context = kWindow;
    request.most = windows;
    return calibration::read_text(model, request).value();
  }

  std::filesystem::path folder_, path_;
};

TEST_F(Experts, OneLayerChoosesAndReadsWhatTheClientDoes) {
  const Model model = Model::open(path_).value();
  const auto windows = text(model, "calib.txt", windows_or(24)).inputs();
  const auto theirs = trace_client(path_, windows, 1);
  ASSERT_TRUE(theirs) << theirs.error().message;
  const auto engine = engine::Engine::open(model, engine::Arithmetic::LlamaCpp).value();
  const auto ours = trace_engine(engine, windows, &theirs.value());
  ASSERT_TRUE(ours) << ours.error().message;
  for (std::size_t layer = 0; layer < theirs.value().layers.size(); ++layer) {
    Moved moved(theirs.value().tokens);
    const Agreement a = compare(ours.value(), theirs.value(), layer, moved);
    print("from the client's inputs", layer, a);
    EXPECT_LT(a.widest_gap, 5e-5) << layer;
    EXPECT_LE(a.moved, 1 + theirs.value().tokens / 30'000) << layer;
    EXPECT_LT(a.worst_column, 5e-4) << layer;
    EXPECT_LT(a.score_error, 3e-5) << layer;
  }
  const double other = worst_other_column(ours.value(), theirs.value());
  std::printf("columns of other matrices differ by at most %.1e\n", other);
  EXPECT_LT(other, 3e-4);
}

TEST_F(Experts, WholeModelDiffersByTokensAtNearTiesAlone) {
  const Model model = Model::open(path_).value();
  const auto windows = text(model, "calib.txt", windows_or(24)).inputs();
  const auto theirs = trace_client(path_, windows, 1);
  ASSERT_TRUE(theirs) << theirs.error().message;
  const auto engine = engine::Engine::open(model, engine::Arithmetic::LlamaCpp).value();
  const auto ours = trace_engine(engine, windows);
  ASSERT_TRUE(ours) << ours.error().message;
  Moved moved(theirs.value().tokens);
  for (std::size_t layer = 0; layer < theirs.value().layers.size(); ++layer) {
    const Agreement a = compare(ours.value(), theirs.value(), layer, moved);
    print("whole model", layer, a);
    EXPECT_LT(a.widest_gap, 1e-3) << layer;
    EXPECT_LE(a.moved, 3 + theirs.value().tokens / 5'000) << layer;
    EXPECT_LT(a.worst_column, 1e-3) << layer;
  }
  const double other = worst_other_column(ours.value(), theirs.value());
  std::printf("columns of other matrices differ by at most %.1e\n", other);
  EXPECT_LT(other, 1e-3);
}

// Mean KL divergence of quantized copies from the model, ours over the client's.
TEST_F(Experts, DivergencesAreTheClients) {
  const Model model = Model::open(path_).value();
  const auto importance = ImportanceMatrix::read(folder_ / "tale-moe.imatrix.gguf").value();
  const std::uint32_t count = windows_or(16);
  const calibration::Text held_out = text(model, "eval-books.txt", count);
  const auto windows = held_out.inputs();
  const auto bytes = read_file(folder_ / "eval-books.txt");
  const TemporaryFolder folder;
  const auto theirs_of_base = trace_client(path_, windows, 1);
  ASSERT_TRUE(theirs_of_base) << theirs_of_base.error().message;
  const auto arithmetic = engine::Arithmetic::LlamaCpp;
  const auto ours_of_base = trace_engine(engine::Engine::open(model, arithmetic).value(), windows).value();
  for (const std::string name : {"Q4_K_M", "Q6_K"}) {
    const auto path = folder / (name + ".gguf");
    ASSERT_TRUE(
        write_reference_model(model, preset_recipe(model, name, true).value(), &importance, {}, path, 1));
    EvaluationOptions options;
    options.chunks = count;
    options.workers = 1;
    const auto client = evaluate(path_, std::vector{path},
                                 {reinterpret_cast<const char*>(bytes.data()), bytes.size()}, options);
    ASSERT_TRUE(client) << client.error().message;
    const std::vector<float>& theirs = client.value().candidates[0].kld_of_position;

    const Model quantized = Model::open(path).value();
    const Model* const candidate = &quantized;
    NoProgress progress;
    const CancellationToken cancel;
    calibration::EvaluateOptions own_options;
    own_options.arithmetic = arithmetic;
    const auto engine =
        calibration::evaluate(model, {&candidate, 1}, held_out, own_options, progress, cancel);
    ASSERT_TRUE(engine) << engine.error().message;
    const auto& ours = engine.value().candidates[0];
    ASSERT_EQ(ours.size(), theirs.size());

    const auto theirs_of_candidate = trace_client(path, windows, 1).value();
    const auto ours_of_candidate =
        trace_engine(engine::Engine::open(quantized, arithmetic).value(), windows).value();
    double our_sum = 0, their_sum = 0, our_alike = 0, their_alike = 0;
    std::size_t alike = 0;
    for (std::size_t i = 0; i < ours.size(); ++i) {
      our_sum += ours[i].divergence, their_sum += theirs[i];
      const std::size_t scored = held_out.windows.scored();
      const std::size_t token = i / scored * kWindow + held_out.windows.first_scored() + i % scored;
      bool same = true;
      for (std::size_t layer = 0; layer < ours_of_base.layers.size(); ++layer) {
        same = same &&
               std::ranges::equal(ours_of_base.chosen(layer, token),
                                  theirs_of_base.value().chosen(layer, token)) &&
               std::ranges::equal(ours_of_candidate.chosen(layer, token),
                                  theirs_of_candidate.chosen(layer, token));
      }
      if (!same) continue;
      ++alike;
      our_alike += ours[i].divergence, their_alike += theirs[i];
    }
    std::printf(
        "%s: %.6f, over the client's %.4f; of %zu positions %zu chose alike, over the client's %.4f\n",
        name.c_str(), our_sum / static_cast<double>(ours.size()), our_sum / their_sum, ours.size(), alike,
        our_alike / their_alike);
    EXPECT_GT(static_cast<double>(alike), 0.99 * static_cast<double>(ours.size())) << name;
    EXPECT_NEAR(our_alike / their_alike, 1, 0.01) << name;
    EXPECT_NEAR(our_sum / their_sum, 1, 0.05) << name;
  }
}

}  // namespace
}  // namespace quantfit::test
