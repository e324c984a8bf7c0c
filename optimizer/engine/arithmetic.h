// In which precision products read their activations, and attention keys and values.
#pragma once

#include <cstdint>

#include "core/format.h"
#include "kernels/math/math_kernels.h"

namespace quantfit::engine {

enum class Arithmetic : std::uint8_t {
  Exact,     // binary32
  LlamaCpp,  // rounded as the CPU kernels of llama.cpp round them, by the format of the weights that they
             // meet; keys and values to halves
};

// What becomes of activations that meet weights of `format` (architectures.md, arithmetic).
[[nodiscard]] kernels::ActivationRounding rounding_of(Format format, Arithmetic arithmetic);

}  // namespace quantfit::engine
