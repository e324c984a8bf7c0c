// Running models: the same bits whatever the threads and the memory, weights in any format, observers,
// resuming, and what is refused.
#include "optimizer/engine/forward.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <random>

#include "core/gguf_writer.h"
#include "kernels/half.h"
#include "tests/optimizer/engine/generated_shape.h"
#include "tests/optimizer/engine/recorded_model.h"
#include "tests/support/test_paths.h"

namespace quantfit::test {
namespace {

using testing::HasSubstr;

// A model in a folder of its own.
class Opened {
 public:
  explicit Opened(const GeneratedShape& shape) {
    write_generated(shape, folder_ / "model.gguf");
    open(folder_ / "model.gguf");
  }
  void open(const std::filesystem::path& path) {
    auto model = Model::open(path);
    ASSERT_TRUE(model) << model.error().message;
    model_.emplace(std::move(model).value());
    auto engine = engine::Engine::open(*model_);
    ASSERT_TRUE(engine) << engine.error().message;
    engine_.emplace(std::move(engine).value());
  }
  [[nodiscard]] const engine::Engine& engine() const { return *engine_; }
  [[nodiscard]] const Model& model() const { return *model_; }
  [[nodiscard]] std::filesystem::path path() const { return folder_ / "model.gguf"; }

 private:
  TemporaryFolder folder_;
  std::optional<Model> model_;
  std::optional<engine::Engine> engine_;
};

engine::TokenWindows sequences_of(std::vector<std::uint32_t> lengths, std::uint32_t vocabulary) {
  engine::TokenWindows out;
  std::mt19937 random(7);
  out.lengths = std::move(lengths);
  for (const std::uint32_t length : out.lengths)
    for (std::uint32_t i = 0; i < length; ++i)
      out.tokens.push_back(static_cast<std::int32_t>(random() % vocabulary));
  return out;
}

// Final states of all tokens, or the error.
Result<std::vector<float>> states_of(const engine::Engine& engine, const engine::TokenWindows& sequences,
                                     const engine::RunOptions& options = {},
                                     engine::ForwardObserver* observer = nullptr,
                                     const engine::Resume* resume = nullptr) {
  NoProgress progress;
  const CancellationToken cancel;
  QF_ASSIGN(const engine::HiddenStates states,
            engine.run(sequences, options, observer, progress, cancel, resume));
  std::vector<float> buffer;
  QF_ASSIGN(const auto rows, states.read(0, states.rows(), buffer));
  return std::vector<float>(rows.data, rows.data + states.rows() * states.width());
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

const GeneratedShape kExperts{.architecture = "qwen3moe",
                              .layers = 3,
                              .width = 64,
                              .head_dim = 16,
                              .qk_norm = GeneratedShape::QkNorm::PerHead,
                              .experts = 6};
const GeneratedShape kWindows{.architecture = "gpt-oss",
                              .layers = 4,
                              .ffn_norm = "post_attention_norm",
                              .experts = 4,
                              .keys = {{"attention.sliding_window", 5U}},
                              .extra = {{"blk.*.attn_sinks.weight", {4}, 1}}};

TEST(Forward, SameBitsForAnyThreadsMemoryAndBatches) {
  for (const GeneratedShape& shape : {GeneratedShape{}, kExperts, kWindows}) {
    const Opened opened(shape);
    const auto sequences = sequences_of({17, 40, 1, 64, 33}, shape.vocabulary);
    const auto one = states_of(opened.engine(), sequences, {.threads = 1});
    ASSERT_TRUE(one) << one.error().message;
    for (const unsigned threads : {2U, 7U}) {
      const auto many = states_of(opened.engine(), sequences, {.threads = threads});
      ASSERT_TRUE(many);
      EXPECT_TRUE(same_bits(one.value(), many.value())) << threads << " threads";
    }
    const auto batches = states_of(opened.engine(), sequences, {.threads = 2, .batch_tokens = 1});
    ASSERT_TRUE(batches);
    EXPECT_TRUE(same_bits(one.value(), batches.value())) << "small batches";
    const auto plan = opened.engine().plan(sequences, {.threads = 1});
    ASSERT_TRUE(plan);
    const TemporaryFolder folder;
    engine::RunOptions tight{.threads = 1, .scratch_folder = folder.path()};
    // Just too little for everything in memory.
    tight.memory_limit = plan.value().memory_bytes - 1;
    auto tight_plan = opened.engine().plan(sequences, tight);
    ASSERT_TRUE(tight_plan) << tight_plan.error().message;
    EXPECT_LE(tight_plan.value().memory_bytes, tight.memory_limit);
    EXPECT_NE(tight_plan.value().scratch_bytes, 0U);
    const auto scratch = states_of(opened.engine(), sequences, tight);
    ASSERT_TRUE(scratch) << scratch.error().message;
    EXPECT_TRUE(same_bits(one.value(), scratch.value())) << "scratch file";
    EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  }
}

TEST(Forward, WindowsDoNotSeeEachOther) {
  const Opened opened(GeneratedShape{});
  const auto together = sequences_of({12, 20}, 40);
  engine::TokenWindows second{{together.tokens.begin() + 12, together.tokens.end()}, {20}};
  const auto both = states_of(opened.engine(), together);
  const auto alone = states_of(opened.engine(), second);
  ASSERT_TRUE(both && alone);
  EXPECT_TRUE(same_bits({both.value().begin() + 12 * 32, both.value().end()}, alone.value()));
}

TEST(Forward, QuantizedWeightsRunAsTheirDecodedValues) {
  for (const Format format : {Format::Q4_K, Format::Q8_0, Format::IQ3_S, Format::F16, Format::BF16}) {
    const GeneratedShape shape{.width = 256, .head_dim = 64, .ffn = 256, .format = format};
    const Opened opened(shape);
    // The same file with every matrix decoded to F32.
    const TemporaryFolder folder;
    const auto kernels = kernels::default_kernels();
    ASSERT_TRUE(kernels);
    std::vector<TensorInfo> infos;
    std::vector<std::vector<float>> values;
    for (const TensorInfo& tensor : opened.model().tensors()) {
      TensorInfo info = tensor;
      info.format = Format::F32;
      values.emplace_back(tensor.elements());
      for (std::uint64_t row = 0; row < tensor.rows(); ++row) {
        kernels.value()->decode[static_cast<std::size_t>(tensor.format)](
            opened.model().row(tensor, row).data(), tensor.ne[0], values.back().data() + row * tensor.ne[0]);
      }
      info.bytes = values.back().size() * sizeof(float);
      infos.push_back(info);
    }
    auto writer = GgufWriter::create(folder / "decoded.gguf", opened.model().metadata(), infos);
    ASSERT_TRUE(writer);
    for (const auto& one : values) ASSERT_TRUE(writer.value().append(std::as_bytes(std::span(one))));
    ASSERT_TRUE(writer.value().commit());
    Opened decoded(GeneratedShape{});
    decoded.open(folder / "decoded.gguf");
    const auto sequences = sequences_of({33, 8}, 40);
    const auto ours = states_of(opened.engine(), sequences);
    const auto reference = states_of(decoded.engine(), sequences);
    ASSERT_TRUE(ours && reference);
    EXPECT_TRUE(same_bits(ours.value(), reference.value())) << name_of(format);
  }
}

// A token that sees itself alone gets its own value: in halves, where the client keeps values in halves.
TEST(Forward, KeysAndValuesAreHalvesAsTheClientKeepsThem) {
  class Heads final : public engine::ForwardObserver {
   public:
    std::vector<float> values;
    Result<void> product(const engine::MatrixProduct& p) override {
      if (p.matrix->tensor->name.ends_with("attn_output.weight"))
        for (std::size_t t = 0; t < p.input.rows; ++t)
          values.insert(values.end(), p.input.row(t), p.input.row(t) + p.input.columns);
      return outcome::success();
    }
  };
  const Opened opened(kExperts);
  const auto sequences = sequences_of({1, 1, 1}, 40);
  const auto halves = [&](engine::Arithmetic arithmetic) {
    const auto engine = engine::Engine::open(opened.model(), arithmetic);
    EXPECT_TRUE(engine);
    Heads heads;
    EXPECT_TRUE(states_of(engine.value(), sequences, {}, &heads));
    EXPECT_EQ(heads.values.size(), 3 * 3 * 64U);
    return std::ranges::count_if(heads.values, [](float v) { return kernels::round_to_half(v) == v; });
  };
  EXPECT_EQ(halves(engine::Arithmetic::LlamaCpp), 3 * 3 * 64);
  EXPECT_LT(halves(engine::Arithmetic::Exact), 50);
}

// Notes what it is shown.
class Notes final : public engine::ForwardObserver {
 public:
  struct Product {
    std::uint64_t rows = 0, columns = 0, calls = 0;
    double input_squares = 0;
  };
  std::map<std::string, Product> products;             // by tensor and index
  std::map<std::uint32_t, std::vector<float>> inputs;  // of layers, all tokens
  std::vector<std::string> order;

  Result<void> begin_layer(std::uint32_t layer) override {
    order.push_back(fmt::format("begin {}", layer));
    return outcome::success();
  }
  Result<void> layer_input(std::uint32_t layer, std::uint64_t first,
                           kernels::MatrixView<const float> rows) override {
    std::vector<float>& all = inputs[layer];
    EXPECT_EQ(all.size(), first * rows.columns);
    for (std::size_t t = 0; t < rows.rows; ++t)
      all.insert(all.end(), rows.row(t), rows.row(t) + rows.columns);
    return outcome::success();
  }
  Result<void> product(const engine::MatrixProduct& p) override {
    Product& note = products[fmt::format("{}/{}", p.matrix->tensor->name, p.index)];
    note.rows += p.input.rows;
    note.columns = p.input.columns;
    ++note.calls;
    EXPECT_EQ(p.input.columns, p.matrix->columns);
    for (std::size_t t = 0; t < p.input.rows; ++t)
      for (std::size_t i = 0; i < p.input.columns; ++i)
        note.input_squares += p.input.row(t)[i] * p.input.row(t)[i];
    return outcome::success();
  }
  Result<void> end_layer(std::uint32_t layer) override {
    order.push_back(fmt::format("end {}", layer));
    return outcome::success();
  }
};

TEST(Forward, ObserverSeesEveryMatrixOnceForEveryToken) {
  const Opened opened(kExperts);
  const auto sequences = sequences_of({30, 21}, 40);
  Notes notes;
  const auto states = states_of(opened.engine(), sequences, {.threads = 2, .batch_tokens = 30}, &notes);
  ASSERT_TRUE(states);
  EXPECT_THAT(notes.order, testing::ElementsAre("begin 0", "end 0", "begin 1", "end 1", "begin 2", "end 2",
                                                "begin 3", "end 3"));
  for (const std::string name : {"blk.1.attn_q.weight/0", "blk.1.attn_output.weight/0",
                                 "blk.2.ffn_gate_inp.weight/0", "output.weight/0"}) {
    EXPECT_EQ(notes.products[name].rows, 51U) << name;
    EXPECT_EQ(notes.products[name].calls, 2U) << name;
  }
  EXPECT_EQ(notes.products["blk.1.attn_q.weight/0"].input_squares,
            notes.products["blk.1.attn_v.weight/0"].input_squares);
  std::uint64_t routed = 0;
  for (std::uint32_t e = 0; e < 6; ++e) {
    const auto& gate = notes.products[fmt::format("blk.0.ffn_gate_exps.weight/{}", e)];
    const auto& down = notes.products[fmt::format("blk.0.ffn_down_exps.weight/{}", e)];
    EXPECT_EQ(gate.rows, down.rows);
    routed += gate.rows;
  }
  EXPECT_EQ(routed, 51U * 2);
  // Final states are the inputs of the output matrix.
  double squares = 0;
  for (const float v : states.value()) squares += v * v;
  EXPECT_NEAR(notes.products["output.weight/0"].input_squares, squares, 1e-6 * squares);
}

TEST(Forward, ResumesFromLayerInputs) {
  const Opened opened(kExperts);
  const auto sequences = sequences_of({30, 21}, 40);
  Notes notes;
  const auto whole = states_of(opened.engine(), sequences, {}, &notes);
  ASSERT_TRUE(whole);
  for (std::uint32_t layer = 1; layer <= 3; ++layer) {
    const std::vector<float>& saved = notes.inputs[layer];
    const engine::Resume resume{
        layer, [&](std::uint64_t first, kernels::MatrixView<float> rows) -> Result<void> {
          for (std::size_t t = 0; t < rows.rows; ++t)
            std::memcpy(rows.row(t), saved.data() + (first + t) * rows.columns, rows.columns * sizeof(float));
          return outcome::success();
        }};
    const auto rest = states_of(opened.engine(), sequences, {.batch_tokens = 30}, nullptr, &resume);
    ASSERT_TRUE(rest);
    EXPECT_TRUE(same_bits(whole.value(), rest.value())) << layer;
  }
}

TEST(Forward, LogitsByPartsAreTheSame) {
  const Opened opened(GeneratedShape{});
  const auto sequences = sequences_of({16}, 40);
  const auto states = states_of(opened.engine(), sequences);
  ASSERT_TRUE(states);
  std::vector<float> whole(16 * 40), part(16 * 7);
  ASSERT_TRUE(opened.engine().logits({states.value().data(), 16, 32, 32}, {whole.data(), 16, 40, 40}));
  ASSERT_TRUE(opened.engine().logits_of({states.value().data(), 16, 32, 32}, 11, {part.data(), 16, 7, 7}, 2));
  for (std::size_t t = 0; t < 16; ++t)
    for (std::size_t i = 0; i < 7; ++i) EXPECT_EQ(part[t * 7 + i], whole[t * 40 + 11 + i]);
  const auto wrong =
      opened.engine().logits_of({states.value().data(), 16, 32, 32}, 39, {part.data(), 16, 7, 7});
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().code, ErrorCode::InvalidArgument);
}

TEST(Forward, TokensThatCannotBeRun) {
  const Opened opened(GeneratedShape{});
  const auto code_of = [&](const engine::TokenWindows& sequences) {
    const auto plan = opened.engine().plan(sequences, {});
    return plan ? std::string() : plan.error().message;
  };
  EXPECT_THAT(code_of({}), HasSubstr("no tokens"));
  EXPECT_THAT(code_of({{1, 2, 40}, {3}}), HasSubstr("token 40 at position 2"));
  EXPECT_THAT(code_of({{1, -1}, {2}}), HasSubstr("token -1 at position 1"));
  EXPECT_THAT(code_of({{1, 2, 3}, {2}}), HasSubstr("2 tokens together for 3"));
  EXPECT_THAT(code_of({{1, 2}, {2, 0}}), HasSubstr("without tokens"));
  const auto tiny = opened.engine().plan({{1, 2}, {2}}, {.memory_limit = 1000});
  ASSERT_FALSE(tiny);
  EXPECT_EQ(tiny.error().code, ErrorCode::NoSpace);
  EXPECT_THAT(tiny.error().message, HasSubstr("the limit is"));
}

TEST(Forward, WeightsThatAreNotNumbersAreNamed) {
  const Opened opened(GeneratedShape{});
  const TensorInfo* tensor = opened.model().find("blk.1.ffn_up.weight");
  ASSERT_NE(tensor, nullptr);
  std::vector<std::byte> bytes = read_file(opened.path());
  const float nan = std::nanf("");
  const std::size_t at =
      opened.model().shards()[0].data_offset + tensor->offset + (5 * 32 + 3) * sizeof(float);
  std::memcpy(bytes.data() + at, &nan, sizeof(nan));
  const TemporaryFolder folder;
  write_file(folder / "nan.gguf", bytes);
  Opened broken(GeneratedShape{});
  broken.open(folder / "nan.gguf");
  const auto states = states_of(broken.engine(), sequences_of({8}, 40), {.threads = 2});
  ASSERT_FALSE(states);
  EXPECT_EQ(states.error().code, ErrorCode::Malformed);
  EXPECT_THAT(states.error().message, HasSubstr("nan.gguf: tensor 'blk.1.ffn_up.weight', row 5"));
}

TEST(Forward, CancelledRunsSaySo) {
  const Opened opened(GeneratedShape{});
  NoProgress progress;
  CancellationToken cancel;
  cancel.cancel();
  const auto states = opened.engine().run(sequences_of({8}, 40), {}, nullptr, progress, cancel);
  ASSERT_FALSE(states);
  EXPECT_EQ(states.error().code, ErrorCode::Interrupted);
}

TEST(Forward, ObserverErrorsEndTheRun) {
  class Refuses final : public engine::ForwardObserver {
    Result<void> end_layer(std::uint32_t) override { return fail(ErrorCode::NoSpace, "full"); }
  } refuses;
  const Opened opened(GeneratedShape{});
  const auto states = states_of(opened.engine(), sequences_of({8}, 40), {}, &refuses);
  ASSERT_FALSE(states);
  EXPECT_EQ(states.error().message, "full");
}

TEST(HiddenStates, FileHoldsWhatWasWritten) {
  const TemporaryFolder folder;
  auto states = engine::HiddenStates::in_file(folder.path(), 10, 3);
  ASSERT_TRUE(states) << states.error().message;
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  const std::vector<float> rows{1, 2, 3, -1, 4, 5, 6, -1};  // stride 4
  ASSERT_TRUE(states.value().write(7, {rows.data(), 2, 3, 4}));
  std::vector<float> buffer;
  const auto read = states.value().read(6, 3, buffer);
  ASSERT_TRUE(read);
  EXPECT_EQ(std::vector<float>(read.value().data, read.value().data + 9),
            (std::vector<float>{0, 0, 0, 1, 2, 3, 4, 5, 6}));
  const auto absent = engine::HiddenStates::in_file(folder / "absent", 1, 1);
  ASSERT_FALSE(absent);
  EXPECT_EQ(absent.error().code, ErrorCode::Io);
}

}  // namespace
}  // namespace quantfit::test
