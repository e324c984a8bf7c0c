// Generated models of every family and of further shapes: families without a recorded model, and variants of
// the others.
#pragma once

#include <vector>

#include "tests/optimizer/engine/generated_shape.h"

namespace quantfit::test {

[[nodiscard]] std::vector<GeneratedShape> generated_families();

}  // namespace quantfit::test
