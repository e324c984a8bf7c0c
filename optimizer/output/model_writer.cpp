#include "optimizer/output/model_writer.h"

#include <tbb/enumerable_thread_specific.h>
#include <tbb/parallel_pipeline.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <unordered_map>

#include "core/digest.h"
#include "core/file_util.h"
#include "core/fingerprint.h"
#include "core/gguf_layout.h"
#include "core/gguf_writer.h"
#include "core/out_of_memory.h"
#include "core/text.h"
#include "kernels/row_quantizer.h"
#include "kernels/validate.h"
#include "optimizer/llama_cpp/static_recipes.h"
#include "optimizer/parallel/first_failure.h"
#include "optimizer/parallel/workers.h"

namespace quantfit::optimizer {
namespace {

// Rows are cut into chunks of about this many source bytes: enough to amortize a task, small enough that the
// chunks in flight stay far below the memory bound.
constexpr std::uint64_t kChunkBytes = 1U << 20;

// The reference stores at most this many bytes of file and data set names.
constexpr std::size_t kMaxNameBytes = 127;

// A run of rows of one tensor on its way through the pipeline.
struct Chunk {
  const TensorInfo* source = nullptr;
  std::size_t tensor = 0;  // its place in the model
  Format format = Format::F32;
  std::uint64_t first_row = 0;
  std::uint64_t rows = 0;
  std::shared_ptr<const TensorMetric> metric;  // of the tensor; shared by its chunks
  std::span<const std::byte> bytes;            // in the mapping
  std::vector<std::byte> encoded;              // unused when the format stays
};

// Hands out the chunks of all tensors in file order.
class ChunkSource {
 public:
  ChunkSource(const Model& model, const ImportanceMatrix* importance, std::span<const TensorInfo> outputs,
              const ErrorModel& error_model)
      : model_(model), importance_(importance), outputs_(outputs), error_model_(error_model) {}

  // Null at the end.
  Result<std::unique_ptr<Chunk>> next() {
    // A tensor without elements has nothing to be read, however many rows it claims.
    while (tensor_ < outputs_.size() &&
           (model_.tensors()[tensor_].bytes == 0 || row_ == model_.tensors()[tensor_].rows())) {
      ++tensor_;
      row_ = 0;
      metric_.reset();
    }
    if (tensor_ == outputs_.size()) return std::unique_ptr<Chunk>{};
    const TensorInfo& source = model_.tensors()[tensor_];
    auto chunk = std::make_unique<Chunk>();
    chunk->source = &source;
    chunk->tensor = tensor_;
    chunk->format = outputs_[tensor_].format;
    chunk->first_row = row_;
    const std::uint64_t row_size = source.bytes / source.rows();
    chunk->rows = std::clamp<std::uint64_t>(kChunkBytes / row_size, 1, source.rows() - row_);
    const auto bytes = model_.data(source).subspan(row_ * row_size, chunk->rows * row_size);
    model_.will_need(bytes);
    chunk->bytes = bytes;
    if (chunk->format != source.format) {
      if (!metric_) {
        auto made = make_tensor_metric(source, importance_, error_model_);
        if (!made) return std::move(made).error();
        metric_ = std::make_shared<const TensorMetric>(std::move(made).value());
      }
      chunk->metric = metric_;
    }
    row_ += chunk->rows;
    return chunk;
  }

