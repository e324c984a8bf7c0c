#include "tests/client/reference_model.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/gguf_writer.h"
#include "kernels/covariance.h"
#include "kernels/row_kernels.h"
#include "kernels/row_quantizer.h"
#include "optimizer/llama_cpp/model_traits.h"
#include "optimizer/llama_cpp/pattern.h"
#include "optimizer/llama_cpp/quantize_rules.h"
#include "optimizer/llama_cpp/static_recipes.h"
#include "tests/support/reference_library.h"

namespace quantfit::test {
namespace {

constexpr std::size_t kRowsPerTask = 64;  // encoded in one call

// One tensor on its way from the source to the encoded bytes.
struct Job {
  const Model* model = nullptr;
  const TensorInfo* tensor = nullptr;
  Format target = Format::F32;
  std::vector<ColumnStatistics> statistics;                     // one per matrix, or empty
  std::vector<std::vector<float>> ones;                         // importance of experts that were never seen
  std::vector<std::unique_ptr<kernels::ColumnMetric>> metrics;  // one per matrix; for our encoder only
  std::vector<std::byte> bytes;                                 // encoded
};

Result<void> decode_row(const ReferenceLibrary& ggml, Format source, std::span<const std::byte> in,
                        std::span<float> out) {
  if (source != Format::F32) return ggml.dequantize_row(source, in, out);
  if (in.size() != out.size_bytes()) return fail(ErrorCode::ShapeMismatch, "a row of {} bytes", in.size());
  std::memcpy(out.data(), in.data(), in.size());
  return outcome::success();
}

// Rows first .. first + count - 1 of one matrix.
Result<void> encode_rows(const ReferenceLibrary& ggml, Job& job, std::uint64_t matrix, std::uint64_t first,
                         std::uint64_t count) {
  const std::uint64_t columns = job.tensor->row_length();
  std::vector<float> x(columns * count);
  for (std::uint64_t r = 0; r < count; ++r) {
    QF_TRY(decode_row(ggml, job.tensor->format, job.model->row(*job.tensor, first + r),
                      std::span(x).subspan(r * columns, columns)));
  }
  QF_ASSIGN(const std::uint64_t bytes_per_row, row_bytes(job.target, columns));
  std::span<const float> importance;
  if (!job.statistics.empty()) {
    importance = job.statistics[matrix].imputed ? job.ones[matrix] : job.statistics[matrix].mean_square;
  }
  return ggml.quantize_chunk(job.target, x, count, columns, importance,
                             std::span(job.bytes).subspan(first * bytes_per_row, count * bytes_per_row));
}

Result<void> encode_rows_with_ours(const kernels::RowKernels& kernels, kernels::Effort effort, Job& job,
                                   std::uint64_t matrix, std::uint64_t first, std::uint64_t count) {
  const std::uint64_t columns = job.tensor->row_length();
  QF_ASSIGN(const std::uint64_t bytes_per_row, row_bytes(job.target, columns));
  kernels::RowQuantizer quantizer(kernels, columns);
  if (!quantizer.can_encode(job.target)) {
    return fail(ErrorCode::Unsupported, "no encoder of ours for {}", name_of(job.target));
  }
  for (std::uint64_t r = first; r < first + count; ++r) {
    QF_TRY(quantizer.load(job.tensor->format, job.model->row(*job.tensor, r), *job.metrics[matrix]));
    quantizer.encode(job.target, effort, job.bytes.data() + r * bytes_per_row);
  }
  return outcome::success();
}

// Calls `work(matrix, first row, rows)` for all rows of the tensor from `threads` threads.
template <class Work>
Result<void> for_rows(const TensorInfo& tensor, int threads, const Work& work) {
  const std::uint64_t rows_of_matrix = tensor.ne[1];
  const std::uint64_t tasks_of_matrix = (rows_of_matrix + kRowsPerTask - 1) / kRowsPerTask;
  const std::uint64_t tasks = tasks_of_matrix * tensor.matrices();
  std::atomic<std::uint64_t> next{0};
  std::mutex mutex;
  std::optional<Error> failure;
  const auto run = [&] {
    for (std::uint64_t task = next++; task < tasks; task = next++) {
      const std::uint64_t matrix = task / tasks_of_matrix;
      const std::uint64_t row = task % tasks_of_matrix * kRowsPerTask;
      const auto done =
          work(matrix, matrix * rows_of_matrix + row, std::min(kRowsPerTask, rows_of_matrix - row));
      if (done) continue;
      const std::lock_guard lock(mutex);
      if (!failure) failure = fail(done.error().code, "tensor '{}': {}", tensor.name, done.error().message);
      next = tasks;
    }
  };
  {
    std::vector<std::jthread> pool;
    for (int i = 1; i < threads; ++i) pool.emplace_back(run);
    run();
  }
  if (failure) return *failure;
  return outcome::success();
}

// The factors of the second moments, one at a time: tensors with the same input follow each other.
class FactorCache {
 public:
  FactorCache(const SecondMoments& moments, float damping) : moments_(moments), damping_(damping) {}

