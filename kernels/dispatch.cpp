// Which compiled instruction sets this CPU can run, and the choice among them.

#include <hwy/targets.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "kernels/row_kernels.h"
#include "kernels/runnable_targets.h"

namespace quantfit::kernels {

// Of fill_tables.cpp, in the objects of one instruction set.
#define QF_DECLARE_TABLES(space)              \
  namespace space {                           \
  void fill_row_kernels(RowKernels& table);   \
  void fill_math_kernels(MathKernels& table); \
  }
QF_DECLARE_TABLES(N_AVX3_DL)
QF_DECLARE_TABLES(N_AVX3)
QF_DECLARE_TABLES(N_AVX2)
QF_DECLARE_TABLES(N_NEON)
QF_DECLARE_TABLES(N_EMU128)
QF_DECLARE_TABLES(N_SCALAR)
#undef QF_DECLARE_TABLES

namespace {

// What this build has (CMakeLists.txt), in order of preference. Highway's flag names: AVX3 is AVX-512
// F/BW/DQ/VL, AVX3_DL adds VNNI, VBMI and friends. Plain arrays have two names, by compiler.
constexpr RunnableTarget kTargets[] = {
#ifdef QUANTFIT_HAS_avx512_dl
    {HWY_AVX3_DL, "avx512_dl", N_AVX3_DL::fill_row_kernels, N_AVX3_DL::fill_math_kernels},
#endif
#ifdef QUANTFIT_HAS_avx512
    {HWY_AVX3, "avx512", N_AVX3::fill_row_kernels, N_AVX3::fill_math_kernels},
#endif
#ifdef QUANTFIT_HAS_avx2
    {HWY_AVX2, "avx2", N_AVX2::fill_row_kernels, N_AVX2::fill_math_kernels},
#endif
#ifdef QUANTFIT_HAS_neon
    {HWY_NEON, "neon", N_NEON::fill_row_kernels, N_NEON::fill_math_kernels},
#endif
#ifdef QUANTFIT_HAS_scalar
#if HWY_BASELINE_SCALAR == HWY_SCALAR
    {HWY_SCALAR, "scalar", N_SCALAR::fill_row_kernels, N_SCALAR::fill_math_kernels},
#else
    {HWY_EMU128, "scalar", N_EMU128::fill_row_kernels, N_EMU128::fill_math_kernels},
#endif
#endif
};

std::vector<RowKernels> build_tables() {
  std::vector<RowKernels> tables;
  for (const RunnableTarget& target : runnable_targets()) {
    RowKernels table;
    table.isa = target.isa;
    target.fill_row_kernels(table);
    tables.push_back(table);
  }
  return tables;
}

}  // namespace

std::span<const RunnableTarget> runnable_targets() {
  static const std::vector<RunnableTarget> targets = [] {
    std::vector<RunnableTarget> found;
    const std::int64_t supported = hwy::SupportedTargets() | HWY_EMU128 | HWY_SCALAR;
    for (const RunnableTarget& target : kTargets)
      if ((supported & target.flag) != 0) found.push_back(target);
    return found;
  }();
  return targets;
}

std::span<const RowKernels> runnable_kernels() {
  static const std::vector<RowKernels> tables = build_tables();
  return tables;
}

Result<const RowKernels*> find_kernels(std::string_view isa) {
  std::string names;
  for (const RowKernels& table : runnable_kernels()) {
    if (table.isa == isa) return &table;
    names += (names.empty() ? "" : ", ") + std::string(table.isa);
  }
  return fail(ErrorCode::InvalidArgument, "no kernels for '{}' on this CPU; available: {}", isa, names);
}

Result<const RowKernels*> default_kernels() {
  const char* forced = std::getenv("QUANTFIT_ISA");
  if (forced != nullptr && *forced != '\0') return find_kernels(forced);
  if (runnable_kernels().empty())
    return fail(ErrorCode::Unsupported, "this program was compiled for {} only, which this CPU cannot run",
                kTargets[0].isa);
  return &runnable_kernels().front();
}

}  // namespace quantfit::kernels
