// Internal: what each source of this folder offers per instruction set; see kernels/targets.h for the
// pattern.
#pragma once

#include "kernels/math/math_kernels.h"
#include "kernels/targets.h"

namespace quantfit::kernels {

void fill_products(std::int64_t target, MathKernels& table);
void fill_elementwise(std::int64_t target, MathKernels& table);
void fill_activations(std::int64_t target, MathKernels& table);
void fill_norms(std::int64_t target, MathKernels& table);
void fill_rope(std::int64_t target, MathKernels& table);
void fill_attention(std::int64_t target, MathKernels& table);
void fill_attention_backward(std::int64_t target, MathKernels& table);
void fill_routing(std::int64_t target, MathKernels& table);
void fill_convolution(std::int64_t target, MathKernels& table);
void fill_delta_net(std::int64_t target, MathKernels& table);
void fill_delta_net_backward(std::int64_t target, MathKernels& table);
void fill_mamba2(std::int64_t target, MathKernels& table);
void fill_mamba2_backward(std::int64_t target, MathKernels& table);
void fill_loss(std::int64_t target, MathKernels& table);

}  // namespace quantfit::kernels

// QF_DEFINE_FILL for the table of operations.
#define QF_DEFINE_MATH_FILL(function)                      \
  namespace quantfit::kernels {                            \
  void function(std::int64_t target, MathKernels& table) { \
    switch (target) {                                      \
      QF_CASE_AVX3_DL(function)                            \
      QF_CASE_AVX3(function)                               \
      QF_CASE_AVX2(function)                               \
      QF_CASE_NEON(function)                               \
      QF_CASE_EMU128(function)                             \
      QF_CASE_SCALAR(function)                             \
      default:                                             \
        return;                                            \
    }                                                      \
  }                                                        \
  }
