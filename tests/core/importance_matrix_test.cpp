#include "core/importance_matrix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>

#include "core/model.h"
#include "tests/core/gguf_bytes.h"
#include "tests/support/test_paths.h"

namespace quantfit {
namespace {

using nlohmann::json;
using test::GgufBytes;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::filesystem::path golden(const std::string& name) {
  return test::data_dir() / "gguf" / name;
}

TensorInfo weight(const std::string& name, std::array<std::uint64_t, 4> ne) {
  TensorInfo tensor;
  tensor.name = name;
  tensor.n_dims = 4;
  tensor.ne = ne;
  return tensor;
}

struct Tensor {
  std::string name;
  std::vector<float> values;
  std::uint32_t type = 0;
};

// An importance matrix in the GGUF format.
std::vector<std::byte> gguf_of(const std::vector<Tensor>& tensors,
                               const std::string& general_type = "imatrix") {
  GgufBytes file(tensors.size(), general_type.empty() ? 0 : 1);
  if (!general_type.empty()) file.key("general.type", general_type);
  std::uint64_t offset = 0;
  for (const Tensor& tensor : tensors) {
    const std::uint64_t bytes = tensor.values.size() * (tensor.type == 1 ? 2 : 4);
    file.tensor(tensor.name, {tensor.values.size()}, tensor.type, offset);
    offset += (bytes + 31) / 32 * 32;
  }
  file.pad();
  for (const Tensor& tensor : tensors) {
    for (const float value : tensor.values) {
      if (tensor.type == 1)
        file.put(std::uint16_t{0});
      else
        file.put(value);
    }
    file.pad();
  }
  return file.bytes();
}

// Bytes of the legacy format.
class Legacy {
 public:
  Legacy& integer(std::int32_t value) { return raw(&value, sizeof(value)); }
  Legacy& text(const std::string& value) {
    integer(static_cast<std::int32_t>(value.size()));
    return raw(value.data(), value.size());
  }
  Legacy& floats(const std::vector<float>& values) {
    integer(static_cast<std::int32_t>(values.size()));
    return raw(values.data(), values.size() * sizeof(float));
  }
  Legacy& entry(const std::string& name, std::int32_t calls, const std::vector<float>& values) {
    return text(name).integer(calls).floats(values);
  }
  [[nodiscard]] const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  Legacy& raw(const void* data, std::size_t size) {
    const auto* begin = static_cast<const std::byte*>(data);
    bytes_.insert(bytes_.end(), begin, begin + size);
    return *this;
  }
  std::vector<std::byte> bytes_;
};

class ImportanceMatrixTest : public ::testing::Test {
 protected:
  Result<ImportanceMatrix> read(const std::vector<std::byte>& bytes) {
    test::write_file(folder_ / "imatrix", bytes);
    return ImportanceMatrix::read(folder_ / "imatrix");
  }
  std::string error(const std::vector<std::byte>& bytes, ErrorCode code = ErrorCode::Malformed) {
    const auto matrix = read(bytes);
    if (matrix) return "accepted";
    EXPECT_EQ(matrix.error().code, code) << matrix.error().message;
    return matrix.error().message;
  }
  std::string error(const std::vector<Tensor>& tensors, ErrorCode code = ErrorCode::Malformed) {
    return error(gguf_of(tensors), code);
  }
  test::TemporaryFolder folder_;
};

json manifest() {
  std::ifstream in(golden("manifest.json"));
  return json::parse(in);
}

TEST(ImportanceMatrix, GoldenGguf) {
  const auto read = ImportanceMatrix::read(golden("imatrix.gguf"));
  ASSERT_VALUE(read);
  const ImportanceMatrix& matrix = read.value();
  const json expected = manifest()["imatrix_gguf"];
  ASSERT_EQ(matrix.entries().size(), expected.size());
  EXPECT_TRUE(matrix.has_activations());
  for (const auto& [name, wanted] : expected.items()) {
    SCOPED_TRACE(name);
    const std::uint64_t columns = wanted["columns"];
    const std::uint64_t matrices = wanted["matrices"];
    const auto statistics = matrix.statistics(weight(name, {columns, 3, matrices, 1}));
    ASSERT_VALUE(statistics);
    ASSERT_TRUE(statistics.value());
    ASSERT_EQ(statistics.value()->size(), matrices);
    for (std::uint64_t e = 0; e < matrices; ++e) {
      const ColumnStatistics& one = (*statistics.value())[e];
      EXPECT_EQ(one.tokens, wanted["counts"][e].get<double>());
      EXPECT_EQ(one.imputed, one.tokens == 0);
      ASSERT_EQ(one.mean_square.size(), columns);
      const bool with_means = wanted.contains("mean_first4") && !wanted["mean_first4"].is_null();
      ASSERT_EQ(one.mean.size(), with_means ? columns : 0);
      for (std::uint64_t j = 0; j < one.mean.size(); ++j)
        ASSERT_LE(double{one.mean[j]} * one.mean[j], double{one.mean_square[j]});
      if (one.imputed) continue;  // the manifest has the reference's placeholder there
      double sum = 0;
      for (const float value : one.mean_square) sum += value;
      EXPECT_NEAR(sum, wanted["mean_square_sum_per_matrix"][e].get<double>(), 1e-5 * sum);
      for (std::size_t j = 0; j < 4; ++j) {
        EXPECT_FLOAT_EQ(one.mean_square[j], wanted["mean_square_first4"][e][j].get<float>());
        if (!with_means) continue;
        // Content of this file is random: many of its means are above what their mean squares allow.
        const float limit = std::sqrt(one.mean_square[j]);
        EXPECT_NEAR(one.mean[j], std::clamp(wanted["mean_first4"][e][j].get<float>(), -limit, limit), 1e-6);
      }
    }
  }
}

TEST(ImportanceMatrix, GoldenLegacy) {
  const auto read = ImportanceMatrix::read(golden("imatrix.dat"));
  ASSERT_VALUE(read);
  const ImportanceMatrix& matrix = read.value();
  const json expected = manifest()["imatrix_dat"];
  ASSERT_EQ(matrix.entries().size(), expected.size());
  EXPECT_FALSE(matrix.has_activations());
  const json shapes = manifest()["imatrix_gguf"];
  for (const auto& [name, wanted] : expected.items()) {
    SCOPED_TRACE(name);
    ASSERT_NE(matrix.find(name), nullptr);
    EXPECT_EQ(matrix.find(name)->sum_squares.size(), wanted["values"]);
    const std::uint64_t columns = shapes[name]["columns"];
    const std::uint64_t matrices = shapes[name]["matrices"];
    const auto statistics = matrix.statistics(weight(name, {columns, 3, matrices, 1}));
    ASSERT_VALUE(statistics);
    ASSERT_TRUE(statistics.value());
    for (std::size_t j = 0; j < 4; ++j)
      EXPECT_FLOAT_EQ((*statistics.value())[0].mean_square[j], wanted["mean_square_first4"][j].get<float>());
    for (std::uint64_t e = 0; e < matrices; ++e) {
      // The expert without data is recognised here too, by its placeholder.
      EXPECT_EQ((*statistics.value())[e].imputed, shapes[name]["counts"][e] == 0);
      EXPECT_TRUE((*statistics.value())[e].mean.empty());
      const double tokens = (*statistics.value())[e].imputed ? 0 : wanted["ncall"].get<double>();
      EXPECT_EQ((*statistics.value())[e].tokens, tokens);
    }
  }
}

TEST_F(ImportanceMatrixTest, TheExampleFitsItsModel) {
  const auto matrix = ImportanceMatrix::read(test::data_dir() / "tale-dense.imatrix.gguf");
  ASSERT_VALUE(matrix);
  EXPECT_THAT(matrix.value().datasets(), ElementsAre("calib.txt"));
  EXPECT_EQ(matrix.value().chunk_count(), 240U);
  EXPECT_TRUE(matrix.value().warnings().empty());
  const auto model = Model::open(test::data_dir() / "tale-dense-F16.gguf");
  ASSERT_VALUE(model);
  std::size_t with_statistics = 0;
  for (const TensorInfo& tensor : model.value().tensors()) {
    const auto statistics = matrix.value().statistics(tensor);
    ASSERT_VALUE(statistics);
    if (!statistics.value()) continue;
    ++with_statistics;
    EXPECT_EQ(statistics.value()->size(), 1U);
    EXPECT_EQ((*statistics.value())[0].tokens, 240.0 * 256.0);
  }
  EXPECT_EQ(with_statistics, 43U);
}

TEST_F(ImportanceMatrixTest, MeansAreDividedInDoubleAndClamped) {
  // Column 1 never varies: F32 sums make its variance slightly negative.
  const auto matrix = read(gguf_of({{"blk.0.ffn_down.weight.in_sum2", {12, 27, 0}},
                                    {"blk.0.ffn_down.weight.in_sum", {-3, 9.00001F, 0}},
                                    {"blk.0.ffn_down.weight.counts", {3}}}));
  ASSERT_VALUE(matrix);
  const auto statistics = matrix.value().statistics(weight("blk.0.ffn_down.weight", {3, 8, 1, 1}));
  ASSERT_VALUE(statistics);
  const ColumnStatistics& one = (*statistics.value())[0];
  EXPECT_THAT(one.mean_square, ElementsAre(4, 9, 0));
  EXPECT_THAT(one.mean, ElementsAre(-1, 3, 0));
  EXPECT_EQ(one.tokens, 3);
  EXPECT_FALSE(one.imputed);
}

TEST_F(ImportanceMatrixTest, UnseenExpertsTakeTheMeanOfTheOthers) {
  const auto matrix = read(gguf_of({{"blk.0.ffn_up_exps.weight.in_sum2", {8, 4, 0, 0, 30, 60}},
                                    {"blk.0.ffn_up_exps.weight.in_sum", {2, -2, 0, 0, 10, 20}},
                                    {"blk.0.ffn_up_exps.weight.counts", {2, 0, 10}}}));
  ASSERT_VALUE(matrix);
  for (const char* name : {"blk.0.ffn_up_exps.weight", "blk.0.ffn_gate_exps.weight"}) {  // the sibling too
    const auto statistics = matrix.value().statistics(weight(name, {2, 8, 3, 1}));
    ASSERT_VALUE(statistics);
    const auto& experts = *statistics.value();
    EXPECT_THAT(experts[0].mean_square, ElementsAre(4, 2));
    EXPECT_THAT(experts[2].mean_square, ElementsAre(3, 6));
    EXPECT_THAT(experts[1].mean_square, ElementsAre(3.5F, 4));
    EXPECT_THAT(experts[1].mean, ElementsAre(1, 0.5F));
    EXPECT_TRUE(experts[1].imputed);
    EXPECT_EQ(experts[1].tokens, 0);
    EXPECT_EQ(experts[2].tokens, 10);
  }
}

TEST_F(ImportanceMatrixTest, OneCountServesAllMatricesOfADenseTensor) {
  const auto matrix =
      read(gguf_of({{"blk.0.attn_k_b.weight.in_sum2", {2, 4, 6, 8}}, {"blk.0.attn_k_b.weight.counts", {2}}}));
  ASSERT_VALUE(matrix);
  const auto statistics = matrix.value().statistics(weight("blk.0.attn_k_b.weight", {2, 8, 2, 1}));
  ASSERT_VALUE(statistics);
  ASSERT_EQ(statistics.value()->size(), 2U);
  EXPECT_THAT((*statistics.value())[1].mean_square, ElementsAre(3, 4));
  EXPECT_EQ((*statistics.value())[0].tokens, (*statistics.value())[1].tokens);
}

TEST_F(ImportanceMatrixTest, ShapesMustFit) {
  const auto matrix = read(gguf_of({{"blk.0.ffn_down_exps.weight.in_sum2", {1, 1, 1, 1, 1, 1}},
                                    {"blk.0.ffn_down_exps.weight.counts", {1, 1}},
                                    {"token_embd.weight.in_sum2", {1, 1}},
                                    {"token_embd.weight.counts", {1}}}));
  ASSERT_VALUE(matrix);
  const auto error_of = [&](const TensorInfo& tensor) {
    const auto statistics = matrix.value().statistics(tensor);
    if (statistics) return std::string(statistics.value() ? "found" : "none");
    EXPECT_EQ(statistics.error().code, ErrorCode::ShapeMismatch);
    return statistics.error().message;
  };
  EXPECT_EQ(error_of(weight("blk.0.ffn_down_exps.weight", {3, 5, 2, 1})), "found");
  EXPECT_THAT(error_of(weight("blk.0.ffn_down_exps.weight", {4, 5, 2, 1})),
              HasSubstr("blk.0.ffn_down_exps.weight"));
  EXPECT_THAT(error_of(weight("blk.0.ffn_down_exps.weight", {2, 5, 3, 1})), HasSubstr("has 2 counts"));
  EXPECT_THAT(error_of(weight("blk.0.ffn_down_exps.weight", {0, 5, 3, 1})), HasSubstr("0 columns"));
  EXPECT_EQ(error_of(weight("token_embd.weight", {2, 5, 1, 1})), "found");
  EXPECT_EQ(error_of(weight("token_embd.weight", {3, 5, 1, 1})), "none");
  EXPECT_EQ(error_of(weight("blk.1.ffn_down_exps.weight", {3, 5, 2, 1})), "none");
}

TEST_F(ImportanceMatrixTest, SiblingsShareTheirInput) {
  const auto matrix = read(gguf_of({{"blk.3.attn_v.weight.in_sum2", {2, 4}},
                                    {"blk.3.attn_v.weight.counts", {2}},
                                    {"blk.3.ffn_up.weight.in_sum2", {6, 8}},
                                    {"blk.3.ffn_up.weight.counts", {2}},
                                    {"blk.3.ffn_gate.weight.in_sum2", {0, 0}},
                                    {"blk.3.ffn_gate.weight.counts", {0}}}));
  ASSERT_VALUE(matrix);
  const auto first = [&](const std::string& name, std::uint64_t columns = 2) -> float {
    const auto statistics = matrix.value().statistics(weight(name, {columns, 5, 1, 1}));
    return statistics && statistics.value() ? (*statistics.value())[0].mean_square[0] : -1;
  };
  EXPECT_EQ(first("blk.3.attn_q.weight"), 1);
  EXPECT_EQ(first("blk.3.attn_k.weight"), 1);
  EXPECT_EQ(first("blk.3.attn_qkv.weight"), 1);
  EXPECT_EQ(first("blk.3.ffn_gate.weight"), 3);      // its own entry was never reached
  EXPECT_EQ(first("blk.3.attn_q.weight", 4), -1);    // another width cannot share the input
  EXPECT_EQ(first("blk.3.attn_output.weight"), -1);  // another input
  EXPECT_EQ(first("blk.4.attn_q.weight"), -1);
  EXPECT_EQ(first("attn_q.weight"), -1);
  EXPECT_EQ(first("blk.3.attn_q.bias"), -1);
}

TEST_F(ImportanceMatrixTest, BackendDecorationsAreStripped) {
  const auto matrix = read(gguf_of({{"CUDA0#blk.0.attn_q.weight#0.in_sum2", {2}},
                                    {"CUDA0#blk.0.attn_q.weight#0.counts", {2}},
                                    {"X#blk.1.attn_q.weight.in_sum2", {2}},
                                    {"X#blk.1.attn_q.weight.counts", {2}}}));
  ASSERT_VALUE(matrix);
  EXPECT_NE(matrix.value().find("blk.0.attn_q.weight"), nullptr);
  EXPECT_NE(matrix.value().find("blk.1.attn_q.weight"), nullptr);
  const auto legacy = read(Legacy().integer(1).entry("CUDA0#blk.0.attn_q.weight#0", 1, {1}).bytes());
  ASSERT_VALUE(legacy);
  EXPECT_NE(legacy.value().find("blk.0.attn_q.weight"), nullptr);
  EXPECT_THAT(error({{"A#w.in_sum2", {2}}, {"A#w.counts", {2}}, {"B#w.in_sum2", {2}}, {"B#w.counts", {2}}}),
              HasSubstr("two tensors"));
  EXPECT_THAT(error({{"A##.in_sum2", {2}}, {"A##.counts", {2}}}), HasSubstr("no weight"));
}

TEST_F(ImportanceMatrixTest, RefusesBrokenGguf) {
  EXPECT_EQ(error({{"w.in_sum2", {2}}, {"w.counts", {2}}}), "accepted");
  EXPECT_THAT(error({{"w.in_sum2", {2}}}), HasSubstr("'w' has no .counts"));
  EXPECT_THAT(error({{"w.counts", {2}}}), HasSubstr("'w' has no .in_sum2"));
  EXPECT_THAT(error({{"w.in_sum", {2}}, {"w.counts", {2}}}), HasSubstr("'w' has no .in_sum2"));
  EXPECT_THAT(error({{"w.in_sum2", {2}, 1}, {"w.counts", {2}}}), HasSubstr("is F16, expected F32"));
  EXPECT_THAT(error({{"w.in_sum2", {2, 3}}, {"w.in_sum", {1}}, {"w.counts", {2}}}),
              HasSubstr(".in_sum has 1 values"));
  EXPECT_THAT(error({{"w.in_sum2", {2, 3, 4}}, {"w.counts", {2, 2}}}),
              HasSubstr("do not divide into 2 matrices"));
  EXPECT_THAT(error({{"w.in_sum2", {2, 3, 4}}, {"w.counts", {}}}), HasSubstr(".counts is empty"));
  EXPECT_THAT(error({{"w.in_sum2", {}}, {"w.counts", {1}}}), HasSubstr("do not divide"));
  EXPECT_THAT(error({{"w.in_sum2", {2, kNan}}, {"w.counts", {2}}}), HasSubstr("value 1 is not finite"));
  EXPECT_THAT(error({{"w.in_sum2", {2, kInfinity}}, {"w.counts", {2}}}), HasSubstr("value 1 is not finite"));
  EXPECT_THAT(error({{"w.in_sum2", {-2}}, {"w.counts", {2}}}), HasSubstr("cannot be negative"));
  EXPECT_THAT(error({{"w.in_sum2", {2}}, {"w.in_sum", {kNan}}, {"w.counts", {2}}}), HasSubstr("not finite"));
  for (const float count : {-1.0F, 1.5F, kNan, kInfinity, 0x1p53F})
    EXPECT_THAT(error({{"w.in_sum2", {2}}, {"w.counts", {count}}}), HasSubstr("whole number")) << count;
  EXPECT_EQ(error({{"w.in_sum2", {2}}, {"w.counts", {0x1p30F}}}), "accepted");
  EXPECT_THAT(error(std::vector<Tensor>{{"w.weight", {2}}}), HasSubstr("no importance entries"));
  EXPECT_THAT(error(gguf_of({{"w.in_sum2", {2}}, {"w.counts", {2}}}, "model"), ErrorCode::Unsupported),
              HasSubstr("general.type is 'model'"));
  EXPECT_EQ(error(gguf_of({{"w.in_sum2", {2}}, {"w.counts", {2}}}, "")), "accepted");
  auto cut = gguf_of({{"w.in_sum2", {2}}, {"w.counts", {2}}});
  cut.resize(cut.size() - 40);
  EXPECT_THAT(error(cut), HasSubstr("truncated"));
}

TEST_F(ImportanceMatrixTest, WarnsOfWhatIsMissing) {
  const auto matrix =
      read(gguf_of({{"w.in_sum2", {2}}, {"w.counts", {0}}, {"w.stats", {1, 2}}, {"w.other", {1}}}));
  ASSERT_VALUE(matrix);
  EXPECT_THAT(matrix.value().warnings(),
              ::testing::IsSupersetOf({HasSubstr("imatrix.datasets"), HasSubstr("imatrix.chunk_count"),
                                       HasSubstr("imatrix.chunk_size"), HasSubstr("1 tensors"),
                                       HasSubstr("1 importance")}));
  const auto statistics = matrix.value().statistics(weight("w", {1, 1, 1, 1}));
  ASSERT_VALUE(statistics);
  EXPECT_FALSE(statistics.value());
  EXPECT_FALSE(matrix.value().has_activations());
}

TEST_F(ImportanceMatrixTest, ImpossibleMeansAreClampedWithAWarning) {
  const auto matrix = read(
      gguf_of({{"w.in_sum2", {2, 8}}, {"w.in_sum", {-4, 1}}, {"w.counts", {2}}}));  // mean -2, mean square 1
  ASSERT_VALUE(matrix);
  EXPECT_THAT(matrix.value().warnings(),
              ::testing::Contains(HasSubstr("1 columns have a mean activation above")));
  const auto statistics = matrix.value().statistics(weight("w", {2, 3, 1, 1}));
  ASSERT_VALUE(statistics);
  EXPECT_THAT((*statistics.value())[0].mean, ElementsAre(-1, 0.5F));
}

TEST_F(ImportanceMatrixTest, LegacyFormat) {
  const auto entries = [] { return Legacy().integer(2).entry("a", 4, {8, 12}).entry("b", 0, {3}); };
  const auto plain = read(entries().bytes());
  ASSERT_VALUE(plain);
  EXPECT_FALSE(plain.value().chunk_count());
  EXPECT_TRUE(plain.value().datasets().empty());
  const auto a = plain.value().statistics(weight("a", {2, 3, 1, 1}));
  EXPECT_THAT((*a.value())[0].mean_square, ElementsAre(2, 3));
  const auto b = plain.value().statistics(weight("b", {1, 3, 1, 1}));
  EXPECT_THAT((*b.value())[0].mean_square, ElementsAre(3));  // no calls: the values are means already
  const auto whole = read(entries().integer(7).text("book.txt").bytes());
  ASSERT_VALUE(whole);
  EXPECT_EQ(whole.value().chunk_count(), 7U);
  EXPECT_THAT(whole.value().datasets(), ElementsAre("book.txt"));

  EXPECT_THAT(error(std::vector<std::byte>{}), HasSubstr("neither a GGUF file nor"));
  EXPECT_THAT(error(Legacy().integer(0).bytes()), HasSubstr("neither a GGUF file nor"));
  EXPECT_THAT(error(Legacy().integer(-1).bytes()), HasSubstr("neither a GGUF file nor"));
  EXPECT_THAT(error(Legacy().integer(1 << 30).entry("a", 1, {1}).bytes()), HasSubstr("do not fit"));
  EXPECT_THAT(error(Legacy().integer(1).integer(-5).floats({1, 2, 3, 4}).bytes()), HasSubstr("name length"));
  EXPECT_THAT(error(Legacy().integer(1).integer(1 << 30).floats({1, 2, 3, 4}).bytes()),
              HasSubstr("claims 1073741824 bytes"));
  EXPECT_THAT(error(Legacy().integer(1).entry(std::string("a\0b", 3), 1, {1}).bytes()),
              HasSubstr("zero byte"));
  EXPECT_THAT(error(Legacy().integer(1).entry("abc", -1, {1}).bytes()),
              HasSubstr("call count of entry 'abc' is -1"));
  EXPECT_THAT(error(Legacy().integer(1).entry("abcdefgh", 1, {}).bytes()), HasSubstr("number of values"));
  EXPECT_THAT(error(Legacy().integer(1).text("abc").integer(1).integer(1 << 30).integer(0).bytes()),
              HasSubstr("claims 4294967296 bytes"));
  EXPECT_THAT(error(Legacy().integer(1).entry("a", 1, {-1}).bytes()), HasSubstr("cannot be negative"));
  EXPECT_THAT(error(Legacy().integer(1).entry("a", 1, {kNan}).bytes()), HasSubstr("not finite"));
  EXPECT_THAT(error(Legacy().integer(2).entry("a", 1, {1}).entry("a", 1, {1}).bytes()),
              HasSubstr("occurs twice"));
  EXPECT_THAT(error(entries().integer(7).integer(-1).bytes()), HasSubstr("data set name is -1"));
  EXPECT_THAT(error(entries().integer(7).integer(100).bytes()), HasSubstr("claims 100 bytes"));
  EXPECT_THAT(error(entries().integer(7).text("x").integer(0).bytes()), HasSubstr("4 bytes follow"));
  // Cut anywhere but after the entries, it is refused.
  const auto bytes = entries().integer(7).text("book.txt").bytes();
  const std::size_t tail = entries().bytes().size();
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    if (size == tail) continue;
    EXPECT_FALSE(read({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size)})) << size;
  }
}

