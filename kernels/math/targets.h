// Internal: what each source of this folder offers per instruction set; see kernels/targets.h for the
// pattern.
#pragma once

#include "kernels/instruction_set.h"
#include "kernels/math/math_kernels.h"

namespace quantfit::kernels::HWY_NAMESPACE {

void fill_products(MathKernels& table);
void fill_elementwise(MathKernels& table);
void fill_activations(MathKernels& table);
void fill_norms(MathKernels& table);
void fill_rope(MathKernels& table);
void fill_attention(MathKernels& table);
void fill_attention_backward(MathKernels& table);
void fill_routing(MathKernels& table);
void fill_convolution(MathKernels& table);
void fill_delta_net(MathKernels& table);
void fill_delta_net_backward(MathKernels& table);
void fill_mamba2(MathKernels& table);
void fill_mamba2_backward(MathKernels& table);
void fill_loss(MathKernels& table);

}  // namespace quantfit::kernels::HWY_NAMESPACE
