#include "optimizer/planning/requantization.h"

#include <algorithm>
#include <array>
#include <map>

#include "core/text.h"
#include "optimizer/llama_cpp/quantize_rules.h"

namespace quantfit::optimizer {
namespace {

struct UsualError {
  Format format;
  double nmse;
};

constexpr std::array kUsualErrors = {
    UsualError{Format::Q8_0, 1.89e-5},    UsualError{Format::Q6_K, 2.22e-4},
    UsualError{Format::Q5_1, 8.96e-4},    UsualError{Format::Q5_K, 9.51e-4},
    UsualError{Format::Q5_0, 1.35e-3},    UsualError{Format::Q4_1, 3.88e-3},
    UsualError{Format::Q4_K, 3.93e-3},    UsualError{Format::IQ4_NL, 4.49e-3},
    UsualError{Format::IQ4_XS, 4.57e-3},  UsualError{Format::Q4_0, 5.57e-3},
    UsualError{Format::IQ3_S, 1.36e-2},   UsualError{Format::Q3_K, 1.76e-2},
    UsualError{Format::IQ3_XXS, 2.48e-2}, UsualError{Format::IQ2_S, 4.89e-2},
    UsualError{Format::Q2_K, 5.67e-2},    UsualError{Format::IQ2_XS, 6.79e-2},
    UsualError{Format::IQ2_XXS, 9.14e-2}, UsualError{Format::IQ1_M, 0.161},
    UsualError{Format::IQ1_S, 0.197},
};

}  // namespace

std::optional<double> usual_error(Format format) {
  const auto found = std::ranges::find(kUsualErrors, format, &UsualError::format);
  if (found == kUsualErrors.end()) return std::nullopt;
  return found->nmse;
}

std::string requantization_sentence(std::span<const TensorInfo> tensors, std::span<const double> sensitivity,
                                    std::string_view unit) {
  std::map<Format, std::size_t> formats;
  double lost = 0;
  bool all_known = true;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (!is_quantized(tensors[i].format) || !quantizability(tensors[i]).quantizable) continue;
    ++formats[tensors[i].format];
    const auto error = usual_error(tensors[i].format);
    all_known = all_known && error.has_value();
    lost += sensitivity[i] * error.value_or(0);
  }
  if (formats.empty()) return {};
  std::string list;
  for (const auto& [format, count] : formats)
    list += fmt::format("{}{} {}", list.empty() ? "" : ", ", count, name_of(format));
  return fmt::format(
      "the source is quantized already ({}): by what such formats usually cost, {}{:.3g} ({}) were lost "
      "before, "
      "and the predicted error is what is added to that",
      list, all_known ? "about " : "more than ", lost, unit);
}

}  // namespace quantfit::optimizer