TEST_F(ImportanceMatrixTest, RandomDamageNeverEscapes) {
  const auto gguf = gguf_of({{"blk.0.ffn_up_exps.weight.in_sum2", {8, 4, 0, 0, 30, 60}},
                             {"blk.0.ffn_up_exps.weight.in_sum", {2, -2, 0, 0, 10, 20}},
                             {"blk.0.ffn_up_exps.weight.counts", {2, 0, 10}}});
  const auto legacy = Legacy().integer(1).entry("abc", 2, {1, 2}).integer(7).text("book.txt").bytes();
  std::mt19937_64 random(99);
  std::size_t accepted = 0;
  for (int round = 0; round < 300; ++round) {
    auto bytes = round % 2 == 0 ? gguf : legacy;
    for (std::uint64_t flips = 1 + random() % 3; flips > 0; --flips)
      bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    const auto matrix = read(bytes);
    if (!matrix) continue;
    ++accepted;
    const auto statistics = matrix.value().statistics(weight("blk.0.ffn_up_exps.weight", {2, 8, 3, 1}));
    if (!statistics || !statistics.value()) continue;
    for (const ColumnStatistics& expert : *statistics.value())
      for (const float value : expert.mean_square) ASSERT_TRUE(std::isfinite(value) && value >= 0);
  }
  EXPECT_GT(accepted, 30U);
}

