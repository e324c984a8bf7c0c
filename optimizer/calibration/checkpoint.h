// What a pass through a model leaves between two layers, so that an interrupted one can continue.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "core/error.h"
#include "core/gguf_writer.h"
#include "core/importance_writer.h"
#include "core/model.h"
#include "kernels/math/math_kernels.h"
#include "optimizer/engine/forward.h"

namespace quantfit::calibration {

// Sums of finished layers, by tensor.
using FinishedSums = std::map<std::string, ImportanceSums, std::less<>>;

// What decides the numbers in a checkpoint: all equal, or it is not used.
struct CheckpointIdentity {
  std::string model, text;  // fingerprints
  std::uint64_t tokens = 0;
  std::uint32_t width = 0;
  std::uint32_t engine_version = 0;
};

// The sums of layers 0 .. layer - 1 by tensor name, and the inputs of `layer`, to be read from the file.
class Checkpoint {
 public:
  // Nothing when there is no such file, or it is of another model, text or version, or damaged: a checkpoint
  // saves time and decides nothing.
  [[nodiscard]] static std::optional<Checkpoint> open(const std::filesystem::path& path,
                                                      const CheckpointIdentity& identity);

  [[nodiscard]] std::uint32_t layer() const { return layer_; }
  [[nodiscard]] const FinishedSums& sums() const { return sums_; }
  // Fills rows with the layer's inputs from `first_token` on.
  [[nodiscard]] Result<void> layer_input(std::uint64_t first_token, kernels::MatrixView<float> rows) const;

 private:
  explicit Checkpoint(Model file) : file_(std::move(file)) {}
  Model file_;
  std::uint32_t layer_ = 0;
  FinishedSums sums_;
};

// Written while the layer whose inputs it holds is running; complete or not there.
class CheckpointWriter {
 public:
  [[nodiscard]] static Result<CheckpointWriter> create(const std::filesystem::path& path,
                                                       const CheckpointIdentity& identity,
                                                       std::uint32_t layer, const FinishedSums& sums);
  // Rows in the order of tokens. Committed with the last one.
  [[nodiscard]] Result<void> append(kernels::MatrixView<const float> rows);
  [[nodiscard]] bool complete() const { return left_ == 0; }

 private:
  explicit CheckpointWriter(GgufWriter writer, std::uint64_t tokens)
      : writer_(std::move(writer)), left_(tokens) {}
  GgufWriter writer_;
  std::uint64_t left_;  // tokens to come
};

}  // namespace quantfit::calibration
