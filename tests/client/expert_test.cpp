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
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/importance_matrix.h"
#include "kernels/half.h"
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

// A token whose last choice may have gone the other way.
struct Candidate {
  std::size_t token = 0;
  std::uint32_t from = 0, to = 0;  // the last expert chosen, the first one left out
  float gap = 0;
  std::vector<float> input, scores, hidden;  // hidden: of the chosen ones
  std::vector<std::uint32_t> chosen;
  std::vector<float> other_hidden;  // of `to`
};

// One layer of the mixture, from its weights: what a token that goes elsewhere brings along.
class ExpertWeights {
 public:
  ExpertWeights(const Model& model, std::size_t layer) : model_(&model) {
    const std::string block = "blk." + std::to_string(layer) + ".";
    gate_ = model.find(block + "ffn_gate_exps.weight"), up_ = model.find(block + "ffn_up_exps.weight"),
    down_ = model.find(block + "ffn_down_exps.weight");
  }
  // What the expert's last matrix reads of a token.
  [[nodiscard]] std::vector<float> hidden(std::uint32_t expert, std::span<const float> input) const {
    const auto gate = product(*gate_, expert, input), up = product(*up_, expert, input);
    std::vector<float> out(gate.size());
    for (std::size_t j = 0; j < out.size(); ++j)
      out[j] = static_cast<float>(gate[j] / (1 + std::exp(-gate[j])) * up[j]);
    return out;
  }
  // The layer's output for `c` had it gone the other way, less what it was.
  [[nodiscard]] std::vector<double> change(const Candidate& c) const {
    std::vector<double> out;
    const auto add = [&](std::uint32_t expert, std::span<const float> hidden, double weight) {
      const auto y = product(*down_, expert, hidden);
      out.resize(y.size());
      for (std::size_t j = 0; j < y.size(); ++j) out[j] += weight * y[j];
    };
    const auto weight_of = [&](std::span<const std::uint32_t> chosen, std::uint32_t expert) {
      double sum = 0;
      for (const std::uint32_t e : chosen) sum += std::exp(static_cast<double>(c.scores[e]));
      return std::exp(static_cast<double>(c.scores[expert])) / sum;
    };
    std::vector<std::uint32_t> other = c.chosen;
    std::ranges::replace(other, c.from, c.to);
    const std::size_t width = c.hidden.size() / c.chosen.size();
    for (std::size_t s = 0; s < c.chosen.size(); ++s) {
      const std::uint32_t e = c.chosen[s];
      const auto hidden = std::span(c.hidden).subspan(s * width, width);
      add(e, hidden, (e == c.from ? 0 : weight_of(other, e)) - weight_of(c.chosen, e));
    }
    add(c.to, c.other_hidden, weight_of(other, c.to));
    return out;
  }

 private:
  [[nodiscard]] std::vector<double> product(const TensorInfo& tensor, std::uint32_t expert,
                                            std::span<const float> x) const {
    const std::size_t columns = tensor.ne[0], rows = tensor.ne[1];
    const auto bytes = model_->data(tensor).subspan(expert * rows * columns * sizeof(std::uint16_t));
    std::vector<double> out(rows);
    for (std::size_t i = 0; i < rows; ++i) {
      for (std::size_t j = 0; j < columns; ++j) {
        std::uint16_t half = 0;
        std::memcpy(&half, bytes.data() + (i * columns + j) * sizeof(half), sizeof(half));
        out[i] += static_cast<double>(kernels::half_to_float(half)) * kernels::round_to_half(x[j]);
      }
    }
    return out;
  }

  const Model* model_;
  const TensorInfo *gate_ = nullptr, *up_ = nullptr, *down_ = nullptr;
};

// Sums of squares of one tensor's inputs, expert by expert, ours and the recorded ones.
struct ExpertSums {
  std::size_t columns = 0;
  std::vector<double> ours, theirs;
  std::vector<double> counts, their_counts;