 private:
  const Model& model_;
  const ImportanceMatrix* importance_;
  std::span<const TensorInfo> outputs_;
  const ErrorModel& error_model_;
  std::size_t tensor_ = 0;
  std::uint64_t row_ = 0;
  std::shared_ptr<const TensorMetric> metric_;
};

// What is copied is looked at too: encoders refuse weights that are no numbers, and a copy would pass them
// on.
Result<void> check_copied(const Chunk& chunk) {
  const TensorInfo& source = *chunk.source;
  const auto block = kernels::first_invalid_block(source.format, chunk.bytes);
  if (!block) return outcome::success();
  const FormatTraits& format = traits(source.format);
  const std::uint64_t blocks_per_row = source.row_length() / format.block_len;
  return fail(ErrorCode::Malformed, "tensor '{}', row {}: {} block {} holds a number that is not finite",
              source.name, chunk.first_row + *block / blocks_per_row, format.name, *block % blocks_per_row);
}

Result<void> encode_chunk(const Model& model, Chunk& chunk, kernels::RowQuantizer& quantizer,
                          const WriterOptions& options) {
  if (!chunk.metric) return check_copied(chunk);
  const TensorInfo& source = *chunk.source;
  QF_ASSIGN(const std::uint64_t bytes, row_bytes(chunk.format, source.row_length()));
  chunk.encoded.resize(chunk.rows * bytes);
  std::shared_ptr<const kernels::CovarianceFactor> covariance;
  for (std::uint64_t i = 0; i < chunk.rows; ++i) {
    const std::uint64_t row = chunk.first_row + i;
    const std::uint64_t matrix = row / source.ne[1];
    if (options.covariances != nullptr && (i == 0 || row % source.ne[1] == 0)) {
      QF_ASSIGN(covariance, options.covariances->covariance(source, matrix));
    }
    if (auto loaded =
            quantizer.load(source.format, model.row(source, row), chunk.metric->of(matrix), covariance);
        !loaded)
      return fail(loaded.error().code, "tensor '{}', row {}: {}", source.name, row, loaded.error().message);
    quantizer.encode(chunk.format, options.effort, chunk.encoded.data() + i * bytes);
  }
  return outcome::success();
}

// The files of an output, filled one after the other.
class OutputFiles {
 public:
  OutputFiles(const OutputLayout& layout, const std::filesystem::path& path, Existing existing)
      : layout_(layout), existing_(existing) {
    for (std::size_t i = 0; i < layout.files.size(); ++i)
      paths_.push_back(shard_path(path, i, layout.files.size()));
  }

  [[nodiscard]] const std::vector<std::filesystem::path>& paths() const { return paths_; }

  // Before any work: the names are free, or may be, and none is a file of the source.
  [[nodiscard]] Result<void> check_targets(const Model& model) const {
    for (const std::filesystem::path& path : paths_) {
      for (const GgufShard& shard : model.shards())
        if (same_file(shard.path, path))
          return fail(ErrorCode::InvalidArgument, "{}: the output would replace the model it is made from",
                      path.string());
      QF_TRY(check_target(path, existing_));
    }
    return outcome::success();
  }

  [[nodiscard]] Result<void> begin() {
    const std::size_t index = writers_.size();
    const PlannedShard& file = layout_.files[index];
    // The first is created when nothing is written yet: the space for all of them is asked for there.
    QF_ASSIGN(GgufWriter writer,
              GgufWriter::create(
                  paths_[index],
                  shard_metadata(layout_.metadata, index, layout_.files.size(), layout_.tensors.size()),
                  std::span(layout_.tensors).subspan(file.first_tensor, file.tensors), kGgufDefaultAlignment,
                  existing_, index == 0 ? layout_.file_bytes : 0));
    writers_.push_back(std::move(writer));
    return outcome::success();
  }

  // Bytes of the model's tensor `tensor`; tensors come in order, those without bytes not at all.
  [[nodiscard]] Result<void> append(std::size_t tensor, std::span<const std::byte> bytes) {
    while (tensor >= end_of_current()) QF_TRY(next());
    return writers_.back().append(bytes);
  }

  [[nodiscard]] Result<void> commit() {
    while (writers_.size() < layout_.files.size()) QF_TRY(next());
    if (writers_.size() == 1) return writers_.front().commit();
    return GgufWriter::commit_together(writers_);
  }

 private:
  [[nodiscard]] std::size_t end_of_current() const {
    const PlannedShard& file = layout_.files[writers_.size() - 1];
    return file.first_tensor + file.tensors;
  }
  [[nodiscard]] Result<void> next() {
    QF_TRY(writers_.back().seal());
    return begin();
  }

