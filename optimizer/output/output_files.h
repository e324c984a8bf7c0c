// The files of an output, filled one after the other and named together.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <vector>

#include "core/error.h"
#include "core/gguf_writer.h"
#include "core/model.h"
#include "optimizer/output/model_writer.h"

namespace quantfit::optimizer {

// One file at a time is open for writing; the others are on the disk, still without names. `layout` outlives
// it.
class OutputFiles {
 public:
  OutputFiles(const OutputLayout& layout, const std::filesystem::path& path, Existing existing);

  [[nodiscard]] const std::vector<std::filesystem::path>& paths() const { return paths_; }
  // Before any work: the names are free, or may be taken, and none is a file of the source.
  [[nodiscard]] Result<void> check_targets(const Model& model) const;
  // Opens the next file.
  [[nodiscard]] Result<void> begin();
  // Bytes of the model's tensor `tensor`; tensors come in order, those without bytes not at all.
  [[nodiscard]] Result<void> append(std::size_t tensor, std::span<const std::byte> bytes);
  // `values`: of keys that could not be known before.
  [[nodiscard]] Result<void> commit(std::span<const GgufKeyValue> values);

 private:
  [[nodiscard]] std::size_t end_of_current() const;
  [[nodiscard]] Result<void> next();

  const OutputLayout& layout_;
  Existing existing_;
  std::vector<std::filesystem::path> paths_;
  std::vector<GgufWriter> writers_;  // all but the last are sealed
};

}  // namespace quantfit::optimizer
