#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/decode.cpp"
#include <hwy/foreach_target.h>
// foreach_target first: it decides which targets the following headers are compiled for.
#include "kernels/lanes-inl.h"
#include "kernels/targets.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {

void fill_decoders(RowKernels&) {}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
QF_DEFINE_FILL(fill_decoders)
#endif
