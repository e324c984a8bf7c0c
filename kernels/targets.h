// Internal: the list of compiled instruction sets, and the functions that each kernel source offers per set.
//
// A kernel source `family.cpp` looks like this (see prepare_row.cpp, the smallest one):
//
//   #undef HWY_TARGET_INCLUDE
//   #define HWY_TARGET_INCLUDE "kernels/family.cpp"
//   #include <hwy/foreach_target.h>   // compiles this file once per instruction set
//   #include "kernels/lanes-inl.h"
//   HWY_BEFORE_NAMESPACE();
//   namespace quantfit::kernels::HWY_NAMESPACE { ... void fill_family(RowKernels& table) { ... } }
//   HWY_AFTER_NAMESPACE();
//   #if HWY_ONCE
//   QF_DEFINE_FILL(fill_family)
//   #endif
//
// and dispatch.cpp calls quantfit::kernels::fill_family(target, table) for every target.
#pragma once

#include <cstdint>

#include "kernels/row_kernels.h"

namespace quantfit::kernels {

// `target` is one of Highway's HWY_AVX2, ... bits. Each fills its entries of the table.
void fill_prepare(std::int64_t target, RowKernels& table);
void fill_decoders(std::int64_t target, RowKernels& table);
void fill_float_encoders(std::int64_t target, RowKernels& table);
void fill_affine_encoders(std::int64_t target, RowKernels& table);
void fill_k_encoders(std::int64_t target, RowKernels& table);
void fill_table_encoders(std::int64_t target, RowKernels& table);
void fill_fp4_encoders(std::int64_t target, RowKernels& table);
void fill_ternary_encoders(std::int64_t target, RowKernels& table);
void fill_codebook_encoders(std::int64_t target, RowKernels& table);

}  // namespace quantfit::kernels

#define QF_FILL_CASE(flag, space, function) \
  case flag:                                \
    space::function(table);                 \
    return;

#if HWY_TARGETS & HWY_AVX3_DL
#define QF_CASE_AVX3_DL(function) QF_FILL_CASE(HWY_AVX3_DL, N_AVX3_DL, function)
#else
#define QF_CASE_AVX3_DL(function)
#endif
#if HWY_TARGETS & HWY_AVX3
#define QF_CASE_AVX3(function) QF_FILL_CASE(HWY_AVX3, N_AVX3, function)
#else
#define QF_CASE_AVX3(function)
#endif
#if HWY_TARGETS & HWY_AVX2
#define QF_CASE_AVX2(function) QF_FILL_CASE(HWY_AVX2, N_AVX2, function)
#else
#define QF_CASE_AVX2(function)
#endif
#if HWY_TARGETS & HWY_NEON
#define QF_CASE_NEON(function) QF_FILL_CASE(HWY_NEON, N_NEON, function)
#else
#define QF_CASE_NEON(function)
#endif
#if HWY_TARGETS & HWY_EMU128
#define QF_CASE_EMU128(function) QF_FILL_CASE(HWY_EMU128, N_EMU128, function)
#else
#define QF_CASE_EMU128(function)
#endif
#if HWY_TARGETS & HWY_SCALAR
#define QF_CASE_SCALAR(function) QF_FILL_CASE(HWY_SCALAR, N_SCALAR, function)
#else
#define QF_CASE_SCALAR(function)
#endif

#define QF_DEFINE_FILL(function)                          \
  namespace quantfit::kernels {                           \
  void function(std::int64_t target, RowKernels& table) { \
    switch (target) {                                     \
      QF_CASE_AVX3_DL(function)                           \
      QF_CASE_AVX3(function)                              \
      QF_CASE_AVX2(function)                              \
      QF_CASE_NEON(function)                              \
      QF_CASE_EMU128(function)                            \
      QF_CASE_SCALAR(function)                            \
      default:                                            \
        return;                                           \
    }                                                     \
  }                                                       \
  }
