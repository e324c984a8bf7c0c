#include "optimizer/tuning/codes.h"

#include <tbb/parallel_for.h>

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <mutex>
#include <numeric>

#include "kernels/block_scales.h"

namespace quantfit::tuning {
namespace {

constexpr std::size_t kBlocksOfTask = 64;
constexpr double kSmallestMoment = 1e-12;
// Just inside the cell of a level.
constexpr float kInside = 0.998F;
constexpr std::size_t kMostCodes = 1024;
constexpr std::size_t kMostBlockBytes = 256;  // of formats with codes

}  // namespace

// The vectors (or numbers) that codes stand for.
struct Codes::Grid {
  std::vector<float> across;       // element j of vector c: [j * count + c]
  std::vector<float> half_length;  // half their squared lengths
  std::vector<float> inverse;      // one over the distance of c and d: [c * count + d]; 0 where it is none
  explicit Grid(const kernels::CodeShape& shape)
      : across(shape.levels.size()), half_length(shape.count), inverse(shape.count * shape.count) {
    const std::size_t group = shape.group, count = shape.count;
    for (std::size_t c = 0; c < count; ++c) {
      for (std::size_t j = 0; j < group; ++j) {
        const float value = shape.levels[c * group + j];
        across[j * count + c] = value;
        half_length[c] += value * value / 2;
      }
      for (std::size_t d = 0; d < count; ++d) {
        float square = 0;
        for (std::size_t j = 0; j < group; ++j) {
          const float off = shape.levels[c * group + j] - shape.levels[d * group + j];
          square += off * off;
        }
        inverse[c * count + d] = square == 0 ? 0 : 1 / std::sqrt(square);
      }
    }
  }
  static const Grid* of(Format format) {
    static std::mutex mutex;
    static std::map<Format, Grid> known;
    const std::lock_guard lock(mutex);
    return &known.try_emplace(format, kernels::code_shape(format)).first->second;
  }
};

Codes::Codes(const kernels::RowKernels& rows, const TensorInfo& tensor, std::span<const std::byte> bytes,
             const Model& original, const TensorInfo& source, MomentForm moments)
    : rows_(&rows),
      format_(&traits(tensor.format)),
      shape_(&kernels::code_shape(tensor.format)),
      moments_(tensor.elements() / format_->block_len, format_->block_len, moments) {
  const std::size_t group = shape_->group;
  if (!shape_->uniform) grid_ = Grid::of(tensor.format);
  latent_.resize(tensor.elements());
  gradient_.assign(latent_.size(), 0.0F);
  if (!shape_->uniform) slack_.assign(latent_.size() / group, 0.0F);
  const std::size_t columns = tensor.ne[0], blocks = columns / format_->block_len;
  tbb::parallel_for(std::size_t{0}, static_cast<std::size_t>(tensor.rows()), [&](std::size_t row) {
    std::vector<float> weights(columns);
    rows_->decode[static_cast<std::size_t>(source.format)](original.row(source, row).data(), columns,
                                                           weights.data());
    std::array<std::uint16_t, kernels::kMostBlockWeights> codes{};
    Lines lines;
    for (std::size_t b = 0; b < blocks; ++b) {
      const std::byte* block = bytes.data() + (row * blocks + b) * format_->block_bytes;
      kernels::get_codes(format_->format, block, codes.data());
      find_lines(block, codes.data(), lines);
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
        float& slack = slack_[(row * columns + b * format_->block_len + first) / group];
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
  const kernels::CodeShape& shape = kernels::code_shape(tensor.format);
  const std::size_t block = traits(tensor.format).block_len;
  return tensor.elements() * 2 * sizeof(float) +
         (shape.uniform ? 0 : tensor.elements() / shape.group * sizeof(float)) +
         Moments::memory(tensor.elements() / block, block, moments);
}

std::vector<std::span<std::byte>> Codes::state() {
  std::vector<std::span<std::byte>> out = moments_.state();
  out.push_back(std::as_writable_bytes(std::span(latent_)));
  if (!shape_->uniform) out.push_back(std::as_writable_bytes(std::span(slack_)));
  return out;
}

void Codes::find_lines(const std::byte* block, const std::uint16_t* codes, Lines& lines) const {
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
  std::array<std::byte, kMostBlockBytes> other;
  std::copy_n(block, format_->block_bytes, other.begin());
  std::array<std::uint16_t, kernels::kMostBlockWeights> all{};
  std::array<float, kernels::kMostBlockWeights> low{}, high{};
  kernels::set_codes(format_->format, other.data(), all.data());
  decode(other.data(), n, low.data());
  const auto last = static_cast<std::uint16_t>(shape_->count - 1);
  all.fill(last);
  kernels::set_codes(format_->format, other.data(), all.data());
  decode(other.data(), n, high.data());
  for (std::size_t i = 0; i < n; ++i) {
    lines.slope[i] = (high[i] - low[i]) / (level(last, 0) - level(0, 0));
    lines.base[i] = low[i] - lines.slope[i] * level(0, 0);
  }
}

std::uint16_t Codes::nearest(const float* latents, std::uint16_t current, float& slack) const {
  const std::size_t count = shape_->count, group = shape_->group;
  // |x - l|^2 / 2 without the part that all have in common.
  std::array<float, kMostCodes> cost{};
  std::copy(grid_->half_length.begin(), grid_->half_length.end(), cost.begin());
  for (std::size_t j = 0; j < group; ++j) {
    const float x = latents[j];
    const float* values = grid_->across.data() + j * count;
    for (std::size_t c = 0; c < count; ++c) cost[c] -= x * values[c];
  }
  std::uint16_t best = current;
  for (std::size_t c = 0; c < count; ++c)
    if (cost[c] < cost[best]) best = static_cast<std::uint16_t>(c);
  // The border to a vector at distance D lies (its cost - the best one's) / D away; a part is left for
  // rounding.
  const float* inverse = grid_->inverse.data() + best * count;
  float least = std::numeric_limits<float>::max();
  for (std::size_t c = 0; c < count; ++c)
    if (c != best) least = std::min(least, (cost[c] - cost[best]) * inverse[c]);
  slack = 0.9F * least;
  return best;
}

void Codes::scale_gradients(std::size_t b, const std::byte* block, const std::uint16_t* codes,
                            const Lines& lines, std::span<double> out) const {
  constexpr std::size_t kSums = 8;  // that do not wait for one another; blocks are whole numbers of them
  const std::size_t n = format_->block_len, group = shape_->group;
  const float* gradient = gradient_.data() + b * n;
  std::array<float, kernels::kMostBlockWeights> levels{};
  for (std::size_t first = 0; first < n; first += group)
    std::copy_n(shape_->levels.data() + codes[first / group] * group, group, levels.data() + first);
  std::array<double, kSums> by_levels{}, by_bases{};
  for (std::size_t first = 0; first < n; first += kSums) {
    for (std::size_t l = 0; l < kSums; ++l) {
      const double g = gradient[first + l];
      by_levels[l] += g * static_cast<double>(lines.slope[first + l] * levels[first + l]);
      by_bases[l] += g * static_cast<double>(lines.base[first + l]);
    }
  }
  const double of_levels = std::accumulate(by_levels.begin(), by_levels.end(), 0.0);
  const double of_bases = std::accumulate(by_bases.begin(), by_bases.end(), 0.0);
  const auto over = [&](double sum, std::size_t k) {
    const double scale = kernels::block_scale(format_->format, block, k);
    return scale == 0 ? 0 : sum / scale;
  };
  if (out.size() == 1)
    out[0] = over(of_levels + of_bases, 0);
  else
    out[0] = over(of_levels, 0), out[1] = over(of_bases, 1);
}

void Codes::step(const StepRule& rule, std::uint64_t tokens, std::span<std::byte> bytes,
                 std::span<double> scales) {
  const Adam adam(rule, kSmallestMoment);
  const std::size_t n = format_->block_len, group = shape_->group;
  const std::size_t blocks = latent_.size() / n;
  const float spacing = shape_->spacing, share = spacing / static_cast<float>(tokens);
  tbb::parallel_for(std::size_t{0}, (blocks + kBlocksOfTask - 1) / kBlocksOfTask, [&](std::size_t task) {
    using Numbers = std::array<float, kernels::kMostBlockWeights>;
    std::array<std::uint16_t, kernels::kMostBlockWeights> codes{};
    Numbers mean{}, square{}, gradient{}, change{};
    Lines lines;
    for (std::size_t b = task * kBlocksOfTask; b < std::min(blocks, (task + 1) * kBlocksOfTask); ++b) {
      std::byte* block = bytes.data() + b * format_->block_bytes;
      kernels::get_codes(format_->format, block, codes.data());
      find_lines(block, codes.data(), lines);
      if (const std::size_t count = scales.size() / blocks; count != 0)
        scale_gradients(b, block, codes.data(), lines, scales.subspan(b * count, count));
      float* latents = latent_.data() + b * n;
      for (std::size_t i = 0; i < n; ++i) gradient[i] = gradient_[b * n + i] * (lines.slope[i] * share);
      if (const Moments::Whole whole = moments_.whole(b); whole.mean != nullptr) {
        adam.changes(gradient.data(), n, whole.mean, whole.square, change.data());
      } else {
        moments_.load(b, mean.data(), square.data());
        adam.changes(gradient.data(), n, mean.data(), square.data(), change.data());
        moments_.store(b, mean.data(), square.data(), rule.step);
      }
      for (std::size_t i = 0; i < n; ++i) {
        change[i] *= spacing;
        latents[i] += change[i];
      }
      const bool changed = shape_->uniform ? round_uniform(latents, codes.data())
                                           : round_moved(b * n / group, latents, change.data(), codes.data());
      if (changed) kernels::set_codes(format_->format, block, codes.data());
    }
  });
}

bool Codes::round_uniform(const float* latents, std::uint16_t* codes) const {
  const auto last = static_cast<float>(shape_->count - 1);
  unsigned changed = 0;
  for (std::size_t i = 0; i < format_->block_len; ++i) {
    const auto code =
        static_cast<std::uint16_t>(static_cast<int>(std::min(std::max(0.0F, latents[i] + 0.5F), last)));
    changed |= static_cast<unsigned>(code ^ codes[i]);
    codes[i] = code;
  }
  return changed != 0;
}

bool Codes::round_moved(std::size_t first_group, const float* latents, const float* change,
                        std::uint16_t* codes) {
  const std::size_t group = shape_->group;
  bool changed = false;
  for (std::size_t g = 0; g < format_->block_len / group; ++g) {
    float way = 0;
    for (std::size_t j = 0; j < group; ++j) way += change[g * group + j] * change[g * group + j];
    float& slack = slack_[first_group + g];
    // A little more than the way, for rounding.
    slack -= 1.001F * std::sqrt(way);
    if (way == 0 || slack > 0) continue;
    const std::uint16_t code = nearest(latents + g * group, codes[g], slack);
    changed |= code != codes[g];
    codes[g] = code;
  }
  return changed;
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
