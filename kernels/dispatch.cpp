// Which compiled instruction sets this CPU can run, and the choice among them.

#include <hwy/highway.h>
#include <hwy/targets.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "kernels/row_kernels.h"
#include "kernels/runnable_targets.h"
#include "kernels/targets.h"

namespace quantfit::kernels {
namespace {

// In order of preference. Highway's flag names: AVX3 is AVX-512 F/BW/DQ/VL, AVX3_DL adds VNNI, VBMI and
// friends.
constexpr RunnableTarget kTargets[] = {
    {HWY_AVX3_DL, "avx512_dl"}, {HWY_AVX3, "avx512"},   {HWY_AVX2, "avx2"},
    {HWY_NEON, "neon"},         {HWY_EMU128, "scalar"}, {HWY_SCALAR, "scalar"},
};

std::vector<RowKernels> build_tables() {
  std::vector<RowKernels> tables;
  for (const RunnableTarget& target : runnable_targets()) {
    RowKernels table;
    table.isa = target.isa;
    fill_prepare(target.flag, table);
    fill_decoders(target.flag, table);
    fill_float_encoders(target.flag, table);
    fill_affine_encoders(target.flag, table);
    fill_k_encoders(target.flag, table);
    fill_table_encoders(target.flag, table);
    fill_fp4_encoders(target.flag, table);
    fill_ternary_encoders(target.flag, table);
    fill_codebook_encoders(target.flag, table);
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
      if ((HWY_TARGETS & target.flag) != 0 && (supported & target.flag) != 0) found.push_back(target);
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
  return &runnable_kernels().front();
}

}  // namespace quantfit::kernels
