// The two tables of one instruction set, filled by all its kernel sources; dispatch.cpp asks for them.

#include "kernels/instruction_set.h"
// First: it decides which instruction set the following headers are compiled for.
#include "kernels/math/targets.h"
#include "kernels/targets.h"

namespace quantfit::kernels::HWY_NAMESPACE {

void fill_row_kernels(RowKernels& table) {
  fill_prepare(table);
  fill_decoders(table);
  fill_float_encoders(table);
  fill_affine_encoders(table);
  fill_k_encoders(table);
  fill_table_encoders(table);
  fill_fp4_encoders(table);
  fill_ternary_encoders(table);
  fill_codebook_encoders(table);
}

void fill_math_kernels(MathKernels& table) {
  fill_products(table);
  fill_elementwise(table);
  fill_activations(table);
  fill_norms(table);
  fill_rope(table);
  fill_attention(table);
  fill_attention_backward(table);
  fill_routing(table);
  fill_convolution(table);
  fill_delta_net(table);
  fill_delta_net_backward(table);
  fill_mamba2(table);
  fill_mamba2_backward(table);
  fill_loss(table);
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
