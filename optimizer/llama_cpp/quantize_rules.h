// llama.cpp's rules about single tensors: which are never quantized, which formats need an importance matrix,
// what replaces a format that does not fit a row length. Facts about the reference quantizer, kept as tables.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "core/error.h"
#include "core/format.h"
#include "core/tensor_info.h"

namespace quantfit::optimizer {

struct Quantizability {
  bool quantizable = false;
  std::string_view reason;  // why not, as a phrase for reports ("a vector"); empty when quantizable
};

// Whether the tensor may change its format at all. Tensors that may not keep their source format and bytes;
// those without elements are among them.
// Integer tensors are not quantizable; already quantized sources are (see check_sources).
[[nodiscard]] Quantizability quantizability(const TensorInfo& tensor, bool leave_output_tensor = false);

// True for ssm_alpha, ssm_beta and ssm_ba: tiny projections onto decay and step of a state-space layer, which
// publishers of hybrid models keep in F32.
[[nodiscard]] bool stays_in_state_space(std::string_view tensor_name);

// True for matrices of vision and audio towers and of the projectors behind them, in a model's file or in an
// mmproj file of their own. Nothing calibrates them, and an error there spoils all that is read afterwards:
// they get 8 bits or more unless somebody says otherwise.
[[nodiscard]] bool is_of_a_tower(std::string_view tensor_name);

// InvalidArgument naming the first quantizable tensor whose source is quantized already, unless
// `allow_requantize`.
[[nodiscard]] Result<void> check_sources(std::span<const TensorInfo> tensors, bool allow_requantize);

// True when `format` must not be used for this tensor without importance data. Embeddings and the output head
// never need it.
[[nodiscard]] bool needs_importance(Format format, std::string_view tensor_name);

// True for formats whose encoder in llama.cpp makes no use of importance.
[[nodiscard]] bool ignores_importance(Format format);

// The next larger format with a shorter block that replaces `format` where a row is not a whole number of
// blocks. Nothing when llama.cpp knows none and stops instead.
[[nodiscard]] std::optional<Format> row_length_substitute(Format format);

struct FittedFormat {
  Format format = Format::F32;
  bool substituted = false;
  bool refused_by_llama_cpp = false;  // no substitute there; F16 is this program's answer
};

// `wanted` when rows of `row_length` weights are a whole number of its blocks, else its substitute, else F16.
[[nodiscard]] FittedFormat fit_row_length(Format wanted, std::uint64_t row_length);

}  // namespace quantfit::optimizer