  const OutputLayout& layout_;
  Existing existing_;
  std::vector<std::filesystem::path> paths_;
  std::vector<GgufWriter> writers_;  // all but the last are sealed
};

std::string shortened(const std::string& text) {
  return std::string(cut_utf8(text, kMaxNameBytes));
}

}  // namespace

Result<OutputLayout> output_layout(const Model& model, const Recipe& recipe,
                                   const ImportanceMatrix* importance, std::span<const GgufKeyValue> keys,
                                   const ShardLimits& split) {
  OutputLayout layout;
  std::unordered_map<std::string_view, Format> chosen;
  for (const RecipeEntry& entry : recipe.entries)
    if (!chosen.emplace(entry.tensor, entry.format).second)
      return fail(ErrorCode::InvalidArgument, "the recipe names tensor '{}' twice", entry.tensor);
  for (const TensorInfo& source : model.tensors()) {
    const auto found = chosen.find(source.name);
    if (found == chosen.end())
      return fail(ErrorCode::InvalidArgument, "the recipe does not name tensor '{}'", source.name);
    TensorInfo output = source;
    output.format = found->second;
    output.shard = 0;
    QF_ASSIGN(output.bytes, tensor_bytes(output.format, source.row_length(), source.rows()));
    if (output.format != source.format && traits(source.format).kind == FormatKind::Integer)
      return fail(ErrorCode::InvalidArgument, "tensor '{}' is {}: it can only be copied", source.name,
                  name_of(source.format));
    if (output.format != source.format && source.elements() == 0)
      return fail(ErrorCode::InvalidArgument, "tensor '{}' has no elements: it can only be copied",
                  source.name);
    layout.tensor_bytes += output.bytes;
    layout.tensors.push_back(std::move(output));
  }
  if (chosen.size() != layout.tensors.size())
    return fail(ErrorCode::InvalidArgument, "the recipe names {} tensors, the model has {}", chosen.size(),
                layout.tensors.size());

  layout.metadata = model.metadata();
  for (const char* key : {"split.no", "split.count", "split.tensors.count", "general.alignment"})
    layout.metadata.remove(key);
  for (const char* key : {"quantize.imatrix.file", "quantize.imatrix.dataset",
                          "quantize.imatrix.entries_count", "quantize.imatrix.chunks_count"})
    layout.metadata.remove(key);
  for (const GgufKeyValue& value : model.metadata().all())
    if (value.key.starts_with(kOwnKeys)) layout.metadata.remove(value.key);
  for (const GgufKeyValue& value : keys) layout.metadata.set(value);
  layout.metadata.set(GgufKeyValue::of_uint32("general.quantization_version", 2));
  QF_ASSIGN(const FileType file_type, dominant_file_type(model.tensors(), recipe));
  layout.metadata.set(GgufKeyValue::of_uint32("general.file_type", static_cast<std::uint32_t>(file_type)));
  if (importance != nullptr) {
    layout.metadata.set(
        GgufKeyValue::of_string("quantize.imatrix.file", shortened(importance->path().filename().string())));
    if (!importance->datasets().empty())
      layout.metadata.set(GgufKeyValue::of_string(
          "quantize.imatrix.dataset",
          shortened(std::filesystem::path(importance->datasets().front()).filename().string())));
    layout.metadata.set(GgufKeyValue::of_uint32("quantize.imatrix.entries_count",
                                                static_cast<std::uint32_t>(importance->entries().size())));
    if (importance->chunk_count())
      layout.metadata.set(GgufKeyValue::of_uint32("quantize.imatrix.chunks_count",
                                                  static_cast<std::uint32_t>(*importance->chunk_count())));
  }
  QF_ASSIGN(layout.files, plan_shards(layout.metadata, layout.tensors, split));
  for (const PlannedShard& file : layout.files) layout.file_bytes += file.file_bytes;
  return layout;
}

Result<WriteSummary> write_model(const Model& model, const ImportanceMatrix* importance, const Recipe& recipe,
                                 const std::filesystem::path& path, const WriterOptions& options,
                                 const kernels::RowKernels& kernels, ProgressSink& progress,
                                 const CancellationToken& cancel) {
  return or_out_of_memory(path.string(), [&]() -> Result<WriteSummary> {
    const auto started = std::chrono::steady_clock::now();
    QF_ASSIGN(const OutputLayout layout,
              output_layout(model, recipe, importance, options.keys, options.split));
    OutputFiles files(layout, path, options.existing);
    QF_TRY(files.check_targets(model));
    std::size_t longest_row = 0;
    for (std::size_t i = 0; i < layout.tensors.size(); ++i) {
      const TensorInfo& output = layout.tensors[i];
      if (output.format == model.tensors()[i].format) continue;
      longest_row = std::max<std::size_t>(longest_row, output.row_length());
      if (kernels.encode[static_cast<std::size_t>(output.format)] == nullptr)
        return fail(ErrorCode::InvalidArgument, "tensor '{}': {} cannot be encoded", output.name,
                    name_of(output.format));
    }
    QF_TRY(files.begin());

    const ModelWatch watch(model);
    progress.begin("writing", model.total_elements());
    Workers workers(options.threads);
    tbb::enumerable_thread_specific<kernels::RowQuantizer> quantizers(
        [&] { return kernels::RowQuantizer(kernels, longest_row); });
    FirstFailure failure;
    Digest digest;
    const auto stopped = [&] { return failure.reported() || cancel.cancelled(); };

    ChunkSource chunks(model, importance, layout.tensors, options.error_model);
    workers.run([&] {
      const auto in_flight = static_cast<std::size_t>(4 * workers.threads());
      const auto read = [&](tbb::flow_control& control) -> std::shared_ptr<Chunk> {
        if (!stopped()) {
          auto next = chunks.next();
          if (!next) {
            failure.report(std::move(next).error());
          } else if (next.value()) {
            return std::move(next).value();
          }
        }
        control.stop();
        return nullptr;
      };
      const auto encode = [&](std::shared_ptr<Chunk> chunk) {
        if (!stopped())
          if (auto encoded = encode_chunk(model, *chunk, quantizers.local(), options); !encoded)
            failure.report(std::move(encoded).error());
        return chunk;
      };
      const auto append = [&](const std::shared_ptr<Chunk>& chunk) {
        if (stopped()) return;
        if (chunk->first_row == 0) {
          digest.text(chunk->source->name);
          for (const std::uint64_t extent : chunk->source->ne) digest.number(extent);
          digest.number(static_cast<std::uint64_t>(chunk->source->format));
        }
        digest.bytes(chunk->bytes);
        const std::span<const std::byte> bytes =
            chunk->metric ? std::span<const std::byte>(chunk->encoded) : chunk->bytes;
        if (auto appended = files.append(chunk->tensor, bytes); !appended)
          return failure.report(std::move(appended).error());
        // Pages of the source are not needed twice; those that chunks share go with the tensor's last chunk.
        const bool last = chunk->first_row + chunk->rows == chunk->source->rows();
        model.done_with(last ? model.data(*chunk->source) : chunk->bytes);
        progress.advance(chunk->rows * chunk->source->row_length(), chunk->source->name);
      };
      tbb::parallel_pipeline(
          in_flight,
          tbb::make_filter<void, std::shared_ptr<Chunk>>(tbb::filter_mode::serial_in_order, read) &
              tbb::make_filter<std::shared_ptr<Chunk>, std::shared_ptr<Chunk>>(tbb::filter_mode::parallel,
                                                                               encode) &
              tbb::make_filter<std::shared_ptr<Chunk>, void>(tbb::filter_mode::serial_in_order, append));
    });
    progress.end();
    QF_TRY(watch.check());  // before an error about weights that were never read
    QF_TRY(failure.result());
    if (cancel.cancelled())
      return fail(ErrorCode::Interrupted, "interrupted while writing {}; no file was left", path.string());
    if (!options.source_fingerprint.empty() && fingerprint(model) != options.source_fingerprint)
      return fail(
          ErrorCode::Io,
          "{}: another program changed its weights since the job began; start again when nothing writes "
          "to it",
          model.shards().front().path.string());
    QF_TRY(watch.check());
    QF_TRY(files.commit());
    WriteSummary summary;
    summary.files = files.paths();
    summary.source_digest = digest.hex();
    summary.file_bytes = layout.file_bytes;
    summary.tensor_bytes = layout.tensor_bytes;
    summary.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    return summary;
  });
}

}  // namespace quantfit::optimizer
