#include "optimizer/tuning/parameters.h"

#include <tbb/parallel_for.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <optional>

#include "core/byte_size.h"
#include "kernels/block_scales.h"

namespace quantfit::tuning {
namespace {

constexpr double kSmallest = 1e-9;       // beside the root of the mean square, nats
constexpr float kLargestHalf = 65504;    // that is finite
constexpr std::size_t kPiece = 1 << 14;  // numbers of a task
// Relative errors of tensors whose numbers move at the full rates; of what is more exact they move in
// proportion to it. What is exact already has little to gain, and much to lose by noise of the gradients.
// Divergences over the untuned ones on the text held back, full rates for all and these, level codes: mixture
// of experts 0.847 and 0.767 at 3.5 bpw (0.741 with 0.002 and codes at 0.0025 for all), 0.591 and 0.591
// at 2.6, dense model 0.704 and 0.682 at 3.5.
constexpr double kErrorOfFullRate = 0.467, kErrorOfFullCodeRate = 0.3;

std::size_t blocks_of(const TensorInfo& tensor) {
  return tensor.elements() / traits(tensor.format).block_len;
}

std::optional<Parameter::Kind> kind_of(const TensorInfo& tensor, const engine::ModelGraph& graph,
                                       Level level) {
  if (level == Level::None || tensor.elements() == 0) return std::nullopt;
  if (tensor.format == Format::F32) {
    // Tables and a head that were left in F32 have lost nothing.
    const auto is = [&](const TensorInfo* one) { return one != nullptr && one->name == tensor.name; };
    const bool table = is(graph.embedding) || is(graph.position_embedding) || is(graph.layer_embedding) ||
                       is(graph.output.tensor);
    if (!table) return Parameter::Kind::Values;
  }
  if (level >= Level::Scales && kernels::block_scales(tensor.format) != 0) return Parameter::Kind::Scales;
  if (level >= Level::Codes && Codes::can(tensor.format)) return Parameter::Kind::Scales;
  return std::nullopt;
}

// The original's tensor of that name and those dimensions, if its format is a float one.
const TensorInfo* float_source(const TensorInfo& tensor, const Model& original) {
  const TensorInfo* source = original.find(tensor.name);
  const bool fits =
      source != nullptr && source->ne == tensor.ne && traits(source->format).kind == FormatKind::Float;
  return fits ? source : nullptr;
}

// The original's tensor that latents of codes begin at, or null.
const TensorInfo* source_of_codes(const TensorInfo& tensor, const Model& original, Level level) {
  if (level < Level::Codes || !Codes::can(tensor.format)) return nullptr;
  return float_source(tensor, original);
}

std::size_t numbers_of(const TensorInfo& tensor, Parameter::Kind kind) {
  return kind == Parameter::Kind::Values ? tensor.elements()
                                         : blocks_of(tensor) * kernels::block_scales(tensor.format);
}

// Sums over the weights of a tensor.
struct Squares {
  double error = 0, weights = 0;
  [[nodiscard]] float ratio() const {
    return weights > 0 ? static_cast<float>(std::sqrt(error / weights)) : 0.0F;
  }
};

// Of what `bytes` decode to against the original's tensor; rows one by one, added up in their order.
Squares squares_of(const kernels::RowKernels& kernels, const TensorInfo& tensor,
                   std::span<const std::byte> bytes, const Model& original, const TensorInfo& source) {
  const auto rows = static_cast<std::size_t>(tensor.rows());
  const std::size_t columns = tensor.ne[0], row_bytes = bytes.size() / rows;
  std::vector<Squares> of_row(rows);
  tbb::parallel_for(std::size_t{0}, rows, [&](std::size_t row) {
    std::vector<float> own(columns), weights(columns);
    kernels.decode[static_cast<std::size_t>(tensor.format)](bytes.data() + row * row_bytes, columns,
                                                            own.data());
    kernels.decode[static_cast<std::size_t>(source.format)](original.row(source, row).data(), columns,
                                                            weights.data());
    for (std::size_t i = 0; i < columns; ++i) {
      const double w = weights[i], off = static_cast<double>(own[i]) - w;
      of_row[row].error += off * off;
      of_row[row].weights += w * w;
    }
  });
  Squares out;
  for (const Squares& one : of_row) out.error += one.error, out.weights += one.weights;
  return out;
}

template <class Function>
void for_numbers(std::size_t size, const Function& function) {
  tbb::parallel_for(std::size_t{0}, (size + kPiece - 1) / kPiece, [&](std::size_t piece) {
    const std::size_t end = std::min(size, (piece + 1) * kPiece);
    for (std::size_t i = piece * kPiece; i < end; ++i) function(i);
  });
}

}  // namespace

float Parameter::unit(std::size_t i) const {
  return kind == Kind::Values ? value_unit : std::abs(start[i]);
}

void Parameter::store() {
  const Format format = tensor->format;
  const std::size_t per_block = kind == Kind::Values ? 1 : kernels::block_scales(format);
  const std::size_t block_bytes = traits(format).block_bytes;
  for_numbers(size(), [&](std::size_t i) {
    const float value = start[i] + unit(i) * offset[i];  // at offset 0 the file's own, to the bit
    if (kind == Kind::Values) {
      std::memcpy(bytes.data() + i * sizeof(float), &value, sizeof(float));
      return;
    }
    kernels::set_block_scale(format, bytes.data() + i / per_block * block_bytes, i % per_block,
                             std::clamp(value, -kLargestHalf, kLargestHalf));
  });
}

std::vector<std::span<std::byte>> Parameter::state() {
  std::vector<std::span<std::byte>> out{std::as_writable_bytes(std::span(offset)),
                                        std::as_writable_bytes(std::span(mean)),
                                        std::as_writable_bytes(std::span(square)), bytes};
  if (codes)
    for (const auto part : codes->state()) out.push_back(part);
  return out;
}

Result<Parameters> Parameters::collect(const Model& model, const engine::ModelGraph& graph,
                                       const Model& original, const kernels::RowKernels& rows, Level level,
                                       MomentForm moments, std::span<const TensorInfo* const> only,
                                       const engine::ReplacedTensors& start) {
  Parameters out;
  double error_weights = 0, error_squares = 0;  // of relative errors, over the weights of all tensors
  try {
    for (const TensorInfo& tensor : model.tensors()) {
      if (!only.empty() && std::ranges::find(only, &tensor) == only.end()) continue;
      const auto kind = kind_of(tensor, graph, level);
      if (!kind) continue;
      Parameter one;
      one.tensor = &tensor;
      one.kind = *kind;
      const auto begun = start.find(&tensor);
      const auto data = begun == start.end() ? model.data(tensor) : begun->second;
      one.bytes.assign(data.begin(), data.end());
      one.start.resize(numbers_of(tensor, *kind));
      if (*kind == Parameter::Kind::Values) {
        std::memcpy(one.start.data(), data.data(), data.size());
        double sum = 0;
        for (const float value : one.start) sum += static_cast<double>(value) * static_cast<double>(value);
        one.value_unit = static_cast<float>(std::sqrt(sum / static_cast<double>(one.size())));
      } else {
        const std::size_t per_block = kernels::block_scales(tensor.format);
        const std::size_t block_bytes = traits(tensor.format).block_bytes;
        for (std::size_t i = 0; i < one.size(); ++i)
          one.start[i] =
              kernels::block_scale(tensor.format, data.data() + i / per_block * block_bytes, i % per_block);
      }
      if (!std::ranges::all_of(one.start, [](float value) { return std::isfinite(value); }))
        return fail(ErrorCode::Malformed, "tensor '{}' holds a number that is not finite", tensor.name);
      one.offset.assign(one.size(), 0.0F);
      one.mean = one.square = one.offset;
      one.gradient.assign(one.size(), 0.0);
      if (const TensorInfo* source =
              *kind == Parameter::Kind::Scales ? float_source(tensor, original) : nullptr) {
        one.error = squares_of(rows, tensor, one.bytes, original, *source).ratio();
        error_weights += static_cast<double>(tensor.elements());
        error_squares += static_cast<double>(tensor.elements()) * static_cast<double>(one.error * one.error);
      }
      if (const TensorInfo* source = source_of_codes(tensor, original, level))
        one.codes.emplace(rows, tensor, one.bytes, original, *source, moments);
      out.index_.emplace(&tensor, out.all_.size());
      out.all_.push_back(std::move(one));
    }
    if (error_weights > 0) {
      const auto error = static_cast<float>(std::sqrt(error_squares / error_weights));
      for (Parameter& one : out.all_)
        if (one.kind == Parameter::Kind::Values) one.error = error;
    }
  } catch (const std::bad_alloc&) {
    return fail(ErrorCode::NoSpace, "out of memory for what is tuned: {}",
                format_bytes(sizes(model.tensors(), graph, original, level, moments).bytes));
  }
  return out;
}

Parameter* Parameters::find(const TensorInfo* tensor) {
  const auto found = index_.find(tensor);
  return found == index_.end() ? nullptr : &all_[found->second];
}

ParameterSizes Parameters::sizes(std::span<const TensorInfo> tensors, const engine::ModelGraph& graph,
                                 const Model& original, Level level, MomentForm moments) {
  constexpr std::uint64_t kBytesOfNumber = 4 * sizeof(float) + sizeof(double);
  ParameterSizes out;
  for (const TensorInfo& tensor : tensors) {
    const auto kind = kind_of(tensor, graph, level);
    if (!kind) continue;
    const std::uint64_t numbers = numbers_of(tensor, *kind);
    (*kind == Parameter::Kind::Values ? out.values : out.scales) += numbers;
    // The best bytes so far are kept besides.
    out.bytes += 2 * tensor.bytes + kBytesOfNumber * numbers;
    if (source_of_codes(tensor, original, level) == nullptr) continue;
    out.codes += tensor.elements() / kernels::code_shape(tensor.format).group;
    out.bytes += Codes::memory(tensor, moments);
  }
  return out;
}

void Parameters::clear_gradients() {
  for (Parameter& one : all_) {
    std::ranges::fill(one.gradient, 0.0);
    if (one.codes) std::ranges::fill(one.codes->gradient(), 0.0F);
  }
}

void Parameters::step(const Rates& rates, std::uint64_t step, std::uint64_t tokens) {
  for (Parameter& one : all_) {
    // Codes first: their gradients are those at the scales that the pass has seen.
    const auto share = [&](double full) { return std::min(1.0, static_cast<double>(one.error) / full); };
    if (one.codes)
      one.codes->step({rates.codes * share(kErrorOfFullCodeRate), step}, tokens, one.bytes, one.gradient);
    const double rate = one.kind == Parameter::Kind::Values ? rates.values : rates.scales;
    const Adam adam({rate * share(kErrorOfFullRate), step}, kSmallest);
    for_numbers(one.size(), [&](std::size_t i) {
      const double gradient =
          one.gradient[i] / static_cast<double>(tokens) * static_cast<double>(one.unit(i)) +
          rates.stiffness * static_cast<double>(one.offset[i]);
      const double change = adam.change(gradient, one.mean[i], one.square[i]);
      one.offset[i] = static_cast<float>(static_cast<double>(one.offset[i]) + change);
    });
    one.store();
  }
}

std::vector<std::vector<std::byte>> Parameters::snapshot() const {
  std::vector<std::vector<std::byte>> out;
  for (const Parameter& one : all_) out.push_back(one.bytes);
  return out;
}

void Parameters::restore(const std::vector<std::vector<std::byte>>& bytes) {
  // In place: who reads the bytes keeps its pointers.
  for (std::size_t i = 0; i < all_.size(); ++i) std::ranges::copy(bytes[i], all_[i].bytes.begin());
}

}  // namespace quantfit::tuning