// Memory of this process that no file stands behind, in KiB.
std::uint64_t private_kib() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;)
    if (word == "RssAnon:") {
      std::uint64_t kib = 0;
      status >> kib;
      return kib;
    }
  ADD_FAILURE() << "no RssAnon in /proc/self/status";
  return 0;
}

TEST_F(ImportanceMatrixTest, NumbersStayInTheFile) {
  constexpr std::size_t kColumns = std::size_t{1} << 23;  // 32 MiB
  {
    std::vector<Tensor> tensors = {{"blk.0.ffn_up.weight.in_sum2", std::vector<float>(kColumns, 2.0F)},
                                   {"blk.0.ffn_up.weight.counts", {4.0F}}};
    test::write_file(folder_ / "large.gguf", gguf_of(tensors));
  }
  const std::uint64_t before = private_kib();
  const auto matrix = ImportanceMatrix::read(folder_ / "large.gguf");
  ASSERT_VALUE(matrix);
  EXPECT_LT(private_kib(), before + 4096);
  // NOLINTNEXTLINE(performance-unnecessary-copy-initialization): what a copy costs is the question.
  const ImportanceMatrix copy = matrix.value();
  EXPECT_LT(private_kib(), before + 4096);
  EXPECT_EQ(copy.find("blk.0.ffn_up.weight")->sum_squares[kColumns - 1], 2.0F);
  const auto statistics = copy.statistics(weight("blk.0.ffn_up.weight", {kColumns, 1, 1, 1}));
  ASSERT_VALUE(statistics);
  EXPECT_EQ(statistics.value()->at(0).mean_square.back(), 0.5F);
}

