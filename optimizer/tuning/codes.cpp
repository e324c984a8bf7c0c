#include "optimizer/tuning/codes.h"

#include <tbb/parallel_for.h>

#include <algorithm>
#include <array>
#include <limits>

namespace quantfit::tuning {
namespace {

constexpr std::size_t kBlocksOfTask = 64;
constexpr double kSmallestMoment = 1e-12;
// Just inside the cell of a level.
constexpr float kInside = 0.998F;
constexpr std::size_t kMostCodes = 1024;

}  // namespace

Codes::Codes(const kernels::RowKernels& rows, const TensorInfo& tensor, std::span<const std::byte> bytes,
             const Model& original, const TensorInfo& source, MomentForm moments)
    : rows_(&rows),
      format_(&traits(tensor.format)),
      shape_(&kernels::code_shape(tensor.format)),
      moments_(tensor.elements() / format_->block_len, format_->block_len, moments) {
  const std::size_t group = shape_->group, count = shape_->count;
  const auto [least, most] = std::ranges::minmax(shape_->levels);
  longest_ = (most - least) * std::sqrt(static_cast<float>(group));
  if (group > 1) {
    across_.resize(shape_->levels.size());
    half_length_.assign(count, 0.0F);
    for (std::size_t c = 0; c < count; ++c) {
      for (std::size_t j = 0; j < group; ++j) {
        const float value = shape_->levels[c * group + j];
        across_[j * count + c] = value;
        half_length_[c] += value * value / 2;
      }
    }
  }
  latent_.resize(tensor.elements());
  gradient_.assign(latent_.size(), 0.0F);
  slack_.assign(latent_.size() / group, 0.0F);
  const std::size_t columns = tensor.ne[0], blocks = columns / format_->block_len;
  tbb::parallel_for(std::size_t{0}, static_cast<std::size_t>(tensor.rows()), [&](std::size_t row) {
    std::vector<float> weights(columns);
    rows_->decode[static_cast<std::size_t>(source.format)](original.row(source, row).data(), columns,
                                                           weights.data());
    std::vector<std::byte> block(format_->block_bytes);
    std::array<std::uint16_t, kernels::kMostBlockWeights> codes{};
    Lines lines;
    float slack = 0;
    for (std::size_t b = 0; b < blocks; ++b) {
      const std::size_t at = (row * blocks + b) * format_->block_bytes;
      std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), block.size(), block.begin());
      kernels::get_codes(format_->format, block.data(), codes.data());
      find_lines(block.data(), codes.data(), lines);
      float* latents = latent_.data() + row * columns + b * format_->block_len;
      for (std::size_t i = 0; i < format_->block_len; ++i) {
        const float own = level(codes[i / group], i % group);
        const float weight = weights[b * format_->block_len + i];
        latents[i] = lines.slope[i] == 0 ? own : (weight - lines.base[i]) / lines.slope[i];
      }
      for (std::size_t first = 0; first < format_->block_len; first += group) {
        const std::uint16_t code = codes[first / group];
        if (shape_->uniform) {
          latents[first] = std::clamp(latents[first], static_cast<float>(code) - kInside / 2,
                                      static_cast<float>(code) + kInside / 2);
          continue;
        }
        // Halfway back to the file's own levels until these are the nearest.
        for (int halves = 0; nearest(latents + first, code, slack) != code; ++halves) {
          for (std::size_t j = 0; j < group; ++j) {
            const float own = level(code, j);
            latents[first + j] = halves < 20 ? own + (latents[first + j] - own) / 2 : own;
          }
        }
      }
    }
  });
}

std::uint64_t Codes::memory(const TensorInfo& tensor, MomentForm moments) {
  const std::size_t group = kernels::code_shape(tensor.format).group;
  const std::size_t block = traits(tensor.format).block_len;
  return tensor.elements() * 2 * sizeof(float) + tensor.elements() / group * sizeof(float) +
         Moments::memory(tensor.elements() / block, block, moments);
}

std::vector<std::span<std::byte>> Codes::state() {
  std::vector<std::span<std::byte>> out = moments_.state();
  out.push_back(std::as_writable_bytes(std::span(latent_)));
  if (!shape_->uniform) out.push_back(std::as_writable_bytes(std::span(slack_)));
  return out;
}

