#include "benchmarks/generated_model.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/gguf_value.h"
#include "core/gguf_writer.h"
#include "core/tensor_info.h"
#include "kernels/half.h"
#include "tests/core/gguf_bytes.h"

namespace quantfit::bench {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kDistinctRows = 256;
constexpr std::uint64_t kTokens = 65536;  // that the importance matrix claims to have seen
constexpr std::uint32_t kAlignment = 32;
constexpr std::uint64_t kHeadWidth = 128;

struct Shapes {
  std::uint64_t width, layers, vocabulary;
  [[nodiscard]] std::uint64_t key_width() const { return std::max<std::uint64_t>(width / 4, 256); }
  [[nodiscard]] std::uint64_t layer_weights() const {
    return 2 * width * width + 2 * width * key_width() + 3 * width * 4 * width;
  }
};

Shapes shapes_for(std::uint64_t weights) {
  Shapes shapes{256, 1, 4096};
  for (const std::uint64_t width : {4096U, 2048U, 1024U, 512U, 256U}) {
    shapes = {width, 1, width >= 2048 ? 32768U : 4096U};
    const std::uint64_t head = 2 * shapes.vocabulary * width;
    if ((width < 4096 || weights >= 4'000'000'000) && weights >= head + 2 * shapes.layer_weights()) break;
  }
  const std::uint64_t head = 2 * shapes.vocabulary * shapes.width;
  const std::uint64_t body = weights > head ? weights - head : 0;
  shapes.layers = std::max<std::uint64_t>(body / shapes.layer_weights(), 1);
  const std::uint64_t rest = body - std::min(body, shapes.layers * shapes.layer_weights());
  shapes.vocabulary += rest / (2 * shapes.width) / 256 * 256;
  return shapes;
}

TensorInfo tensor_of(std::string name, Format format, std::vector<std::uint64_t> ne) {
  TensorInfo tensor;
  tensor.name = std::move(name);
  tensor.format = format;
  tensor.n_dims = static_cast<std::uint32_t>(ne.size());
  std::copy(ne.begin(), ne.end(), tensor.ne.begin());
  return tensor;
}

std::vector<TensorInfo> tensors_of(const Shapes& shapes) {
  std::vector<TensorInfo> tensors;
  const auto matrix = [&](const std::string& name, std::uint64_t columns, std::uint64_t rows) {
    tensors.push_back(tensor_of(name + ".weight", Format::F16, {columns, rows}));
  };
  const auto norm = [&](const std::string& name) {
    tensors.push_back(tensor_of(name + ".weight", Format::F32, {shapes.width}));
  };
  matrix("token_embd", shapes.width, shapes.vocabulary);
  for (std::uint64_t layer = 0; layer < shapes.layers; ++layer) {
    const std::string prefix = "blk." + std::to_string(layer) + ".";
    norm(prefix + "attn_norm");
    matrix(prefix + "attn_q", shapes.width, shapes.width);
    matrix(prefix + "attn_k", shapes.width, shapes.key_width());
    matrix(prefix + "attn_v", shapes.width, shapes.key_width());
    matrix(prefix + "attn_output", shapes.width, shapes.width);
    norm(prefix + "ffn_norm");
    matrix(prefix + "ffn_gate", shapes.width, 4 * shapes.width);
    matrix(prefix + "ffn_up", shapes.width, 4 * shapes.width);
    matrix(prefix + "ffn_down", 4 * shapes.width, shapes.width);
  }
  norm("output_norm");
  matrix("output", shapes.width, shapes.vocabulary);
  return tensors;
}

GgufMetadata metadata_of(const Shapes& shapes) {
  GgufMetadata metadata;
  metadata.add(GgufKeyValue::of_string("general.architecture", "llama"));
  metadata.add(GgufKeyValue::of_string("general.name", "generated"));
  metadata.add(GgufKeyValue::of_string("tokenizer.ggml.model", "none"));  // tokens are given as numbers
  const auto put = [&](const char* key, std::uint64_t value) {
    metadata.add(GgufKeyValue::of_uint32(key, static_cast<std::uint32_t>(value)));
  };
  put("llama.block_count", shapes.layers);
  put("llama.context_length", 8192);
  put("llama.embedding_length", shapes.width);
  put("llama.feed_forward_length", 4 * shapes.width);
  put("llama.attention.head_count", shapes.width / kHeadWidth);
  put("llama.attention.head_count_kv", shapes.key_width() / kHeadWidth);
  put("llama.vocab_size", shapes.vocabulary);
  metadata.add(GgufKeyValue::of_float32("llama.attention.layer_norm_rms_epsilon", 1e-5F));
  return metadata;
}

// Quantiles of a distribution, so that one random number gives one weight.
class StudentT {
 public:
  StudentT() : quantiles_(1U << 16) {
    std::mt19937_64 random(1);
    std::student_t_distribution<float> t(5);
    for (float& value : quantiles_) value = t(random);
  }
  [[nodiscard]] float operator()(std::uint64_t random) const { return quantiles_[random & 0xFFFFU]; }

 private:
  std::vector<float> quantiles_;
};

class OutputFile {
 public:
  explicit OutputFile(const fs::path& path)
      : path_(path), file_(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)) {}
  ~OutputFile() {
    if (file_ >= 0) close(file_);
  }
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  Result<void> write(std::span<const std::byte> bytes, std::uint64_t at) {
    while (!bytes.empty()) {
      const ssize_t count =
          file_ < 0 ? -1 : pwrite(file_, bytes.data(), bytes.size(), static_cast<off_t>(at));
      if (count < 0) return fail(ErrorCode::Io, "{}: cannot write: {}", path_.string(), std::strerror(errno));
      at += static_cast<std::uint64_t>(count);
      bytes = bytes.subspan(static_cast<std::size_t>(count));
    }
    return outcome::success();
  }
  Result<void> finish(std::uint64_t size) {
    if (file_ < 0 || ftruncate(file_, static_cast<off_t>(size)) != 0 || fdatasync(file_) != 0)
      return fail(ErrorCode::Io, "{}: cannot finish: {}", path_.string(), std::strerror(errno));
    return outcome::success();
  }

 private:
  fs::path path_;
  int file_;
};

// The header of a file of these; GgufWriter makes whole files only, and a hole is to stay one.
std::vector<std::byte> header_of(const GgufMetadata& metadata, std::span<TensorInfo> tensors,
                                 std::uint64_t& size) {
  test::GgufBytes header(tensors.size(), metadata.all().size());
  for (const GgufKeyValue& pair : metadata.all()) {
    header.text(pair.key).put(static_cast<std::uint32_t>(pair.type));
    if (pair.type == GgufType::String) header.put(std::uint64_t{pair.bytes.size()});
    header.raw({reinterpret_cast<const char*>(pair.bytes.data()), pair.bytes.size()});
  }
  std::uint64_t offset = 0;
  for (TensorInfo& tensor : tensors) {
    tensor.offset = offset;
    tensor.bytes = tensor.elements() * (tensor.format == Format::F16 ? 2 : 4);
    offset += (tensor.bytes + kAlignment - 1) / kAlignment * kAlignment;
    header.tensor(tensor.name, {tensor.ne.begin(), tensor.ne.begin() + tensor.n_dims},
                  static_cast<std::uint32_t>(tensor.format), tensor.offset);
  }
  header.pad();
  size = header.bytes().size() + offset;
  return header.bytes();
}

Result<void> write_matrix(OutputFile& file, const TensorInfo& tensor, std::uint64_t at, const StudentT& t,
                          std::mt19937_64& random, bool sparse) {
  std::normal_distribution<float> normal;
  const std::uint64_t columns = tensor.row_length();
  const std::uint64_t distinct = std::min(tensor.rows(), kDistinctRows);
  std::vector<float> scale(columns);
  for (float& s : scale) s = std::exp(0.2F * normal(random)) / std::sqrt(static_cast<float>(columns));
  std::vector<std::uint16_t> rows(distinct * columns);
  for (std::uint64_t r = 0; r < distinct; ++r) {
    const float row_scale = std::exp(0.3F * normal(random));
    std::uint64_t bits = 0;
    for (std::uint64_t j = 0; j < columns; ++j) {
      bits = j % 4 == 0 ? random() : bits >> 16;
      rows[r * columns + j] = kernels::float_to_half(row_scale * scale[j] * t(bits));
    }
  }
  if (sparse) return file.write(std::as_bytes(std::span(rows)), at);
  // Runs of the distinct rows from irregular starts.
  for (std::uint64_t row = 0; row < tensor.rows();) {
    const std::uint64_t first = row == 0 ? 0 : random() % distinct;
    const std::uint64_t count = std::min(distinct - first, tensor.rows() - row);
    QF_TRY(file.write(std::as_bytes(std::span(rows).subspan(first * columns, count * columns)),
                      at + row * columns * sizeof(std::uint16_t)));
    row += count;
  }
  return outcome::success();
}

Result<void> write_model_file(const fs::path& path, const Shapes& shapes, std::span<TensorInfo> tensors,
                              bool sparse) {
  OutputFile file(path);
  std::uint64_t size = 0;
  const std::vector<std::byte> header = header_of(metadata_of(shapes), tensors, size);
  QF_TRY(file.write(header, 0));
  const StudentT t;
  std::mt19937_64 random(2);
  for (const TensorInfo& tensor : tensors) {
    const std::uint64_t at = header.size() + tensor.offset;
    if (tensor.format == Format::F16) {
      QF_TRY(write_matrix(file, tensor, at, t, random, sparse));
    } else {
      const std::vector<float> ones(tensor.elements(), 1.0F);
      QF_TRY(file.write(std::as_bytes(std::span(ones)), at));
    }
  }
  return file.finish(size);
}

Result<void> write_importance_file(const fs::path& path, std::span<const TensorInfo> tensors) {
  GgufMetadata metadata;
  metadata.add(GgufKeyValue::of_string("general.type", "imatrix"));
  const std::vector<std::string> datasets = {"generated"};
  metadata.add(GgufKeyValue::of_string_array("imatrix.datasets", datasets));
  metadata.add(GgufKeyValue::of_uint32("imatrix.chunk_count", kTokens / 512));
  metadata.add(GgufKeyValue::of_uint32("imatrix.chunk_size", 512));
  std::vector<TensorInfo> entries;
  for (const TensorInfo& tensor : tensors) {
    if (tensor.format != Format::F16 || tensor.name == "token_embd.weight") continue;
    for (const char* suffix : {".in_sum2", ".in_sum"})
      entries.push_back(tensor_of(tensor.name + suffix, Format::F32, {tensor.row_length()}));
    entries.push_back(tensor_of(tensor.name + ".counts", Format::F32, {1}));
  }
  QF_ASSIGN(GgufWriter writer, GgufWriter::create(path, metadata, entries, kAlignment));
  std::mt19937_64 random(3);
  std::normal_distribution<float> normal;
  constexpr auto kCount = static_cast<float>(kTokens);
  for (std::size_t i = 0; i < entries.size(); i += 3) {
    const std::uint64_t columns = entries[i].ne[0];
    std::vector<float> squares(columns);
    std::vector<float> sums(columns);
    for (std::uint64_t j = 0; j < columns; ++j) {
      // One column in 500 is an outlier ten times as strong.
      const float deviation = std::exp(0.75F * normal(random)) * (random() % 500 == 0 ? 10.0F : 1.0F);
      const float mean = 0.3F * deviation * normal(random);
      squares[j] = kCount * (deviation * deviation + mean * mean);
      sums[j] = kCount * mean;
    }
    QF_TRY(writer.append(std::as_bytes(std::span(squares))));
    QF_TRY(writer.append(std::as_bytes(std::span(sums))));
    QF_TRY(writer.append(std::as_bytes(std::span(&kCount, 1))));
  }
  return writer.commit();
}

}  // namespace

Result<GeneratedModel> generate_model(const fs::path& folder, std::uint64_t weights, bool sparse) {
  const Shapes shapes = shapes_for(weights);
  std::vector<TensorInfo> tensors = tensors_of(shapes);
  GeneratedModel generated;
  for (const TensorInfo& tensor : tensors) generated.elements += tensor.elements();
  const std::string stem = fmt::format("generated-{}{}", weights, sparse ? "-sparse" : "");
  generated.model = folder / (stem + ".gguf");
  generated.importance = folder / (stem + ".imatrix.gguf");
  std::error_code error;
  fs::create_directories(folder, error);
  // The importance matrix is written last: where it exists, the model is complete.
  if (!fs::exists(generated.importance, error)) {
    QF_TRY(write_model_file(generated.model, shapes, tensors, sparse));
    QF_TRY(write_importance_file(generated.importance, tensors));
  }
  return generated;
}

}  // namespace quantfit::bench
