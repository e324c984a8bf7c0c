// What lies between layers: one vector per token of the whole text, in memory or in a scratch file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "core/error.h"
#include "kernels/math/math_kernels.h"

namespace quantfit::engine {

// rows x width binary32 values. The scratch file has no name from the start (it vanishes with the process,
// however that ends) and is mapped by nobody: rows are copied in and out. Not thread-safe, except that const
// calls may overlap.
class HiddenStates {
 public:
  HiddenStates();
  HiddenStates(HiddenStates&&) noexcept;
  HiddenStates& operator=(HiddenStates&&) noexcept;
  ~HiddenStates();

  // All rows zero. NoSpace when the memory cannot be had.
  [[nodiscard]] static Result<HiddenStates> in_memory(std::size_t rows, std::size_t width);
  // In a nameless file of `folder`. Io or NoSpace when it cannot be made that long.
  [[nodiscard]] static Result<HiddenStates> in_file(const std::filesystem::path& folder, std::size_t rows,
                                                    std::size_t width);

  [[nodiscard]] std::size_t rows() const { return rows_; }
  [[nodiscard]] std::size_t width() const { return width_; }
  [[nodiscard]] bool resident() const { return file_ < 0; }

  // Rows first .. first + rows - 1. Points into the object when it is resident, else the rows are read into
  // `buffer` (rows * width values), which must outlive the view.
  [[nodiscard]] Result<kernels::MatrixView<const float>> read(std::size_t first, std::size_t rows,
                                                              std::vector<float>& buffer) const;
  [[nodiscard]] Result<kernels::MatrixView<float>> read_mutable(std::size_t first, std::size_t rows,
                                                                std::vector<float>& buffer);
  // Puts back what read_mutable() gave for the same rows; does nothing when it is resident.
  [[nodiscard]] Result<void> write(std::size_t first, kernels::MatrixView<const float> rows);

 private:
  std::size_t rows_ = 0, width_ = 0;
  std::vector<float> memory_;
  int file_ = -1;
};

}  // namespace quantfit::engine
