#include "optimizer/tuning/tuned_file.h"

#include <utility>

#include "core/file_util.h"
#include "core/gguf_writer.h"
#include "core/shard_plan.h"

namespace quantfit::tuning {
std::vector<GgufKeyValue> tuned_keys(const TuneResult& result, const std::string& text_fingerprint,
                                     const std::string& original_fingerprint) {
  return {
      GgufKeyValue::of_string("quantfit.tuned.level", to_string(result.level)),
      GgufKeyValue::of_string("quantfit.tuned.text_fingerprint", text_fingerprint),
      GgufKeyValue::of_string("quantfit.tuned.original_fingerprint", original_fingerprint),
      GgufKeyValue::of_uint32("quantfit.tuned.tokens", static_cast<std::uint32_t>(result.training_tokens)),
      GgufKeyValue::of_uint32("quantfit.tuned.steps",
                              result.attempts.empty() ? 0 : result.attempts.back().steps),
      GgufKeyValue::of_float64("quantfit.tuned.divergence_before", result.gain.before),
      GgufKeyValue::of_float64("quantfit.tuned.divergence_after", result.gain.after),
  };
}

Result<WrittenFile> write_tuned(const Model& model, const engine::ReplacedTensors& replaced,
                                const std::vector<GgufKeyValue>& keys,
                                std::span<const std::string_view> about_bytes,
                                const std::filesystem::path& path, Existing existing) {
  const std::size_t count = model.shards().size();
  GgufMetadata metadata = model.metadata();
  for (const char* key : {"split.no", "split.count", "split.tensors.count"}) metadata.remove(key);
  if (!replaced.empty())
    for (const std::string_view key : about_bytes) metadata.remove(key);
  for (const GgufKeyValue& key : keys) metadata.set(key);
  WrittenFile out;
  for (std::size_t i = 0; i < count; ++i) out.files.push_back(shard_path(path, i, count));
  for (const std::filesystem::path& file : out.files) {
    for (const GgufShard& shard : model.shards())
      if (same_file(shard.path, file))
        return fail(ErrorCode::InvalidArgument, "{}: the output would replace the model that is tuned",
                    file.string());
    QF_TRY(check_target(file, existing));
  }
  const ModelWatch watch(model);
  std::vector<GgufWriter> writers;
  for (std::size_t i = 0; i < count; ++i) {
    std::vector<TensorInfo> tensors;
    std::vector<const TensorInfo*> sources;
    for (const TensorInfo& tensor : model.tensors()) {
      if (tensor.shard != i) continue;
      tensors.push_back(tensor);
      sources.push_back(&tensor);
    }
    const std::uint32_t alignment = model.shards()[i].alignment;
    const GgufMetadata own = shard_metadata(metadata, i, count, model.tensors().size());
    QF_ASSIGN(const std::uint64_t bytes, gguf_file_bytes(own, tensors, alignment));
    out.bytes += bytes;
    QF_ASSIGN(GgufWriter writer, GgufWriter::create(out.files[i], own, tensors, alignment, existing));
    for (const TensorInfo* tensor : sources) {
      const auto found = replaced.find(tensor);
      QF_TRY(writer.append(found == replaced.end() ? model.data(*tensor) : found->second));
    }
    QF_TRY(writer.seal());
    writers.push_back(std::move(writer));
  }
  QF_TRY(watch.check());
  QF_TRY(GgufWriter::commit_together(writers));
  return out;
}

}  // namespace quantfit::tuning