void Codes::find_lines(std::byte* block, const std::uint16_t* codes, Lines& lines) const {
  const std::size_t n = format_->block_len, group = shape_->group;
  const auto decode = rows_->decode[static_cast<std::size_t>(format_->format)];
  if (group > 1) {
    decode(block, n, lines.slope);
    for (std::size_t i = 0; i < n; ++i) {
      lines.slope[i] /= level(codes[i / group], i % group);
      lines.base[i] = 0;
    }
    return;
  }
  std::array<std::uint16_t, kernels::kMostBlockWeights> all{};
  std::array<float, kernels::kMostBlockWeights> low{}, high{};
  kernels::set_codes(format_->format, block, all.data());
  decode(block, n, low.data());
  const auto last = static_cast<std::uint16_t>(shape_->count - 1);
  all.fill(last);
  kernels::set_codes(format_->format, block, all.data());
  decode(block, n, high.data());
  kernels::set_codes(format_->format, block, codes);
  for (std::size_t i = 0; i < n; ++i) {
    lines.slope[i] = (high[i] - low[i]) / (level(last, 0) - level(0, 0));
    lines.base[i] = low[i] - lines.slope[i] * level(0, 0);
  }
}

std::uint16_t Codes::nearest(const float* latents, std::uint16_t current, float& slack) const {
  const std::size_t count = shape_->count, group = shape_->group;
  slack = 0;
  if (shape_->uniform)
    return static_cast<std::uint16_t>(
        std::clamp(std::floor(latents[0] + 0.5F), 0.0F, static_cast<float>(count - 1)));
  // |x - l|^2 / 2 without the part that all have in common.
  std::array<float, kMostCodes> cost{};
  if (group == 1) {
    for (std::size_t c = 0; c < count; ++c) {
      const float off = latents[0] - shape_->levels[c];
      cost[c] = off * off / 2;
    }
  } else {
    std::copy(half_length_.begin(), half_length_.end(), cost.begin());
    for (std::size_t j = 0; j < group; ++j) {
      const float x = latents[j];
      const float* values = across_.data() + j * count;
      for (std::size_t c = 0; c < count; ++c) cost[c] -= x * values[c];
    }
  }
  std::uint16_t best = current;
  for (std::size_t c = 0; c < count; ++c)
    if (cost[c] < cost[best]) best = static_cast<std::uint16_t>(c);
  float second = std::numeric_limits<float>::max();
  for (std::size_t c = 0; c < count; ++c)
    if (c != best) second = std::min(second, cost[c]);
  // The border to a vector at distance D lies (its cost - the best one's) / D away; a part is left for
  // rounding.
  slack = 0.9F * (second - cost[best]) / longest_;
  return best;
}

void Codes::step(const StepRule& rule, std::uint64_t tokens, std::span<std::byte> bytes) {
  const Adam adam(rule, kSmallestMoment);
  const std::size_t n = format_->block_len, group = shape_->group;
  const std::size_t blocks = latent_.size() / n;
  const float spacing = shape_->spacing;
  tbb::parallel_for(std::size_t{0}, (blocks + kBlocksOfTask - 1) / kBlocksOfTask, [&](std::size_t task) {
    std::array<std::uint16_t, kernels::kMostBlockWeights> codes{};
    std::array<float, kernels::kMostBlockWeights> mean{}, square{};
    Lines lines;
    for (std::size_t b = task * kBlocksOfTask; b < std::min(blocks, (task + 1) * kBlocksOfTask); ++b) {
      std::byte* block = bytes.data() + b * format_->block_bytes;
      kernels::get_codes(format_->format, block, codes.data());
      find_lines(block, codes.data(), lines);
      moments_.load(b, mean.data(), square.data());
      bool changed = false;
      for (std::size_t first = 0; first < n; first += group) {
        const std::size_t at = b * n + first;
        double way = 0;
        for (std::size_t j = 0; j < group; ++j) {
          const double slope = lines.slope[first + j] * spacing;
          const double gradient = gradient_[at + j] / static_cast<double>(tokens) * slope;
          const double change = adam.change(gradient, mean[first + j], square[first + j]) * spacing;
          latent_[at + j] = static_cast<float>(latent_[at + j] + change);
          way += change * change;
        }
        float& slack = slack_[at / group];
        slack -= static_cast<float>(std::sqrt(way));
        if (way == 0 || slack > 0) continue;
        const std::uint16_t code = nearest(latent_.data() + at, codes[first / group], slack);
        if (code == codes[first / group]) continue;
        codes[first / group] = code;
        changed = true;
      }
      if (changed) kernels::set_codes(format_->format, block, codes.data());
      moments_.store(b, mean.data(), square.data(), rule.step);
    }
  });
}

std::uint64_t Codes::moved(std::span<const std::byte> before, std::span<const std::byte> now) const {
  std::uint64_t out = 0;
  std::array<std::uint16_t, kernels::kMostBlockWeights> a{}, b{};
  const std::size_t codes = format_->block_len / shape_->group;
  for (std::size_t at = 0; at < now.size(); at += format_->block_bytes) {
    kernels::get_codes(format_->format, before.data() + at, a.data());
    kernels::get_codes(format_->format, now.data() + at, b.data());
    for (std::size_t c = 0; c < codes; ++c) out += a[c] != b[c] ? 1 : 0;
  }
  return out;
}

}  // namespace quantfit::tuning
