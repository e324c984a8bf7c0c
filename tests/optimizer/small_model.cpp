#include "tests/optimizer/small_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <span>

#include "core/gguf_writer.h"
#include "kernels/half.h"

namespace quantfit::test {
namespace {

TensorInfo info_of(const std::string& name, Format format, std::uint32_t dims,
                   std::array<std::uint64_t, 4> ne) {
  TensorInfo info;
  info.name = name;
  info.format = format;
  info.n_dims = dims;
  info.ne = ne;
  return info;
}

template <class T>
void append(GgufWriter& writer, const std::vector<T>& values) {
  const auto done = writer.append(std::as_bytes(std::span(values)));
  ASSERT_TRUE(done) << done.error().message;
}

void write_model(const std::filesystem::path& path, const std::vector<SmallTensor>& tensors) {
  GgufMetadata metadata;
  metadata.add(GgufKeyValue::of_string("general.architecture", "llama"));
  metadata.add(GgufKeyValue::of_uint32("general.file_type", 1));
  metadata.add(GgufKeyValue::of_uint32("llama.block_count", 1));
  metadata.add(GgufKeyValue::of_uint32("llama.embedding_length", 256));
  metadata.add(GgufKeyValue::of_uint32("llama.attention.head_count", 4));
  metadata.add(GgufKeyValue::of_uint32("llama.context_length", 256));
  metadata.add(GgufKeyValue::of_float32("llama.attention.layer_norm_rms_epsilon", 1e-5F));
  const std::vector<std::string> words = {"<s>", "a", "", "\xC3\xA9"};
  metadata.add(GgufKeyValue::of_string_array("tokenizer.ggml.tokens", words));
  std::vector<TensorInfo> infos;
  for (const SmallTensor& tensor : tensors)
    infos.push_back(info_of(tensor.name, tensor.format,
                            tensor.ne[2] > 1   ? 3
                            : tensor.ne[1] > 1 ? 2
                                               : 1,
                            {tensor.ne[0], tensor.ne[1], tensor.ne[2], 1}));
  auto writer = GgufWriter::create(path, metadata, infos);
  ASSERT_TRUE(writer) << writer.error().message;
  std::uint64_t seed = 1;
  for (const SmallTensor& tensor : tensors) {
    const std::vector<float> values = tensor.values.empty()
                                          ? heavy_tailed(tensor.ne[1] * tensor.ne[2], tensor.ne[0], seed++)
                                          : tensor.values;
    if (tensor.format == Format::F32) {
      append(writer.value(), values);
      continue;
    }
    std::vector<std::uint16_t> halves;
    for (const float value : values) halves.push_back(kernels::float_to_half(value));
    append(writer.value(), halves);
  }
  const auto done = writer.value().commit();
  ASSERT_TRUE(done) << done.error().message;
}

void write_importance(const std::filesystem::path& path, const std::vector<SmallTensor>& tensors) {
  GgufMetadata metadata;
  metadata.add(GgufKeyValue::of_string("general.type", "imatrix"));
  const std::vector<std::string> datasets = {"calibration.txt"};
  metadata.add(GgufKeyValue::of_string_array("imatrix.datasets", datasets));
  metadata.add(GgufKeyValue::of_uint32("imatrix.chunk_count", 10));
  metadata.add(GgufKeyValue::of_uint32("imatrix.chunk_size", 512));
  std::vector<TensorInfo> infos;
  std::vector<std::vector<float>> data;
  std::mt19937_64 random(99);
  std::normal_distribution<float> normal;
  for (const SmallTensor& tensor : tensors) {
    if (tensor.tokens.empty()) continue;
    const std::uint64_t matrices = tensor.tokens.size();
    std::vector<float> squares;
    std::vector<float> sums;
    for (std::uint64_t m = 0; m < matrices; ++m) {
      for (std::uint64_t j = 0; j < tensor.ne[0]; ++j) {
        const float deviation = std::exp(0.75F * normal(random));
        const float mean = 0.3F * deviation * normal(random);
        squares.push_back(tensor.tokens[m] * (deviation * deviation + mean * mean));
        sums.push_back(tensor.tokens[m] * mean);
      }
    }
    infos.push_back(info_of(tensor.name + ".in_sum2", Format::F32, 2, {tensor.ne[0], matrices, 1, 1}));
    infos.push_back(info_of(tensor.name + ".in_sum", Format::F32, 2, {tensor.ne[0], matrices, 1, 1}));
    infos.push_back(info_of(tensor.name + ".counts", Format::F32, 2, {1, matrices, 1, 1}));
    data.push_back(std::move(squares));
    data.push_back(std::move(sums));
    data.push_back(tensor.tokens);
  }
  auto writer = GgufWriter::create(path, metadata, infos);
  ASSERT_TRUE(writer) << writer.error().message;
  for (const std::vector<float>& values : data) append(writer.value(), values);
  const auto done = writer.value().commit();
  ASSERT_TRUE(done) << done.error().message;
}

}  // namespace

std::vector<float> heavy_tailed(std::uint64_t rows, std::uint64_t columns, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::student_t_distribution<float> weight(5);
  std::normal_distribution<float> normal;
  std::vector<float> values;
  values.reserve(rows * columns);
  for (std::uint64_t row = 0; row < rows; ++row) {
    const float scale = 0.05F * std::exp(0.3F * normal(random));
    for (std::uint64_t j = 0; j < columns; ++j) values.push_back(scale * weight(random));
  }
  return values;
}

SmallModel::SmallModel(const std::vector<SmallTensor>& tensors) : path_(folder_ / "model.gguf") {
  write_model(path_, tensors);
  auto model = Model::open(path_);
  EXPECT_TRUE(model) << model.error().message;
  model_ = std::move(model).value();
  if (std::ranges::all_of(tensors, [](const SmallTensor& tensor) { return tensor.tokens.empty(); })) return;
  write_importance(folder_ / "imatrix.gguf", tensors);
  auto importance = ImportanceMatrix::read(folder_ / "imatrix.gguf");
  EXPECT_TRUE(importance) << importance.error().message;
  importance_ = std::move(importance).value();
}

}  // namespace quantfit::test