TEST_F(ImportanceMatrixTest, ChangesOfTheFileAreNoticed) {
  const auto path = folder_ / "i.gguf";
  const auto bytes = gguf_of({{"blk.0.ffn_up.weight.in_sum2", std::vector<float>(4096, 2.0F)},
                              {"blk.0.ffn_up.weight.counts", {4.0F}}});
  test::write_file(path, bytes);
  std::filesystem::last_write_time(path,
                                   std::filesystem::file_time_type::clock::now() - std::chrono::hours(1));
  const TensorInfo tensor = weight("blk.0.ffn_up.weight", {4096, 1, 1, 1});
  const auto matrix = ImportanceMatrix::read(path);
  ASSERT_VALUE(matrix);
  ASSERT_VALUE(matrix.value().statistics(tensor));
  test::write_file(path, bytes);
  const auto modified = matrix.value().statistics(tensor);
  ASSERT_FALSE(modified);
  EXPECT_EQ(modified.error().code, ErrorCode::Io);
  EXPECT_THAT(modified.error().message, HasSubstr("i.gguf: another program modified it"));
  std::filesystem::resize_file(path, 100);  // a part that was read is gone
  const auto cut = matrix.value().statistics(tensor);
  ASSERT_FALSE(cut);
  EXPECT_THAT(cut.error().message, HasSubstr("changed its size"));
}

