#include "optimizer/tuning/moments.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace quantfit::tuning {
namespace {

// A number is the upper bits of its binary32 pattern: exponent and three bits of mantissa.
constexpr int kDropped = 20;
constexpr std::uint32_t kPerExponent = 8;

std::uint32_t pattern(float value) {
  return std::bit_cast<std::uint32_t>(value);
}

// The exponent field of the largest of these; 0: all are zero, or next to it.
std::uint8_t largest_exponent(const float* values, std::size_t n) {
  float most = 0;
  for (std::size_t i = 0; i < n; ++i) most = std::max(most, std::abs(values[i]));
  return static_cast<std::uint8_t>(pattern(most) >> 23);
}

// The pattern that code 0 stands at, when `most` stands for the largest exponent of a block.
std::uint32_t base_of(std::uint8_t exponent, std::uint32_t most) {
  const std::uint32_t below = most / kPerExponent;
  return exponent > below ? (exponent - below) << 23 : 0;
}

// `chance`: kDropped random bits.
std::uint32_t encode(float magnitude, std::uint32_t base, std::uint32_t most, std::uint32_t chance) {
  const std::uint32_t bits = pattern(magnitude) + chance;
  return bits < base ? 0 : std::min((bits - base) >> kDropped, most);
}

float decode(std::uint32_t code, std::uint32_t base) {
  return code == 0 ? 0.0F : std::bit_cast<float>(base + (code << kDropped));
}

// Steele, Lea and Flood 2014, the finalizer of SplitMix.
std::uint64_t scrambled(std::uint64_t value) {
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9U;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBU;
  return value ^ (value >> 31);
}

constexpr std::uint32_t kMostMean = 127, kMostSquare = 255;

}  // namespace

std::string_view to_string(MomentForm form) {
  return form == MomentForm::Whole ? "whole" : "bytes";
}

Moments::Moments(std::size_t blocks, std::size_t block, MomentForm form) : block_(block) {
  if (form == MomentForm::Bytes) {
    means_.assign(blocks * block, 0);
    squares_.assign(blocks * block, 0);
    exponents_.assign(2 * blocks, 0);
  } else {
    mean_.assign(blocks * block, 0.0F);
    square_.assign(blocks * block, 0.0F);
  }
}

void Moments::load(std::size_t block, float* mean, float* square) const {
  const std::size_t first = block * block_;
  if (exponents_.empty()) {
    std::copy_n(mean_.data() + first, block_, mean);
    std::copy_n(square_.data() + first, block_, square);
    return;
  }
  const std::uint32_t base = base_of(exponents_[2 * block], kMostMean);
  const std::uint32_t square_base = base_of(exponents_[2 * block + 1], kMostSquare);
  for (std::size_t i = 0; i < block_; ++i) {
    const std::uint8_t code = means_[first + i];
    square[i] = decode(squares_[first + i], square_base);
    // A mean whose square is too small to be seen would be divided by next to nothing.
    const float magnitude = square[i] > 0 ? decode(code & kMostMean, base) : 0;
    mean[i] = code > kMostMean ? -magnitude : magnitude;
  }
}

void Moments::store(std::size_t block, const float* mean, const float* square, std::uint64_t step) {
  const std::size_t first = block * block_;
  if (exponents_.empty()) {
    std::copy_n(mean, block_, mean_.data() + first);
    std::copy_n(square, block_, square_.data() + first);
    return;
  }
  std::uint8_t* exponents = exponents_.data() + 2 * block;
  exponents[0] = largest_exponent(mean, block_);
  exponents[1] = largest_exponent(square, block_);
  const std::uint32_t base = base_of(exponents[0], kMostMean);
  const std::uint32_t square_base = base_of(exponents[1], kMostSquare);
  constexpr std::uint32_t kChance = (1U << kDropped) - 1;
  for (std::size_t i = 0; i < block_; ++i) {
    const std::uint64_t chance = scrambled((step << 40) ^ (first + i + 1));
    const std::uint32_t code =
        encode(std::abs(mean[i]), base, kMostMean, static_cast<std::uint32_t>(chance) & kChance);
    means_[first + i] = static_cast<std::uint8_t>(mean[i] < 0 ? code + kMostMean + 1 : code);
    squares_[first + i] = static_cast<std::uint8_t>(
        encode(square[i], square_base, kMostSquare, static_cast<std::uint32_t>(chance >> 32) & kChance));
  }
}

std::vector<std::span<std::byte>> Moments::state() {
  if (exponents_.empty())
    return {std::as_writable_bytes(std::span(mean_)), std::as_writable_bytes(std::span(square_))};
  return {std::as_writable_bytes(std::span(means_)), std::as_writable_bytes(std::span(squares_)),
          std::as_writable_bytes(std::span(exponents_))};
}

std::uint64_t Moments::memory(std::size_t blocks, std::size_t block, MomentForm form) {
  return form == MomentForm::Bytes ? blocks * (2 * block + 2) : blocks * block * 2 * sizeof(float);
}

}  // namespace quantfit::tuning
