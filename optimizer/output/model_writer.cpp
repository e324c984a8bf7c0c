#include "optimizer/output/model_writer.h"

#include <tbb/enumerable_thread_specific.h>
#include <tbb/parallel_pipeline.h>

#include <algorithm>
#include <bit>
#include <memory>
#include <optional>
#include <unordered_map>

#include "core/clock.h"
#include "core/digest.h"
#include "core/fingerprint.h"
#include "core/out_of_memory.h"
#include "core/text.h"
#include "kernels/row_quantizer.h"
#include "kernels/validate.h"
#include "optimizer/llama_cpp/static_recipes.h"
#include "optimizer/output/output_files.h"
#include "optimizer/parallel/first_failure.h"
#include "optimizer/parallel/workers.h"

namespace quantfit::optimizer {
namespace {

// Rows are cut into chunks of about this many source bytes: enough to amortize a task, small enough that the
// chunks in flight stay far below the memory bound.
constexpr std::uint64_t kChunkBytes = 1U << 20;

// The reference stores at most this many bytes of file and data set names.
constexpr std::size_t kMaxNameBytes = 127;

// A tensor whose bytes were looked at before its first chunk, to find out whether it was encoded before.
struct ReadTensor {
  std::string weights;                  // the digest of all bytes
  std::uint64_t inputs = 0;             // inputs_digest
  std::optional<EncodedTensor> reused;  // what stands for encoding it
};

// Everything that decides the bytes of an encoded tensor, in one number. `weights`: the digest of all bytes
// of the source; `metric`: null when the format stays.
std::uint64_t inputs_digest(const TensorInfo& source, Format format, const std::string& weights,
                            const TensorMetric* metric, const WriterOptions& options) {
  Digest digest;
  digest.text("quantfit tensor 1");
  digest.text(source.name);
  for (const std::uint64_t extent : source.ne) digest.number(extent);
  digest.text(name_of(source.format));
  digest.text(weights);
  digest.text(name_of(format));
  if (metric == nullptr) return digest.value();
  digest.number(kernels::kEncoderVersion);
  digest.text(kernels::to_string(options.effort));
  digest.text(options.covariances != nullptr ? options.covariances->identity() : "");
  digest.number(metric->matrices.size());
  for (const kernels::ColumnMetric& matrix : metric->matrices) {
    const auto floats = [&](const float* values) {
      digest.bytes(std::as_bytes(std::span(values, matrix.columns())));
    };
    digest.number(matrix.columns());
    floats(matrix.second_moment());
    floats(matrix.variance());
    floats(matrix.mean());
    digest.number(matrix.has_mean() ? 1 : 0);
    digest.number(std::bit_cast<std::uint32_t>(matrix.kappa()));
    digest.number(std::bit_cast<std::uint64_t>(matrix.scale()));
  }
  return digest.value();
}

// A run of rows of one tensor on its way through the pipeline.
struct Chunk {
  const TensorInfo* source = nullptr;
  std::size_t tensor = 0;  // its place in the model
  Format format = Format::F32;
  std::uint64_t first_row = 0;
  std::uint64_t rows = 0;
  std::shared_ptr<const TensorMetric> metric;  // of the tensor; shared by its chunks
  std::shared_ptr<const ReadTensor> known;     // where the tensor was read as a whole already
  std::span<const std::byte> bytes;            // in the mapping
  std::vector<std::byte> encoded;              // unused when the format stays or the tensor is reused

  [[nodiscard]] bool first() const { return first_row == 0; }
  [[nodiscard]] bool last() const { return first_row + rows == source->rows(); }
};

// Hands out the chunks of all tensors in file order.
class ChunkSource {
 public:
  ChunkSource(const Model& model, const ImportanceMatrix* importance, std::span<const TensorInfo> outputs,
              const WriterOptions& options, EncodedTensors& earlier)
      : model_(model), importance_(importance), outputs_(outputs), options_(options), earlier_(earlier) {}