TEST(ImportanceMatrix, OtherShapesOfFiles) {
  const auto shared = test::shared_dir();
  if (!shared)
    GTEST_SKIP()
        << "the larger conformance data are absent: mixture-of-experts and legacy matrices of the models "
           "were not read";
  const auto moe = ImportanceMatrix::read(*shared / "models/tale-moe.imatrix.gguf");
  ASSERT_VALUE(moe);
  EXPECT_EQ(moe.value().entries().size(), 33U);
  const auto without = ImportanceMatrix::read(*shared / "models/tale-dense.imatrix-noact.gguf");
  ASSERT_VALUE(without);
  EXPECT_FALSE(without.value().has_activations());
  // Both formats of the same matrix give the same means.
  const auto legacy = ImportanceMatrix::read(*shared / "models/tale-dense.imatrix.dat");
  ASSERT_VALUE(legacy);
  EXPECT_EQ(legacy.value().chunk_count(), 240U);
  for (const auto& [name, entry] : without.value().entries()) {
    const TensorInfo tensor = weight(name, {entry.sum_squares.size(), 1, 1, 1});
    const auto a = without.value().statistics(tensor);
    const auto b = legacy.value().statistics(tensor);
    ASSERT_TRUE(a && b && a.value() && b.value()) << name;
    for (std::size_t j = 0; j < entry.sum_squares.size(); ++j)
      ASSERT_NEAR((*a.value())[0].mean_square[j], (*b.value())[0].mean_square[j],
                  1e-5 * (*a.value())[0].mean_square[j])
          << name;
  }
}

}  // namespace
}  // namespace quantfit
