// Writing a GGUF file: everything but the tensor data is known first, then data streams in file order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "core/atomic_file.h"
#include "core/error.h"
#include "core/gguf_value.h"
#include "core/tensor_info.h"

namespace quantfit {

// Exact size of the file that GgufWriter makes from these: header, metadata, tensor infos, data, padding
// after every tensor, the last included. `tensors` need names, dims and formats; offsets are computed.
[[nodiscard]] Result<std::uint64_t> gguf_file_bytes(const GgufMetadata& metadata,
                                                    std::span<const TensorInfo> tensors,
                                                    std::uint32_t alignment = 32);

// Bytes before the data section, padding included.
[[nodiscard]] Result<std::uint64_t> gguf_header_bytes(const GgufMetadata& metadata,
                                                      std::span<const TensorInfo> tensors,
                                                      std::uint32_t alignment = 32);

// Unpadded: a key, or a tensor, adds the same whatever else there is.
[[nodiscard]] std::uint64_t gguf_unpadded_header_bytes(const GgufMetadata& metadata,
                                                       std::span<const TensorInfo> tensors);

// Writes to a temporary file beside `path`; only commit() gives it its name, as AtomicFile does. Destroyed
// without commit(), the temporary file is removed. Not thread-safe: one thread appends, in order.
class GgufWriter {
 public:
  // Creates the temporary file, checks free disk space against the final size, or `space_bytes` where that is
  // more because other files follow (NoSpace), and writes the
  // header. Sets offset and bytes of `tensors`. InvalidArgument when a name is too long or repeated;
  // otherwise what AtomicFile::create refuses.
  [[nodiscard]] static Result<GgufWriter> create(
      const std::filesystem::path& path, const GgufMetadata& metadata, std::span<const TensorInfo> tensors,
      std::uint32_t alignment = 32, Existing existing = Existing::Replace, std::uint64_t space_bytes = 0);
  GgufWriter(GgufWriter&&) noexcept;
  GgufWriter& operator=(GgufWriter&&) noexcept;
  ~GgufWriter();

  // The tensors with their offsets.
  [[nodiscard]] std::span<const TensorInfo> tensors() const;

  // Appends data of the tensors, in order, in pieces of any size; padding is inserted where a tensor ends.
  // Io or NoSpace on failure; more bytes than the tensors have is Internal.
  [[nodiscard]] Result<void> append(std::span<const std::byte> bytes);

  // Replaces the value of a key that the header has, by one of the same type and size: for what is known only
  // when all data are written. Possible until commit(), after seal() too. Internal for other keys; Io.
  [[nodiscard]] Result<void> set_value(const GgufKeyValue& value);

  // Internal when data is missing, or Io: all of it is on the disk afterwards, still without a name.
  [[nodiscard]] Result<void> seal();

  // Commits files of one set, the first last (AtomicFile::commit_together).
  [[nodiscard]] static Result<void> commit_together(std::span<GgufWriter> writers);

  // Internal when data is missing; otherwise as AtomicFile::commit. Afterwards the file is complete and
  // durable under its name.
  [[nodiscard]] Result<void> commit();

 private:
  struct Impl;
  explicit GgufWriter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace quantfit