  // Null at the end.
  Result<std::unique_ptr<Chunk>> next() {
    // A tensor without elements has nothing to be read, however many rows it claims.
    while (tensor_ < outputs_.size() &&
           (model_.tensors()[tensor_].bytes == 0 || row_ == model_.tensors()[tensor_].rows())) {
      ++tensor_;
      row_ = 0;
      metric_.reset();
      known_.reset();
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
    chunk->bytes = model_.data(source).subspan(row_ * row_size, chunk->rows * row_size);
    if (chunk->format != source.format) {
      if (!metric_) {
        auto made = make_tensor_metric(source, importance_, options_.error_model);
        if (!made) return std::move(made).error();
        metric_ = std::make_shared<const TensorMetric>(std::move(made).value());
        if (earlier_.may_have(outputs_[tensor_])) known_ = look_up(source, outputs_[tensor_]);
      }
      chunk->metric = metric_;
      chunk->known = known_;
    }
    if (!known_ || !known_->reused) model_.will_need(chunk->bytes);
    row_ += chunk->rows;
    return chunk;
  }

 private:
  // Reads all of a tensor, and finds it among those that were encoded before.
  std::shared_ptr<const ReadTensor> look_up(const TensorInfo& source, const TensorInfo& output) {
    auto read = std::make_shared<ReadTensor>();
    read->weights = data_digest(model_, source);
    read->inputs = inputs_digest(source, output.format, read->weights, metric_.get(), options_);
    read->reused = earlier_.find(output, read->inputs);
    return read;
  }

  const Model& model_;
  const ImportanceMatrix* importance_;
  std::span<const TensorInfo> outputs_;
  const WriterOptions& options_;
  EncodedTensors& earlier_;
  std::size_t tensor_ = 0;
  std::uint64_t row_ = 0;
  std::shared_ptr<const TensorMetric> metric_;
  std::shared_ptr<const ReadTensor> known_;
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
  if (chunk.known && chunk.known->reused) return outcome::success();  // its weights were looked at then
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

// What leaves the pipeline, in the order of the file: into the files, the digests and the cache.
class Output {
 public:
  Output(const Model& model, const OutputLayout& layout, const WriterOptions& options, OutputFiles& files,
         EncodedTensors& earlier)
      : model_(model),
        options_(options),
        files_(files),
        earlier_(earlier),
        inputs_(layout.tensors.size()),
        data_(layout.tensors.size()),
        tensors_(layout.tensors) {}

  [[nodiscard]] Result<void> take(const Chunk& chunk) {
    const TensorInfo& source = *chunk.source;
    if (chunk.first()) start(chunk);
    const EncodedTensor* reused = chunk.known && chunk.known->reused ? &*chunk.known->reused : nullptr;
    std::span<const std::byte> bytes = chunk.metric ? chunk.encoded : chunk.bytes;
    if (reused != nullptr) {
      const std::uint64_t row = reused->bytes.size() / source.rows();
      bytes = reused->bytes.subspan(chunk.first_row * row, chunk.rows * row);
    }
    if (!chunk.known) weights_.bytes(chunk.bytes);
    encoded_.bytes(bytes);
    QF_TRY(files_.append(chunk.tensor, bytes));
    if (keeping_) keep([&](TensorCache& cache) { return cache.keep(bytes); });
    if (reused != nullptr) reused->file->done_with(bytes);
    // Pages of the source are not needed twice; those that chunks share go with the tensor's last chunk.
    if (reused == nullptr) model_.done_with(chunk.last() ? model_.data(source) : chunk.bytes);
    if (chunk.last()) QF_TRY(finish(chunk, reused));
    return outcome::success();
  }

  [[nodiscard]] Result<void> commit() {
    const GgufKeyValue values[] = {uint64_array(kTensorInputs, inputs_), uint64_array(kTensorData, data_)};
    return files_.commit(values);
  }

  [[nodiscard]] std::string source_digest() const { return source_.hex(); }

  void describe(WriteSummary& summary) const {
    summary.source_digest = source_digest();
    summary.encoded_tensors = encoded_tensors_;
    summary.reused_tensors = reused_tensors_;
    summary.notes = earlier_.notes();
    summary.notes.insert(summary.notes.end(), notes_.begin(), notes_.end());
  }

 private:
  void start(const Chunk& chunk) {
    weights_ = Digest();
    encoded_ = Digest();
    // Known inputs and no entry: the tensor is worth keeping.
    keeping_ = chunk.known && !chunk.known->reused && earlier_.cache() != nullptr;
    if (keeping_)
      keep([&](TensorCache& cache) { return cache.begin(tensors_[chunk.tensor], chunk.known->inputs); });
  }

  [[nodiscard]] Result<void> finish(const Chunk& chunk, const EncodedTensor* reused) {
    const TensorInfo& source = *chunk.source;
    const std::string weights = chunk.known ? chunk.known->weights : weights_.hex();
    inputs_[chunk.tensor] = chunk.known
                                ? chunk.known->inputs
                                : inputs_digest(source, chunk.format, weights, chunk.metric.get(), options_);
    data_[chunk.tensor] = encoded_.value();
    source_.add(source, weights);
    encoded_tensors_ += chunk.metric ? 1 : 0;
    reused_tensors_ += reused != nullptr ? 1 : 0;
    if (reused != nullptr && data_[chunk.tensor] != reused->digest)
      return fail(ErrorCode::Io, "{}: another program changed it while tensor {} was taken from it",
                  reused->file->shards().front().path.string(), printable(source.name));
    if (keeping_) keep([&](TensorCache& cache) { return cache.finish(data_[chunk.tensor]); });
    return outcome::success();
  }

  // A cache that fails costs time, not the file.
  template <class Step>
  void keep(const Step& step) {
    if (auto done = step(*earlier_.cache()); !done) notes_.push_back(done.error().message);
  }

  const Model& model_;
  const WriterOptions& options_;
  OutputFiles& files_;
  EncodedTensors& earlier_;
  std::vector<std::uint64_t> inputs_, data_;  // by tensor
  std::span<const TensorInfo> tensors_;
  WeightsDigest source_;      // of all tensors
  Digest weights_, encoded_;  // of the tensor that is passing
  bool keeping_ = false;
  std::uint64_t encoded_tensors_ = 0;
  std::uint64_t reused_tensors_ = 0;
  std::vector<std::string> notes_;
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
  if (split.as_source) {
    QF_ASSIGN(layout.files, keep_shards(layout.metadata, layout.tensors, model.shards().size()));
  } else {
    QF_ASSIGN(layout.files, plan_shards(layout.metadata, layout.tensors, split));
  }
  for (TensorInfo& tensor : layout.tensors) tensor.shard = 0;
  for (const PlannedShard& file : layout.files) layout.file_bytes += file.file_bytes;
  return layout;
}

Result<WriteSummary> write_model(const Model& model, const ImportanceMatrix* importance, const Recipe& recipe,
                                 const std::filesystem::path& path, const WriterOptions& options,
                                 const kernels::RowKernels& kernels, ProgressSink& progress,
                                 const CancellationToken& cancel) {
  return or_out_of_memory(path.string(), [&]() -> Result<WriteSummary> {
    const auto started = Clock::now();
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
    QF_ASSIGN(EncodedTensors earlier, EncodedTensors::open(options.reuse, options.keys));
    QF_TRY(files.begin());
    Output output(model, layout, options, files, earlier);

    const ModelWatch watch(model);
    progress.begin("writing", model.total_elements());
    Workers workers(options.threads);
    tbb::enumerable_thread_specific<kernels::RowQuantizer> quantizers(
        [&] { return kernels::RowQuantizer(kernels, longest_row); });
    FirstFailure failure;
    const auto stopped = [&] { return failure.reported() || cancel.cancelled(); };

    ChunkSource chunks(model, importance, layout.tensors, options, earlier);
    workers.run([&] {
      const auto in_flight = 4 * static_cast<std::size_t>(workers.threads());
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
        if (auto taken = output.take(*chunk); !taken) return failure.report(std::move(taken).error());
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
    if (!options.source_digest.empty() && output.source_digest() != options.source_digest)
      return fail(ErrorCode::IdentityMismatch,
                  "{}: some of its weights are not those that were measured, although names, shapes and "
                  "samples agree "
                  "(digest {}, now {}): measure it anew, into a state file of its own",
                  model.shards().front().path.string(), options.source_digest, output.source_digest());
    QF_TRY(watch.check());
    QF_TRY(output.commit());
    WriteSummary summary;
    summary.files = files.paths();
    output.describe(summary);
    summary.file_bytes = layout.file_bytes;
    summary.tensor_bytes = layout.tensor_bytes;
    summary.seconds = seconds_since(started);
    return summary;
  });
}

}  // namespace quantfit::optimizer
