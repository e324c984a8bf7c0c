// What was lost already where a source is quantized.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "core/format.h"
#include "core/tensor_info.h"

namespace quantfit::optimizer {

// About the relative output error of a matrix in that format: the mean over the matrices of the example model
// (tests/data) with this program's encoders at default effort, without error feedback. Nothing for formats
// that were not measured and for those of 16 bits and more.
[[nodiscard]] std::optional<double> usual_error(Format format);

// For people: how much error the quantized tensors among `tensors` brought along, in the unit of the
// `sensitivity` of each, called `unit`. Empty when none is quantized.
[[nodiscard]] std::string requantization_sentence(std::span<const TensorInfo> tensors,
                                                  std::span<const double> sensitivity, std::string_view unit);

}  // namespace quantfit::optimizer
