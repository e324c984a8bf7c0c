// Rotary position embedding, in place, forward and backward.

#include "kernels/instruction_set.h"
// First: it decides which instruction set the following headers are compiled for.
#include "kernels/lanes-inl.h"
#include "kernels/math/rows-inl.h"
#include "kernels/math/targets.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {
namespace {

// kDirection 1: by the angle, -1: by its opposite.
template <int kDirection>
HWY_INLINE void rotate(const RopeShape& shape, const float* c, const float* s, float* x) {
  const std::size_t half = shape.rotated / 2;
  if (shape.layout == RopeLayout::Neox) {
    for (std::size_t i = 0; i < half; i += 16) {
      const F cosine = load_first(c + i, half - i);
      const F sine = kDirection > 0 ? load_first(s + i, half - i) : -load_first(s + i, half - i);
      const F a = load_first(x + i, half - i);
      const F b = load_first(x + half + i, half - i);
      store_first(fnma(b, sine, a * cosine), x + i, half - i);
      store_first(fma(a, sine, b * cosine), x + half + i, half - i);
    }
    return;
  }
  for (std::size_t i = 0; i < half; ++i) {
    const float sine = kDirection > 0 ? s[i] : -s[i];
    const float a = x[2 * i];
    const float b = x[2 * i + 1];
    x[2 * i] = std::fma(-b, sine, a * c[i]);
    x[2 * i + 1] = std::fma(a, sine, b * c[i]);
  }
}

template <int kDirection>
void rope(const RopeShape& shape, TokenRows<const float> cosine, TokenRows<const float> sine,
          TokenRows<float> x) {
  for (std::size_t t = 0; t < shape.tokens; ++t)
    for (std::size_t h = 0; h < shape.heads; ++h)
      rotate<kDirection>(shape, cosine.row(t), sine.row(t), x.row(t) + h * shape.head_stride);
}

}  // namespace

void fill_rope(MathKernels& table) {
  table.rope = rope<1>;
  table.rope_backward = rope<-1>;
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