  explicit ExpertSums(const ImportanceEntry& entry)
      : columns(entry.sum_squares.size() / entry.matrices),
        ours(entry.sum_squares.size()),
        counts(entry.matrices),
        their_counts(entry.counts) {
    for (std::size_t i = 0; i < entry.sum_squares.size(); ++i)
      theirs.push_back(static_cast<double>(entry.sum_squares[i]));
  }
  void add(std::uint32_t expert, std::span<const float> x, double sign) {
    for (std::size_t j = 0; j < columns; ++j)
      ours[expert * columns + j] += sign * static_cast<double>(x[j]) * x[j];
    counts[expert] += sign;
  }
  // Sum of squares of relative differences, in an expert's columns.
  [[nodiscard]] double distance(std::uint32_t expert) const {
    double sum = 0;
    for (std::size_t j = expert * columns; j < (expert + 1) * columns; ++j)
      sum += std::pow(ours[j] / theirs[j] - 1, 2);
    return sum;
  }
  // Of mean squares, in columns that matter.
  [[nodiscard]] double worst() const {
    double worst = 0;
    for (std::size_t e = 0; e < counts.size(); ++e) {
      double mean = 0;
      for (std::size_t j = 0; j < columns; ++j)
        mean += theirs[e * columns + j] / static_cast<double>(columns);
      for (std::size_t j = e * columns; j < (e + 1) * columns; ++j)
        if (theirs[j] >= 1e-3 * mean)
          worst = std::max(worst, std::fabs(ours[j] / counts[e] / (theirs[j] / their_counts[e]) - 1));
    }
    return worst;
  }
};

// The matrix that the field's tool made with the shared models, on another machine, and without a trace of
// where its tokens went. In every column that matters it is ours to a thousandth, as soon as a few tokens of
// 61,440 go the other way, each of them at a near tie. Which ones, the matrix itself tells: they are taken
// one by one as long as that brings the sums nearer, and the layers above then read what they would have
// read.
class RecordedMatrix : public testing::TestWithParam<engine::Arithmetic> {};

