#include "optimizer/tuning/parameters.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/optimizer/tuning/quantized_copy.h"
#include "tests/support/test_paths.h"

namespace quantfit::test {
namespace {

using namespace tuning;

// By the relative error of the tensor, so that what is exact already is not made worse by noise.
TEST(TuningParameters, ExactTensorsMoveLess) {
  const TemporaryFolder folder;
  const Model original = Model::open(test::data_dir() / "tale-dense-F16.gguf").value();
  const Model quantized = quantized_copy(original, folder / "q.gguf", [](std::string_view name) {
    return name.starts_with("output") ? Format::Q6_K : Format::Q2_K;
  });
  const auto engine = engine::Engine::open(quantized).value();
  const kernels::RowKernels& kernels = *kernels::default_kernels().value();
  Parameters parameters =
      Parameters::collect(quantized, engine.graph(), original, kernels, Level::Scales).value();
  for (Parameter& one : parameters.all()) std::ranges::fill(one.gradient, 1.0);
  constexpr double kRate = 0.01;
  parameters.step({.values = kRate, .scales = kRate}, 1, 1);
  // The first step of Adam is one by the rate, against the gradient.
  const auto step_of = [&](std::string_view name) {
    const Parameter& one = *parameters.find(quantized.find(name));
    return static_cast<double>(*std::ranges::min_element(one.offset));
  };
  const auto error_of = [&](std::string_view name) {
    const TensorInfo& source = *original.find(name);
    const TensorInfo& tensor = *quantized.find(name);
    std::vector<float> weights(tensor.elements()), decoded(tensor.elements());
    for (std::uint64_t r = 0; r < tensor.rows(); ++r)
      kernels.decode[static_cast<std::size_t>(source.format)](original.row(source, r).data(), source.ne[0],
                                                              weights.data() + r * source.ne[0]);
    kernels.decode[static_cast<std::size_t>(tensor.format)](quantized.data(tensor).data(), decoded.size(),
                                                            decoded.data());
    double off = 0, all = 0;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const double w = weights[i];
      off += std::pow(static_cast<double>(decoded[i]) - w, 2);
      all += w * w;
    }
    return std::sqrt(off / all);
  };
  const double rough = step_of("blk.0.ffn_up.weight"), exact = step_of("output.weight");
  EXPECT_LT(rough, 0);
  EXPECT_GT(rough, -kRate);
  EXPECT_NEAR(exact / rough, error_of("output.weight") / error_of("blk.0.ffn_up.weight"), 1e-3);
  EXPECT_GT(exact, rough / 5);
  const double norm = step_of("output_norm.weight");
  EXPECT_LT(norm, exact);
  EXPECT_GT(norm, rough * 1.5);
}

}  // namespace
}  // namespace quantfit::test
