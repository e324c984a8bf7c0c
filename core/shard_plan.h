// How a model is cut into several files, as the field's tools name, mark and read them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "core/error.h"
#include "core/gguf_value.h"
#include "core/tensor_info.h"

namespace quantfit {

struct ShardLimits {
  std::uint64_t max_bytes = 0;    // of one file, header included; 0: no limit
  std::uint64_t max_tensors = 0;  // of one file; 0: no limit
  bool as_source = false;         // instead: as many files as the source has, each with the same tensors

  [[nodiscard]] bool any() const { return max_bytes != 0 || max_tensors != 0 || as_source; }
};

struct PlannedShard {
  std::size_t first_tensor = 0;
  std::size_t tensors = 0;
  std::uint64_t file_bytes = 0;  // exact
};

// Cuts the tensors, in their order, into files within the limits; each takes as many as it can, and at least
// one: a tensor larger than `max_bytes` has a larger file of its own. `metadata` are the model's, without the
// keys of shards; the first file holds them. One file, without keys of shards, when all fits into one.
// Unsupported for more than 65535 files; errors of gguf_file_bytes.
[[nodiscard]] Result<std::vector<PlannedShard>> plan_shards(const GgufMetadata& metadata,
                                                            std::span<const TensorInfo> tensors,
                                                            const ShardLimits& limits);

// The same tensors in as many files as they are in now, `files` of them: TensorInfo::shard says in which.
[[nodiscard]] Result<std::vector<PlannedShard>> keep_shards(const GgufMetadata& metadata,
                                                            std::span<const TensorInfo> tensors,
                                                            std::size_t files);

// Most bytes that cutting adds to all files together, whatever the formats, when they hold `tensors` tensors
// and `bytes` bytes; their source has `source_files` files.
[[nodiscard]] std::uint64_t most_shard_overhead(const ShardLimits& limits, std::uint64_t tensors,
                                                std::uint64_t bytes, std::uint64_t source_files = 1);

// The metadata of file `index` of `count`, counted from 0, of a model of `tensors` tensors; the model's own
// for a single file.
[[nodiscard]] GgufMetadata shard_metadata(const GgufMetadata& metadata, std::size_t index, std::size_t count,
                                          std::size_t tensors);

// "dir/m-00002-of-00003.gguf" of "dir/m.gguf" for index 1 of 3; the path itself for a single file.
[[nodiscard]] std::filesystem::path shard_path(const std::filesystem::path& path, std::size_t index,
                                               std::size_t count);

}  // namespace quantfit
