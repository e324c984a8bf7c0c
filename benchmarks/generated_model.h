// A model made of random numbers with the shapes and the statistics of a trained one, of any size, and its
// importance matrix: for measuring whole runs.
#pragma once

#include <cstdint>
#include <filesystem>

#include "core/error.h"

namespace quantfit::bench {

struct GeneratedModel {
  std::filesystem::path model;       // GGUF, matrices F16, norms F32
  std::filesystem::path importance;  // GGUF with mean activations
  std::uint64_t elements = 0;
};

// A dense Llama-like model of about `weights` weights: width 4096 from four billion on, else 2048 (less
// for small ones); keys and values a quarter as wide, feed-forward four times; vocabulary of 32,768 and
// what remains. Weights are heavy-tailed (Student's t, 5 degrees of freedom), importance log-normal over
// columns with a few outliers. Every tensor has `distinct_rows` rows of its own, which repeat in an
// irregular order: time to generate stays small, and no measurement depends on rows being unique. With
// `sparse` only those rows are stored and the others are a hole in the file that reads as zeros: size for
// memory measurements without disk space. Files are made anew when absent or of other parameters; Io when
// the folder cannot be written.
[[nodiscard]] Result<GeneratedModel> generate_model(const std::filesystem::path& folder,
                                                    std::uint64_t weights, bool sparse);

}  // namespace quantfit::bench
