#include "core/shard_plan.h"

#include <algorithm>
#include <limits>

#include "core/checked.h"
#include "core/gguf_layout.h"
#include "core/gguf_writer.h"

namespace quantfit {
namespace {

constexpr std::size_t kMostShards = std::numeric_limits<std::uint16_t>::max();
// Header, the three keys of a shard (22, 25 and 35 bytes), and padding that a cut may add.
constexpr std::uint64_t kMostBytesPerShard = 256;

}  // namespace

Result<std::vector<PlannedShard>> plan_shards(const GgufMetadata& metadata,
                                              std::span<const TensorInfo> tensors,
                                              const ShardLimits& limits) {
  std::vector<PlannedShard> shards;
  QF_ASSIGN(const std::uint64_t whole, gguf_file_bytes(metadata, tensors));
  const bool fits = (limits.max_bytes == 0 || whole <= limits.max_bytes) &&
                    (limits.max_tensors == 0 || tensors.size() <= limits.max_tensors);
  if (fits || tensors.size() <= 1) {
    shards.push_back({0, tensors.size(), whole});
    return shards;
  }
  const std::uint64_t other_header =
      gguf_unpadded_header_bytes(shard_metadata(metadata, 1, 2, tensors.size()), {});
  PlannedShard shard;
  std::uint64_t header = gguf_unpadded_header_bytes(shard_metadata(metadata, 0, 2, tensors.size()), {});
  std::uint64_t data = 0;
  // None of these sums overflows, as `whole` does not.
  const auto file_bytes = [&](std::uint64_t more_header, std::uint64_t more_data) {
    return saturating_sum(saturating_round_up(header + more_header, kGgufDefaultAlignment), data + more_data);
  };
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::uint64_t info = gguf_unpadded_header_bytes({}, tensors.subspan(i, 1)) - kGgufHeaderBytes;
    QF_ASSIGN(const std::uint64_t bytes, checked_tensor_bytes(tensors[i].format, tensors[i].ne));
    const std::uint64_t padded = saturating_round_up(bytes, kGgufDefaultAlignment);
    const bool full = (limits.max_tensors != 0 && shard.tensors == limits.max_tensors) ||
                      (limits.max_bytes != 0 && file_bytes(info, padded) > limits.max_bytes);
    if (full && shard.tensors != 0) {
      shard.file_bytes = file_bytes(0, 0);
      shards.push_back(shard);
      shard = {i, 0, 0};
      header = other_header;
      data = 0;
    }
    ++shard.tensors;
    header += info;
    data += padded;
  }
  shard.file_bytes = file_bytes(0, 0);
  shards.push_back(shard);
  if (shards.size() > kMostShards)
    return fail(ErrorCode::Unsupported, "the limits ask for {} files, {} are possible", shards.size(),
                kMostShards);
  return shards;
}

Result<std::vector<PlannedShard>> keep_shards(const GgufMetadata& metadata,
                                              std::span<const TensorInfo> tensors, std::size_t files) {
  std::vector<PlannedShard> shards;
  std::size_t first = 0;
  for (std::size_t i = 0; i < files; ++i) {
    PlannedShard shard{first, 0, 0};
    while (first < tensors.size() && tensors[first].shard == i) ++first;
    shard.tensors = first - shard.first_tensor;
    QF_ASSIGN(shard.file_bytes, gguf_file_bytes(shard_metadata(metadata, i, files, tensors.size()),
                                                tensors.subspan(shard.first_tensor, shard.tensors)));
    shards.push_back(shard);
  }
  if (first != tensors.size())
    return fail(ErrorCode::Internal, "tensor '{}' is in none of {} files", tensors[first].name, files);
  return shards;
}

std::uint64_t most_shard_overhead(const ShardLimits& limits, std::uint64_t tensors, std::uint64_t bytes,
                                  std::uint64_t source_files) {
  if (limits.as_source) return source_files > 1 ? saturating_product(kMostBytesPerShard, source_files) : 0;
  const bool fits = (limits.max_bytes == 0 || bytes <= limits.max_bytes) &&
                    (limits.max_tensors == 0 || tensors <= limits.max_tensors);
  if (fits) return 0;
  // Two neighbours together exceed a limit, so there are at most twice as many files as limits fit into all.
  std::uint64_t files = 1;
  if (limits.max_bytes != 0)
    files = saturating_sum(files, saturating_product(2, bytes / limits.max_bytes + 1));
  if (limits.max_tensors != 0) files = saturating_sum(files, tensors / limits.max_tensors + 1);
  return saturating_product(kMostBytesPerShard, std::min(files, tensors + 1));
}

GgufMetadata shard_metadata(const GgufMetadata& metadata, std::size_t index, std::size_t count,
                            std::size_t tensors) {
  GgufMetadata own;
  if (index == 0) own = metadata;
  if (count <= 1) return own;
  own.set(GgufKeyValue::of_uint16("split.no", static_cast<std::uint16_t>(index)));
  own.set(GgufKeyValue::of_uint16("split.count", static_cast<std::uint16_t>(count)));
  own.set(GgufKeyValue::of_int32("split.tensors.count", static_cast<std::int32_t>(tensors)));
  return own;
}

std::filesystem::path shard_path(const std::filesystem::path& path, std::size_t index, std::size_t count) {
  if (count <= 1) return path;
  std::string stem = path.filename().string();
  constexpr std::string_view kEnding = ".gguf";
  if (stem.ends_with(kEnding)) stem.resize(stem.size() - kEnding.size());
  return path.parent_path() / fmt::format("{}-{:05}-of-{:05}{}", stem, index + 1, count, kEnding);
}

}  // namespace quantfit
