// The tuned model as a file: what the quantized one was, with other bytes in some tensors and keys that say
// so.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/atomic_file.h"
#include "core/error.h"
#include "core/gguf_value.h"
#include "core/model.h"
#include "optimizer/engine/forward.h"
#include "optimizer/tuning/tune.h"

namespace quantfit::tuning {

// What a tuned file says about itself (README.md, "Keys").
[[nodiscard]] std::vector<GgufKeyValue> tuned_keys(const TuneResult& result,
                                                   const std::string& text_fingerprint,
                                                   const std::string& original_fingerprint);

struct WrittenFile {
  std::vector<std::filesystem::path> files;  // in order; a model of several is opened through the first
  std::uint64_t bytes = 0;                   // of all together
};

// Writes `path`, or one file for each of the model's with the names of shard_path(), whole or not at all.
// Formats, dimensions and order of tensors stay, and all metadata but `keys`, which are added or take the
// places of older ones, and but the keys named in `about_bytes`, which are left out where any bytes are
// others. InvalidArgument where a file of the model would be replaced; Io when the model's files changed
// meanwhile; errors of GgufWriter.
[[nodiscard]] Result<WrittenFile> write_tuned(const Model& model, const engine::ReplacedTensors& replaced,
                                              const std::vector<GgufKeyValue>& keys,
                                              std::span<const std::string_view> about_bytes,
                                              const std::filesystem::path& path, Existing existing);

}  // namespace quantfit::tuning