  // Valid until the next call. Null when the second moments do not know the tensor.
  Result<const kernels::CovarianceFactor*> of(const TensorInfo& tensor) {
    const SecondMoments::Input* input = moments_.find(tensor.name);
    if (input == nullptr) return nullptr;
    if (input->columns != tensor.row_length() || tensor.matrices() != 1) {
      return fail(ErrorCode::ShapeMismatch, "tensor '{}': second moments of {} columns for {} rows of {}",
                  tensor.name, input->columns, tensor.rows(), tensor.row_length());
    }
    if (input != input_) {
      QF_ASSIGN(const std::vector<float> full, moments_.read(*input));
      auto made = kernels::CovarianceFactor::make(input->columns, full, damping_);
      if (!made) return fail(made.error().code, "input '{}': {}", input->name, made.error().message);
      factor_ = std::move(made).value();
      input_ = input;
    }
    return &*factor_;
  }

 private:
  const SecondMoments& moments_;
  float damping_;
  const SecondMoments::Input* input_ = nullptr;  // of factor_
  std::optional<kernels::CovarianceFactor> factor_;
};

// Second moments that no tensor uses, or that a format cannot use, are a mistake of the caller.
Result<void> check_moments(const Model& model, const Recipe& recipe, const EncoderChoice& encoder) {
  if (encoder.moments == nullptr) return outcome::success();
  if (encoder.ggml) return fail(ErrorCode::InvalidArgument, "ggml's encoders take no second moments");
  std::size_t known = 0;
  for (std::size_t i = 0; i < recipe.entries.size(); ++i) {
    const TensorInfo& tensor = model.tensors()[i];
    const Format target = recipe.entries[i].format;
    if (encoder.moments->find(tensor.name) == nullptr) continue;
    ++known;
    if (target != tensor.format && !kernels::has_error_feedback(target)) {
      return fail(ErrorCode::InvalidArgument, "tensor '{}': {} has no encoder with error feedback",
                  tensor.name, name_of(target));
    }
  }
  if (known == 0) {
    return fail(ErrorCode::InvalidArgument,
                "the second moments are of another model: no tensor of it is among them");
  }
  return outcome::success();
}

Result<Format> format_after_equals(std::string_view text, std::size_t line) {
  const auto format = parse_format(text);
  if (!format) return fail(ErrorCode::InvalidArgument, "line {}: '{}' is not a format", line, text);
  return *format;
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r";
  const std::size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

Recipe source_recipe(const Model& model) {
  Recipe recipe;
  for (const TensorInfo& tensor : model.tensors()) recipe.entries.push_back({tensor.name, tensor.format});
  return recipe;
}

}  // namespace

Recipe uniform_recipe(const Model& model, Format layers, Format ends) {
  Recipe recipe = source_recipe(model);
  for (std::size_t i = 0; i < recipe.entries.size(); ++i) {
    const TensorInfo& tensor = model.tensors()[i];
    if (!optimizer::quantizability(tensor).quantizable) continue;
    const bool end = tensor.name == "output.weight" || tensor.name == "token_embd.weight";
    recipe.entries[i].format = optimizer::fit_row_length(end ? ends : layers, tensor.row_length()).format;
  }
  return recipe;
}

Result<Recipe> preset_recipe(const Model& model, std::string_view name, bool has_importance) {
  const auto file_type = optimizer::parse_file_type(name);
  if (!file_type) return fail(ErrorCode::InvalidArgument, "'{}' is not a mixture of llama.cpp", name);
  QF_ASSIGN(const optimizer::ModelTraits traits, optimizer::model_traits(model.metadata(), model.tensors()));
  optimizer::StaticRecipeRequest request;
  request.file_type = *file_type;
  request.has_importance = has_importance;
  QF_ASSIGN(optimizer::StaticRecipe resolved,
            optimizer::resolve_static_recipe(traits, model.tensors(), request));
  return std::move(resolved.recipe);
}

Result<Recipe> read_recipe(const Model& model, std::string_view text) {
  Recipe recipe = source_recipe(model);
  std::vector<std::pair<optimizer::Pattern, Format>> patterns;
  std::vector<bool> named(recipe.entries.size(), false);
  std::size_t line_number = 0;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    const std::string_view line = trimmed(text.substr(0, end));
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
    ++line_number;
    if (line.empty() || line.front() == '#') continue;
    const std::size_t equals = line.rfind('=');
    if (equals == std::string_view::npos) {
      return fail(ErrorCode::InvalidArgument, "line {}: expected 'tensor=format', got '{}'", line_number,
                  line);
    }
    const std::string_view name = trimmed(line.substr(0, equals));
    QF_ASSIGN(const Format format, format_after_equals(trimmed(line.substr(equals + 1)), line_number));
    const auto entry = std::find_if(recipe.entries.begin(), recipe.entries.end(),
                                    [&](const RecipeEntry& candidate) { return candidate.tensor == name; });
    if (entry != recipe.entries.end()) {
      entry->format = format;
      named[static_cast<std::size_t>(entry - recipe.entries.begin())] = true;
      continue;
    }
    QF_ASSIGN(optimizer::Pattern pattern, optimizer::Pattern::compile(name));
    patterns.emplace_back(std::move(pattern), format);
  }
  for (std::size_t i = 0; i < recipe.entries.size(); ++i) {
    const TensorInfo& tensor = model.tensors()[i];
    const bool quantizable = optimizer::quantizability(tensor).quantizable;
    if (named[i]) {
      if (!quantizable && recipe.entries[i].format != tensor.format) {
        return fail(ErrorCode::InvalidArgument, "tensor '{}' cannot be quantized", tensor.name);
      }
      continue;
    }
    if (!quantizable) continue;
    for (const auto& [pattern, format] : patterns) {
      if (!pattern.found_in(tensor.name)) continue;
      recipe.entries[i].format = format;
      break;
    }
  }
  return recipe;
}

Result<EncodedTensors> write_reference_model(const Model& model, const Recipe& recipe,
                                             const ImportanceMatrix* importance, const EncoderChoice& encoder,
                                             const std::filesystem::path& out, int threads) {
  QF_ASSIGN(const ReferenceLibrary* ggml, ReferenceLibrary::load());
  QF_ASSIGN(const kernels::RowKernels* kernels, kernels::default_kernels());
  if (recipe.entries.size() != model.tensors().size()) {
    return fail(ErrorCode::ShapeMismatch, "a recipe of {} tensors for a model of {}", recipe.entries.size(),
                model.tensors().size());
  }
  QF_TRY(check_moments(model, recipe, encoder));
  std::optional<FactorCache> factors;
  if (encoder.moments != nullptr) factors.emplace(*encoder.moments, encoder.damping);
  EncodedTensors encoded;
  std::vector<TensorInfo> infos(model.tensors().begin(), model.tensors().end());
  for (std::size_t i = 0; i < infos.size(); ++i) infos[i].format = recipe.entries[i].format;
  GgufMetadata metadata = model.metadata();
  for (const char* key : {"split.no", "split.count", "split.tensors.count", "general.alignment"})
    metadata.remove(key);
  metadata.set(GgufKeyValue::of_uint32("general.quantization_version", 2));
  QF_ASSIGN(const optimizer::FileType file_type, optimizer::dominant_file_type(model.tensors(), recipe));
  metadata.set(GgufKeyValue::of_uint32("general.file_type", static_cast<std::uint32_t>(file_type)));
  QF_ASSIGN(GgufWriter writer, GgufWriter::create(out, metadata, infos));

  for (std::size_t i = 0; i < infos.size(); ++i) {
    const TensorInfo& tensor = model.tensors()[i];
    if (tensor.format == infos[i].format) {
      QF_TRY(writer.append(model.data(tensor)));
      continue;
    }
    Job job;
    job.model = &model;
    job.tensor = &tensor;
    job.target = infos[i].format;
    if (importance != nullptr) {
      QF_ASSIGN(auto statistics, importance->statistics(tensor));
      if (statistics) job.statistics = std::move(*statistics);
    }
    job.ones.resize(job.statistics.size());
    for (std::size_t m = 0; m < job.ones.size(); ++m) {
      if (job.statistics[m].imputed) job.ones[m].assign(tensor.row_length(), 1.0F);
    }
    QF_ASSIGN(const std::uint64_t bytes, tensor_bytes(job.target, tensor.row_length(), tensor.rows()));
    job.bytes.resize(bytes);
    const kernels::CovarianceFactor* covariance = nullptr;
    if (factors) {
      QF_ASSIGN(covariance, factors->of(tensor));
    }
    ++(covariance != nullptr ? encoded.feedback : encoded.diagonal);
    if (encoder.ggml) {
      QF_TRY(for_rows(tensor, threads, [&](std::uint64_t matrix, std::uint64_t first, std::uint64_t count) {
        return encode_rows(*ggml, job, matrix, first, count);
      }));
    } else {
      for (std::uint64_t m = 0; m < tensor.matrices(); ++m) {
        std::span<const float> square, mean;
        if (!job.statistics.empty()) {
          square = job.statistics[m].mean_square;
          if (encoder.use_means) mean = job.statistics[m].mean;
        }
        job.metrics.push_back(std::make_unique<kernels::ColumnMetric>(
            tensor.row_length(), square, mean, encoder.error_model.kappa_of(tensor.name), covariance));
      }
      QF_TRY(for_rows(tensor, threads, [&](std::uint64_t matrix, std::uint64_t first, std::uint64_t count) {
        return encode_rows_with_ours(*kernels, encoder.effort, job, matrix, first, count);
      }));
    }
    QF_TRY(writer.append(job.bytes));
  }
  QF_TRY(writer.commit());
  return encoded;
}

}  // namespace quantfit::test
