// Models quantized by ggml's own encoders: the same recipe, the same importance matrix, other bytes. What our
// encoders are compared with through llama_eval.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>

#include "core/error.h"
#include "core/importance_matrix.h"
#include "core/model.h"
#include "core/recipe.h"
#include "kernels/covariance.h"
#include "kernels/error_metric.h"
#include "optimizer/measurement/error_model.h"
#include "tests/support/second_moments.h"

namespace quantfit::test {

// Every tensor that llama.cpp quantizes gets `layers`, token embedding and output head `ends`; formats that
// do not fit a row length are replaced as llama.cpp does; all other tensors keep their source format.
[[nodiscard]] Recipe uniform_recipe(const Model& model, Format layers, Format ends = Format::Q8_0);

// What llama.cpp's mixture of that name ("Q4_K_M") chooses. InvalidArgument for an unknown name.
[[nodiscard]] Result<Recipe> preset_recipe(const Model& model, std::string_view name, bool has_importance);

// Reads lines `tensor=format`; empty lines and lines that begin with '#' are skipped. A line whose left side
// is the name of a tensor of the model concerns that tensor alone, any other left side is a regular
// expression searched in the names as by llama-quantize --tensor-type-file (the first match counts). Tensors
// that no line names keep their source format. InvalidArgument with the line number for anything else.
[[nodiscard]] Result<Recipe> read_recipe(const Model& model, std::string_view text);

// Whose encoder writes the blocks.
struct EncoderChoice {
  bool ggml = true;  // false: ours, with the following
  kernels::Effort effort = kernels::Effort::Default;
  optimizer::ErrorModel error_model;
  bool use_means = true;  // bias term when the importance matrix has means
  // Tensors whose inputs it knows are encoded with error feedback through their full second moments instead
  // (kernels/covariance.h; kappa and means then say nothing); not owned, may be null.
  const SecondMoments* moments = nullptr;
  float damping = kernels::CovarianceFactor::kDamping;
};

// How many tensors were encoded in which way.
struct EncodedTensors {
  std::size_t feedback = 0;  // with error feedback through the full second moments
  std::size_t diagonal = 0;  // by the diagonal metric, or by ggml
};

// Encodes every tensor as `recipe` says and writes one GGUF file. Experts that calibration never reached are
// encoded with importance 1 by ggml's encoder, as llama-quantize does. `threads` share the rows. Errors of
// the libraries, of writing and of reading second moments; InvalidArgument when a format needs importance and
// there is none, when the second moments know no tensor of the model, or when one that they know goes into a
// format without error feedback; Unsupported when an encoder lacks a format.
[[nodiscard]] Result<EncodedTensors> write_reference_model(const Model& model, const Recipe& recipe,
                                                           const ImportanceMatrix* importance,
                                                           const EncoderChoice& encoder,
                                                           const std::filesystem::path& out, int threads = 2);

}  // namespace quantfit::test
