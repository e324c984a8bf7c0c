#include "optimizer/planning/runtime_speed.h"

#include <array>
#include <numeric>

#include "core/text.h"
#include "optimizer/llama_cpp/tensor_role.h"

namespace quantfit::optimizer {
namespace {

// Codebook formats decode through table look-ups, which CPUs and Metal's kernels do slowly; ternary and one-
// and two-bit formats have no kernels on some back ends and fall back to the CPU.
constexpr std::array kSlowOnCpu = {Format::IQ2_XXS, Format::IQ2_XS, Format::IQ3_XXS, Format::IQ1_S,
                                   Format::IQ3_S,   Format::IQ2_S,  Format::IQ1_M};
constexpr std::array kSlowOnCuda = {Format::TQ1_0, Format::TQ2_0, Format::Q1_0, Format::Q2_0};
constexpr std::array kSlowOnMetal = {Format::IQ2_XXS, Format::IQ2_XS, Format::IQ3_XXS, Format::IQ1_S,
                                     Format::IQ3_S,   Format::IQ2_S,  Format::IQ1_M,   Format::TQ1_0,
                                     Format::TQ2_0,   Format::NVFP4,  Format::Q1_0,    Format::Q2_0};
constexpr std::array kSlowOnVulkan = {Format::IQ1_S, Format::IQ1_M, Format::TQ1_0, Format::TQ2_0,
                                      Format::NVFP4, Format::Q1_0,  Format::Q2_0};

// Unpacking work per weight on a CPU in units of the time that reading one Q8_0 weight takes.
double unpacking(Format format) {
  switch (format) {
    case Format::Q4_0:
    case Format::Q4_1:
    case Format::Q5_0:
    case Format::Q5_1:
    case Format::IQ4_NL:
    case Format::IQ4_XS:
    case Format::MXFP4:
    case Format::NVFP4:
      return 0.05;
    case Format::Q2_K:
    case Format::Q3_K:
    case Format::Q4_K:
    case Format::Q5_K:
    case Format::Q6_K:
    case Format::TQ1_0:
    case Format::TQ2_0:
    case Format::Q1_0:
    case Format::Q2_0:
      return 0.1;
    case Format::IQ1_S:
    case Format::IQ1_M:
    case Format::IQ2_XXS:
    case Format::IQ2_XS:
    case Format::IQ2_S:
      return 0.3;
    case Format::IQ3_XXS:
    case Format::IQ3_S:
      return 0.4;
    default:
      return 0;
  }
}

}  // namespace

std::string_view to_string(Runtime runtime) {
  switch (runtime) {
    case Runtime::Cpu:
      return "cpu";
    case Runtime::Cuda:
      return "cuda";
    case Runtime::Metal:
      return "metal";
    case Runtime::Vulkan:
      return "vulkan";
  }
  return "unknown";
}

std::optional<Runtime> parse_runtime(std::string_view name) {
  for (const Runtime runtime : {Runtime::Cpu, Runtime::Cuda, Runtime::Metal, Runtime::Vulkan})
    if (equal_ignoring_case(name, to_string(runtime))) return runtime;
  return std::nullopt;
}

std::span<const Format> slow_formats(Runtime runtime) {
  switch (runtime) {
    case Runtime::Cpu:
      return kSlowOnCpu;
    case Runtime::Cuda:
      return kSlowOnCuda;
    case Runtime::Metal:
      return kSlowOnMetal;
    case Runtime::Vulkan:
      return kSlowOnVulkan;
  }
  return {};
}

double decode_cost(Format format, Runtime runtime) {
  // GPUs have arithmetic to spare while they wait for memory.
  const double work = runtime == Runtime::Cpu ? 1.0 : 0.25;
  return bits_per_weight(format) / bits_per_weight(Format::Q8_0) + work * unpacking(format);
}

std::vector<double> read_shares(const ModelTraits& model, std::span<const TensorInfo> tensors) {
  std::vector<double> shares;
  shares.reserve(tensors.size());
  for (const TensorInfo& tensor : tensors) {
    double read = static_cast<double>(tensor.elements());
    const RecipeRole role = recipe_role(tensor.name);
    const bool is_head = model.tied && tensor.name == "token_embd.weight";
    if (role == RecipeRole::Embed && !is_head) read = 0;
    if (is_routed_experts(tensor.name) && model.expert_count > 0)
      read *= std::min(1.0, static_cast<double>(model.expert_used_count) / model.expert_count);
    shares.push_back(read);
  }
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  for (double& share : shares) share = sum > 0 ? share / sum : 0;
  return shares;
}

}  // namespace quantfit::optimizer