TEST_P(RecordedMatrix, IsOursButForTokensAtNearTies) {
  const bool exact = GetParam() == engine::Arithmetic::Exact;
  const float near_tie = exact ? 2e-3F : 1e-3F;
  const auto shared = shared_dir();
  if (!shared) GTEST_SKIP() << "the recorded importance matrices are not here";
  const Model model = Model::open(*shared / "models" / "tale-moe-F16.gguf").value();
  const auto recorded = ImportanceMatrix::read(*shared / "models" / "tale-moe.imatrix.gguf").value();
  calibration::TextRequest request;
  request.texts = {*shared / "models" / "calib.txt"};
  request.context = kWindow;
  request.most = 240;
  const calibration::Text text = calibration::read_text(model, request).value();
  const auto engine = engine::Engine::open(model, GetParam()).value();
  const std::size_t width = engine.graph().width;
  std::vector<float> states;
  for (std::uint32_t layer = 0; layer < engine.graph().layers.size(); ++layer) {
    const std::string block = "blk." + std::to_string(layer) + ".";
    ExpertSums input(*recorded.find(block + "ffn_gate_exps.weight"));
    ExpertSums hidden(*recorded.find(block + "ffn_down_exps.weight"));
    const ExpertWeights weights(model, layer);
    std::map<std::string, std::vector<double>> squares;
    std::vector<float> next;
    std::vector<Candidate> candidates;
    constexpr std::size_t kPiece = 16;  // windows at a time
    for (std::size_t first = 0; first < text.windows.count(); first += kPiece) {
      const auto windows = text.inputs(first, std::min(kPiece, text.windows.count() - first));
      const std::size_t offset = first * kWindow;
      const auto traced =
          trace_layer(engine, windows, layer,
                      layer == 0 ? std::span<const float>{}
                                 : std::span(states).subspan(offset * width, windows.tokens.size() * width));
      ASSERT_TRUE(traced) << traced.error().message;
      const ExpertTrace& trace = traced.value();
      const ExpertLayer& seen = trace.layers[layer];
      next.insert(next.end(), seen.output.begin(), seen.output.end());
      for (const auto& [name, sums] : trace.squares) {
        auto& total = squares[name];
        total.resize(sums.size());
        for (std::size_t j = 0; j < sums.size(); ++j) total[j] += sums[j];
      }
      for (std::size_t t = 0; t < trace.tokens; ++t) {
        const std::span x(seen.expert_input.data() + t * width, width);
        const auto chosen = trace.chosen(layer, t);
        const std::span acts(seen.hidden.data() + t * trace.used * trace.hidden_width,
                             trace.used * trace.hidden_width);
        for (std::size_t s = 0; s < trace.used; ++s) {
          input.add(chosen[s], x, 1);
          hidden.add(chosen[s], acts.subspan(s * trace.hidden_width, trace.hidden_width), 1);
        }
        if (trace.gap(layer, t) > near_tie) continue;
        Candidate c;
        c.token = offset + t, c.gap = trace.gap(layer, t);
        c.input.assign(x.begin(), x.end()), c.hidden.assign(acts.begin(), acts.end());
        c.chosen.assign(chosen.begin(), chosen.end());
        c.scores.assign(seen.scores.begin() + static_cast<std::ptrdiff_t>(t * trace.experts),
                        seen.scores.begin() + static_cast<std::ptrdiff_t>((t + 1) * trace.experts));
        c.from = *std::ranges::min_element(c.chosen, {}, [&](std::uint32_t e) { return c.scores[e]; });
        float next_best = -INFINITY;
        for (std::uint32_t e = 0; e < trace.experts; ++e) {
          if (std::ranges::find(c.chosen, e) != c.chosen.end() || c.scores[e] <= next_best) continue;
          next_best = c.scores[e], c.to = e;
        }
        c.other_hidden = weights.hidden(c.to, c.input);
        candidates.push_back(std::move(c));
      }
    }
    const double before = std::max(input.worst(), hidden.worst());
    const auto move = [&](const Candidate& c, double sign) {
      const auto slot =
          static_cast<std::size_t>(std::ranges::find(c.chosen, c.from) - c.chosen.begin()) * hidden.columns;
      input.add(c.from, c.input, -sign), input.add(c.to, c.input, sign);
      hidden.add(c.from, std::span(c.hidden).subspan(slot, hidden.columns), -sign);
      hidden.add(c.to, c.other_hidden, sign);
    };
    const auto distance = [&](const Candidate& c) {
      return input.distance(c.from) + input.distance(c.to) + hidden.distance(c.from) + hidden.distance(c.to);
    };
    std::size_t moved = 0;
    float widest = 0;
    while (true) {
      std::size_t best = candidates.size();
      double gain = 0;
      for (std::size_t i = 0; i < candidates.size(); ++i) {
        const double without = distance(candidates[i]);
        move(candidates[i], 1);
        const double here = without - distance(candidates[i]);
        move(candidates[i], -1);
        if (here > gain) gain = here, best = i;
      }
      // The recorded sums are binary32: below this nothing is told.
      if (best == candidates.size() || gain < 1e-6) break;
      const Candidate c = candidates[best];
      move(c, 1);
      const auto change = weights.change(c);
      for (std::size_t j = 0; j < width; ++j) next[c.token * width + j] += static_cast<float>(change[j]);
      std::printf("layer %u: token %zu, gap %.1e, from expert %u to %u, gain %.1e\n", layer, c.token,
                  static_cast<double>(c.gap), c.from, c.to, gain);
      candidates.erase(candidates.begin() + static_cast<std::ptrdiff_t>(best));
      ++moved;
      widest = std::max(widest, c.gap);
    }
    EXPECT_EQ(input.counts, input.their_counts) << layer;
    EXPECT_EQ(hidden.counts, hidden.their_counts) << layer;
    double other = 0;
    for (const auto& [name, sums] : squares) {
      ExpertSums matrix(*recorded.find(name));
      matrix.ours = sums, matrix.counts = matrix.their_counts;
      other = std::max(other, matrix.worst());
    }
    const double worst = std::max(input.worst(), hidden.worst());
    std::printf(
        "layer %u: %zu tokens within %.0e of a tie, %zu of them moved (gaps up to %.1e); experts' columns "
        "differ by at most %.1e, before %.1e; others %.1e\n",
        layer, candidates.size() + moved, static_cast<double>(near_tie), moved, static_cast<double>(widest),
        worst, before, other);
    EXPECT_LT(worst, exact ? 6e-4 : 3e-4) << layer;
    EXPECT_LT(other, exact ? 6e-4 : 3e-4) << layer;
    EXPECT_LE(moved, 12U) << layer;
    states = std::move(next);
  }
}

INSTANTIATE_TEST_SUITE_P(Arithmetic, RecordedMatrix,
                         testing::Values(engine::Arithmetic::LlamaCpp, engine::Arithmetic::Exact),
                         [](const auto& each) {
                           return each.param == engine::Arithmetic::Exact ? "Exact" : "LlamaCpp";
                         });

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
