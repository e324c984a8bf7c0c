// A GGUF model opened for reading: one file or all its shards, memory-mapped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/gguf_value.h"
#include "core/tensor_info.h"

namespace quantfit {

class MappedFile;  // core/mapped_file.h
class FileWatch;

struct GgufShard {
  std::filesystem::path path;
  std::uint64_t file_bytes = 0;
  std::uint64_t data_offset = 0;  // where the data section starts
  std::uint32_t version = 3;
  std::uint32_t alignment = 32;
  // Of the file that was opened, whatever has its name now.
  std::int64_t modified = 0;  // nanoseconds since 1970
  std::uint64_t inode = 0;
};

// What a Model is opened for. Hostile input is refused in both cases.
enum class OpenMode {
  Data,          // all tensor data must be inside the files
  MetadataOnly,  // tensor data may be missing: `inspect` and `plan` of a header downloaded alone
};

// Immutable after opening; every method may be called from any thread.
class Model {
 public:
  // Opens `path`; when it is the first of several shards, the others too (names from the pattern
  // PREFIX-00001-of-0000N.gguf). Malformed, Unsupported (big-endian, version 1, a later shard) or Io
  // otherwise, with a message that names file, place and cause.
  [[nodiscard]] static Result<Model> open(const std::filesystem::path& path, OpenMode mode = OpenMode::Data);

  // The same files seen in another way: tensor i is called `names[i]`, or left out where that is empty.
  // InvalidArgument when two have one name.
  [[nodiscard]] static Result<Model> renamed(Model model, GgufMetadata metadata,
                                             std::span<const std::string> names);

  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;
  ~Model();

  [[nodiscard]] const GgufMetadata& metadata() const { return metadata_; }  // of the first shard
  [[nodiscard]] std::span<const TensorInfo> tensors() const { return tensors_; }
  [[nodiscard]] std::span<const GgufShard> shards() const { return shards_; }
  [[nodiscard]] const TensorInfo* find(std::string_view name) const;

  // Value of `general.architecture`, or empty.
  [[nodiscard]] std::string_view architecture() const;
  // Metadata key `<architecture>.<suffix>`.
  [[nodiscard]] const GgufKeyValue* arch_key(std::string_view suffix) const;

  // The tensor's bytes inside the mapping (info.bytes of them). Empty in MetadataOnly mode when absent.
  // The mapping lives as long as the Model.
  [[nodiscard]] std::span<const std::byte> data(const TensorInfo& tensor) const;
  // Row `row` (0 .. rows()-1) of the tensor.
  [[nodiscard]] std::span<const std::byte> row(const TensorInfo& tensor, std::uint64_t row) const;

  // Hints to the operating system about pages of the mapping: soon needed, or no longer needed.
  void will_need(std::span<const std::byte> bytes) const noexcept;
  void done_with(std::span<const std::byte> bytes) const noexcept;
  // A hint for all tensor data: rows far apart will be read (true), or runs of rows
  // (false, as after opening).
  void expect_random_access(bool random) const noexcept;

  // Io, naming the file, when one of the model's files is not what it was when it was opened: cut short,
  // unreadable, or of another size or time of modification (core/mapped_file.h says what that proves).
  [[nodiscard]] Result<void> check_unchanged() const;

  [[nodiscard]] std::uint64_t total_elements() const;      // of all tensors
  [[nodiscard]] std::uint64_t total_tensor_bytes() const;  // data without padding

 private:
  friend class ModelWatch;
  Model();
  void index_names();
  GgufMetadata metadata_;
  std::vector<TensorInfo> tensors_;
  std::vector<std::uint32_t> by_name_;  // sorted by name: indices into tensors_
  std::vector<GgufShard> shards_;
  std::vector<std::unique_ptr<MappedFile>> files_;
};

// While one lives, parts of the model's files that cannot be read any more give zeros instead of ending the
// program: whoever makes one calls check() before anything that was read is believed.
class [[nodiscard]] ModelWatch {
 public:
  explicit ModelWatch(const Model& model);
  ~ModelWatch();
  ModelWatch(const ModelWatch&) = delete;
  ModelWatch& operator=(const ModelWatch&) = delete;

  [[nodiscard]] Result<void> check() const { return model_.check_unchanged(); }

 private:
  const Model& model_;
  std::vector<FileWatch> files_;
};

}  // namespace quantfit
