// Internal: the functions that each kernel source offers per instruction set.
//
// A kernel source `family.cpp` looks like this (see prepare_row.cpp, the smallest one):
//
//   #include "kernels/instruction_set.h"  // which set this object is for
//   #include "kernels/lanes-inl.h"
//   #include "kernels/targets.h"
//   HWY_BEFORE_NAMESPACE();
//   namespace quantfit::kernels::HWY_NAMESPACE { ... void fill_family(RowKernels& table) { ... } }
//   HWY_AFTER_NAMESPACE();
//
// Each fills its entries of the table. fill_tables.cpp calls all of one set, dispatch.cpp those of the sets
// that this build has.
#pragma once

#include "kernels/instruction_set.h"
#include "kernels/row_kernels.h"

namespace quantfit::kernels::HWY_NAMESPACE {

void fill_prepare(RowKernels& table);
void fill_decoders(RowKernels& table);
void fill_float_encoders(RowKernels& table);
void fill_affine_encoders(RowKernels& table);
void fill_k_encoders(RowKernels& table);
void fill_table_encoders(RowKernels& table);
void fill_fp4_encoders(RowKernels& table);
void fill_ternary_encoders(RowKernels& table);
void fill_codebook_encoders(RowKernels& table);

}  // namespace quantfit::kernels::HWY_NAMESPACE
