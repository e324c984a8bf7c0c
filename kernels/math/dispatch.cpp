// Which tables of operations this CPU can run, and the choice among them: that of kernels/dispatch.cpp.

#include <vector>

#include "kernels/math/math_kernels.h"
#include "kernels/runnable_targets.h"

namespace quantfit::kernels {
namespace {

std::vector<MathKernels> build_tables() {
  std::vector<MathKernels> tables;
  for (const RunnableTarget& target : runnable_targets()) {
    MathKernels table;
    table.isa = target.isa;
    target.fill_math_kernels(table);
    tables.push_back(table);
  }
  return tables;
}

}  // namespace

std::span<const MathKernels> runnable_math_kernels() {
  static const std::vector<MathKernels> tables = build_tables();
  return tables;
}

Result<const MathKernels*> find_math_kernels(std::string_view isa) {
  QF_ASSIGN(const RowKernels* rows, find_kernels(isa));
  return &runnable_math_kernels()[static_cast<std::size_t>(rows - runnable_kernels().data())];
}

Result<const MathKernels*> default_math_kernels() {
  QF_ASSIGN(const RowKernels* rows, default_kernels());
  return find_math_kernels(rows->isa);
}

}  // namespace quantfit::kernels
