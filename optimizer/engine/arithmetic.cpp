#include "optimizer/engine/arithmetic.h"

namespace quantfit::engine {

kernels::ActivationRounding rounding_of(Format format, Arithmetic arithmetic) {
  using kernels::ActivationRounding;
  if (arithmetic == Arithmetic::Exact) return ActivationRounding::None;
  switch (format) {
    case Format::F16:
      return ActivationRounding::Half;
    case Format::BF16:
      return ActivationRounding::Bfloat16;
    case Format::Q4_0:
    case Format::Q4_1:
    case Format::Q5_0:
    case Format::Q5_1:
    case Format::Q8_0:
    case Format::IQ4_NL:
    case Format::MXFP4:
    case Format::NVFP4:
    case Format::Q1_0:
    case Format::Q2_0:
      return ActivationRounding::Blocks32;
    default:
      return is_quantized(format) ? ActivationRounding::Blocks256 : ActivationRounding::None;
  }
}

}  // namespace quantfit::engine
