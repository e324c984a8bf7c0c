// Causal depthwise convolution over one sequence, forward and backward.

#include "kernels/instruction_set.h"
// First: it decides which instruction set the following headers are compiled for.
#include <algorithm>

#include "kernels/lanes-inl.h"
#include "kernels/math/rows-inl.h"
#include "kernels/math/targets.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {
namespace {

void convolve(std::size_t tokens, std::size_t channels, std::size_t count, const float* taps,
              const float* bias, TokenRows<const float> x, TokenRows<float> y) {
  for (std::size_t t = 0; t < tokens; ++t) {
    const std::size_t first = t + 1 < count ? count - 1 - t : 0;  // the first tap that meets a token
    for (std::size_t c = 0; c < channels; c += 16) {
      const std::size_t width = channels - c;
      F value = bias == nullptr ? zero() : load_first(bias + c, width);
      for (std::size_t j = first; j < count; ++j)
        value = fma(load_first(taps + j * channels + c, width),
                    load_first(x.row(t + 1 + j - count) + c, width), value);
      store_first(value, y.row(t) + c, width);
    }
  }
}

void convolve_backward(std::size_t tokens, std::size_t channels, std::size_t count, const float* taps,
                       TokenRows<const float> dy, TokenRows<float> dx) {
  for (std::size_t t = 0; t < tokens; ++t) {
    // dx[t] = sum over j of taps[j] dy[t + count - 1 - j], for the taps whose token exists.
    const std::size_t first = t + count > tokens ? t + count - tokens : 0;
    for (std::size_t c = 0; c < channels; c += 16) {
      const std::size_t width = channels - c;
      F value = zero();
      for (std::size_t j = first; j < count; ++j)
        value = fma(load_first(taps + j * channels + c, width),
                    load_first(dy.row(t + count - 1 - j) + c, width), value);
      store_first(value, dx.row(t) + c, width);
    }
  }
}

}  // namespace

void fill_convolution(MathKernels& table) {
  table.convolve = convolve;
  table.convolve_backward = convolve_backward;
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
