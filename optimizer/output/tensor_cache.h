// A folder of encoded tensors, each a GGUF file named after what it was encoded from.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>

#include "core/error.h"
#include "core/gguf_writer.h"
#include "core/model.h"
#include "core/tensor_info.h"

namespace quantfit::optimizer {

// Entries appear whole or not at all, and prove themselves by a digest: several programs may use one folder.
// Those used longest ago go first. Other files of the folder are left alone.
class TensorCache {
 public:
  // Makes the folder where it is missing; Io.
  [[nodiscard]] static Result<TensorCache> open(const std::filesystem::path& folder, std::uint64_t max_bytes);

  // The entry of a tensor encoded from `inputs`, not yet believed; nothing when there is none that can be
  // read.
  [[nodiscard]] std::optional<Model> find(std::uint64_t inputs) const;
  // An entry that turned out to be damaged.
  void forget(std::uint64_t inputs) const;

  // Starts to keep the tensor with that name, shape and format, after making room for it; the bytes follow
  // through keep(), and finish() with their digest makes the entry appear. Nothing for a tensor larger than
  // the cache. After an error, which ends nothing else, the cache keeps no more.
  [[nodiscard]] Result<void> begin(const TensorInfo& tensor, std::uint64_t inputs);
  [[nodiscard]] Result<void> keep(std::span<const std::byte> bytes);
  [[nodiscard]] Result<void> finish(std::uint64_t digest);

 private:
  TensorCache(std::filesystem::path folder, std::uint64_t max_bytes)
      : folder_(std::move(folder)), max_bytes_(max_bytes) {}
  [[nodiscard]] std::filesystem::path path_of(std::uint64_t inputs) const;
  void make_room(std::uint64_t bytes) const;
  [[nodiscard]] Result<void> stop_at_error(Result<void> done);

  std::filesystem::path folder_;
  std::uint64_t max_bytes_;
  std::optional<GgufWriter> entry_;  // being written
  bool stopped_ = false;
};

}  // namespace quantfit::optimizer
