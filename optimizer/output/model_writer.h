// Encodes every tensor into the format its recipe names and writes the GGUF file, in a
// bounded parallel pipeline.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/atomic_file.h"
#include "core/error.h"
#include "core/gguf_value.h"
#include "core/importance_matrix.h"
#include "core/model.h"
#include "core/progress.h"
#include "core/recipe.h"
#include "core/shard_plan.h"
#include "kernels/row_kernels.h"
#include "optimizer/measurement/covariance_provider.h"
#include "optimizer/measurement/error_model.h"
#include "optimizer/output/encoded_tensors.h"

namespace quantfit::optimizer {

struct WriterOptions {
  ErrorModel error_model;
  kernels::Effort effort = kernels::Effort::Default;
  unsigned threads = 0;  // 0: all cores
  // What fingerprint() gave when the job began: compared before the file appears. Empty: not compared.
  std::string source_fingerprint;
  // The digest of every weight (core/fingerprint.h), where it is known: compared likewise. Empty: not
  // compared.
  std::string source_digest;
  ShardLimits split;                   // nothing: one file
  Existing existing = Existing::Keep;  // a file that has the name already, or gets it meanwhile
  std::vector<GgufKeyValue> keys;      // further metadata: provenance
  // Where given, rows are encoded with error feedback, as SamplerOptions; must outlive the call.
  const CovarianceProvider* covariances = nullptr;
  ReuseSources reuse;  // tensors that were encoded before: the bytes are the same, only sooner there
};

// What the output file looks like: known before any weight is encoded.
struct OutputLayout {
  GgufMetadata metadata;            // the source's, with the keys that quantization owns set
  std::vector<TensorInfo> tensors;  // in file order, with the recipe's formats; offsets not yet set
  std::vector<PlannedShard> files;  // in which the tensors are; one without limits
  std::uint64_t file_bytes = 0;     // exact, of all files together
  std::uint64_t tensor_bytes = 0;   // data without padding: what bits per weight count
};

// Keys of this namespace say how a file was made; those of a source that has some are not passed on.
inline constexpr std::string_view kOwnKeys = "quantfit.";

// `importance` may be null; `keys` are added to the metadata. InvalidArgument when the recipe does not name
// exactly the model's tensors or asks for a conversion that does not exist; ShapeMismatch when a format does
// not fit a row length.
[[nodiscard]] Result<OutputLayout> output_layout(const Model& model, const Recipe& recipe,
                                                 const ImportanceMatrix* importance,
                                                 std::span<const GgufKeyValue> keys = {},
                                                 const ShardLimits& split = {});

struct WriteSummary {
  std::vector<std::filesystem::path> files;  // in order; a model of several is opened through the first
  std::uint64_t file_bytes = 0;
  std::uint64_t tensor_bytes = 0;
  // Of every weight that was read (core/fingerprint.h): equal digests mean equal sources, to the last bit,
  // where fingerprint() looks at a sample.
  std::string source_digest;
  std::uint64_t encoded_tensors = 0;  // that changed their format
  std::uint64_t reused_tensors = 0;   // of these, taken from files or the cache
  std::vector<std::string> notes;     // for people: what could not be taken, and why
  double seconds = 0;
};

// Writes `path`, or the files of shard_path(path, ...), whole or not at all: each to a temporary file beside
// it that is flushed to the disk when it is full, all named at the end, the first last. Refuses to replace
// one of the model's own files. Tensors whose format stays as it is are copied; Malformed, naming tensor and
// row, for a weight of any tensor that is not a finite number. Memory is bounded by the
// chunks in flight, whatever the size of the model. Io, and no file, when the model's files change meanwhile
// in size, time of modification or fingerprint; IdentityMismatch, and no file, when the weights have another
// digest than `options.source_digest`. The bytes do not depend on threads, instruction set, or what
// could be reused. Keys kTensorInputs and kTensorData among `options.keys` are filled in, at the end.
[[nodiscard]] Result<WriteSummary> write_model(const Model& model, const ImportanceMatrix* importance,
                                               const Recipe& recipe, const std::filesystem::path& path,
                                               const WriterOptions& options,
                                               const kernels::RowKernels& kernels, ProgressSink& progress,
                                               const CancellationToken& cancel);

}  // namespace quantfit::optimizer
