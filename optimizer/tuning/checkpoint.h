// What a tuning leaves between two steps, so that one that was interrupted goes on to the same bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/model.h"
#include "optimizer/tuning/attempt.h"
#include "optimizer/tuning/parameters.h"
#include "optimizer/tuning/plan.h"

namespace quantfit::tuning {

// Of everything that decides what comes out.
[[nodiscard]] std::string tuning_identity(const Model& original, const Model& quantized,
                                          const calibration::Text& text, const TuneOptions& options);

// How far a tuning has come.
struct Standing {
  std::vector<Attempt> attempts;     // the last one is under way
  std::uint32_t step = 0;            // of it, the last that is done
  std::vector<double> before, best;  // divergence of every window held back: of the file, of the best step

  friend bool operator==(const Standing&, const Standing&) = default;
};

using TensorBytes = std::vector<std::vector<std::byte>>;  // as Parameters::snapshot() has them

// Bytes of a file that save_checkpoint() writes, but for some hundred a tensor.
[[nodiscard]] std::uint64_t checkpoint_bytes(Parameters& parameters);

// Writes the file whole or not at all, in place of an older one. `identity`: of everything that decides what
// comes out; `choice`: null where nothing was chosen for a time. Errors of GgufWriter.
[[nodiscard]] Result<void> save_checkpoint(const std::filesystem::path& path, const std::string& identity,
                                           const TimedChoice* choice, const Standing& standing,
                                           Parameters& parameters, const TensorBytes& best_bytes);

// What the tuning of a checkpoint was chosen to be for the same question; nothing where there is none.
[[nodiscard]] std::optional<TimedChoice> choice_of_checkpoint(const std::filesystem::path& path,
                                                              const std::string& question);

class Checkpoint {
 public:
  // Nothing where there is no such file, or it has another identity or is damaged, and is removed then: a
  // checkpoint saves time and decides nothing. InvalidArgument where it is a file of another kind.
  [[nodiscard]] static Result<std::optional<Checkpoint>> open(const std::filesystem::path& path,
                                                              const std::string& identity);

  [[nodiscard]] const Standing& standing() const { return standing_; }
  // Puts back what was saved. False, with nothing changed, where it was saved of other tensors or another
  // level.
  [[nodiscard]] bool restore(Parameters& parameters, TensorBytes& best_bytes) const;

 private:
  explicit Checkpoint(Model file) : file_(std::move(file)) {}
  [[nodiscard]] bool read(const std::string& identity);
  Model file_;
  Standing standing_;
};

}  // namespace quantfit::tuning
