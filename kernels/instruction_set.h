// Internal: which instruction set an object is for. Every kernel source includes this before anything else.
//
// CMakeLists.txt compiles each of them once per instruction set, with QUANTFIT_TARGET one of Highway's
// HWY_AVX2, ... HWY_BASELINE_SCALAR (plain arrays). One set's objects know nothing of another's: a build may
// have some and lack others.
#pragma once

#include <hwy/detect_targets.h>

#ifndef QUANTFIT_TARGET
#error "kernels are compiled by kernels/CMakeLists.txt, once per instruction set"
#endif

#undef HWY_TARGET
#define HWY_TARGET QUANTFIT_TARGET
#include <hwy/highway.h>
