// Every operation of lanes-inl.h gives the same bits on every instruction set: this file is compiled once per
// target, and each compiled copy is compared with the plain arrays.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/kernels/lanes_test.cpp"
#include <hwy/foreach_target.h>
// foreach_target first: it decides which targets the following headers are compiled for.
#include "kernels/lanes-inl.h"

#ifndef QUANTFIT_LANES_TEST_RESULTS_
#define QUANTFIT_LANES_TEST_RESULTS_
#include <hwy/targets.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace quantfit::kernels {

// What one operation made of one input.
struct LaneResult {
  std::string operation;
  std::array<std::uint32_t, 16> lanes;
  friend bool operator==(const LaneResult&, const LaneResult&) = default;
};

// Sixteen values of everything the operations take.
struct LaneInput {
  std::array<float, 16> a, b, c;
  std::array<float, 16> positive;      // for square roots, divisors and table entries
  std::array<std::int32_t, 16> i, j;   // any bits
  std::array<std::int32_t, 16> index;  // 0..15
  std::array<std::uint8_t, 16> bytes;
  std::array<std::uint16_t, 16> halves;
};

}  // namespace quantfit::kernels
#endif  // QUANTFIT_LANES_TEST_RESULTS_

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {
namespace {

void add(std::vector<LaneResult>& out, const char* operation, F value) {
  LaneResult result{operation, {}};
  float lanes[16];
  store(value, lanes);
  std::memcpy(result.lanes.data(), lanes, sizeof(lanes));
  out.push_back(result);
}
void add(std::vector<LaneResult>& out, const char* operation, I value) {
  LaneResult result{operation, {}};
  std::int32_t lanes[16];
  store(value, lanes);
  std::memcpy(result.lanes.data(), lanes, sizeof(lanes));
  out.push_back(result);
}
void add(std::vector<LaneResult>& out, const char* operation, M value) {
  LaneResult result{operation, {}};
  result.lanes[0] = bits(value);
  result.lanes[1] = any(value) ? 1 : 0;
  result.lanes[2] = all(value) ? 1 : 0;
  out.push_back(result);
}
void add(std::vector<LaneResult>& out, const char* operation, float value) {
  add(out, operation, set(value));
}
void add(std::vector<LaneResult>& out, const char* operation, std::int32_t value) {
  add(out, operation, set(value));
}

}  // namespace

void run_lane_operations(const LaneInput& input, std::vector<LaneResult>& out) {
  const F a = load(input.a.data());
  const F b = load(input.b.data());
  const F c = load(input.c.data());
  const F positive = load(input.positive.data());
  add(out, "load", a);
  add(out, "set", set(input.a[3]));
  add(out, "+", a + b);
  add(out, "-", a - b);
  add(out, "*", a * b);
  add(out, "/", a / positive);
  add(out, "negate", -a);
  add(out, "fma", fma(a, b, c));
  add(out, "fnma", fnma(a, b, c));
  add(out, "min", min(a, b));
  add(out, "max", max(a, b));
  add(out, "clamp", clamp(a, set(-1.5F), set(2.5F)));
  add(out, "abs", abs(a));
  add(out, "sqrt", sqrt(positive));
  const F moderate = clamp(a, set(-1e8F), set(1e8F));
  add(out, "round", round(moderate));
  add(out, "to_int", to_int(moderate));
  add(out, "bits_of", bits_of(a));
  add(out, "<", a < b);
  add(out, "<=", a <= b);
  add(out, ">", a > b);
  add(out, "==", a == b);
  add(out, "mask &", (a < b) & (a < c));
  add(out, "mask |", (a < b) | (a < c));
  add(out, "mask !", !(a < b));
  add(out, "select", select(a < b, b, c));

  const I i = load(input.i.data());
  const I j = load(input.j.data());
  add(out, "float_of_bits", float_of_bits(bits_of(b)));
  add(out, "to_float", to_float(i));
  add(out, "iota", iota());
  add(out, "int +", i + j);
  add(out, "int -", i - j);
  add(out, "int *", i * j);
  add(out, "int &", i & j);
  add(out, "int |", i | j);
  add(out, "int ^", i ^ j);
  add(out, "int min", min(i, j));
  add(out, "int max", max(i, j));
  add(out, "int ==", i == j);
  add(out, "int <", i < j);
  add(out, "int select", select(i < j, i, j));
  add(out, "shift_left<5>", shift_left<5>(i));
  add(out, "shift_right<7>", shift_right<7>(i));
  const I index = load(input.index.data());
  add(out, "shift_right_by", shift_right_by(i, index + index));
  add(out, "mask_of_bits", mask_of_bits(static_cast<std::uint32_t>(input.i[0])));

  const auto* signed_bytes = reinterpret_cast<const std::int8_t*>(input.bytes.data());
  add(out, "load_u8", load_u8(input.bytes.data()));
  add(out, "load_i8", load_i8(signed_bytes));
  add(out, "load_u8_2x8", load_u8_2x8(input.bytes.data() + 5, input.bytes.data() + 1));
  add(out, "load_i8_2x8", load_i8_2x8(signed_bytes + 5, signed_bytes + 1));
  const std::uint8_t* p = input.bytes.data();
  add(out, "load_u8_4x4", load_u8_4x4(p + 11, p + 2, p + 7, p));
  std::uint8_t stored_bytes[16];
  store_u8(load_u8(p), stored_bytes);
  add(out, "store_u8", load_u8(stored_bytes));
  std::int8_t stored_signed[16];
  store_i8(load_i8(signed_bytes), stored_signed);
  add(out, "store_i8", load_i8(stored_signed));
  std::uint16_t stored_halves[16];
  store_u16(i & set(std::int32_t{0xFFFF}), stored_halves);
  add(out, "store_u16", load_bfloat16(stored_halves));
  add(out, "load_half", load_half(input.halves.data()));
  add(out, "set_half", set_half(input.halves[0]));
  add(out, "half_value", half_value(input.halves[1]));
  add(out, "load_bfloat16", load_bfloat16(input.halves.data()));
  add(out, "min_nonnegative", min_nonnegative(positive, abs(a)));
  add(out, "swap_halves", swap_halves(a));
  add(out, "insert_bits", insert_bits(a, i, j));
  // Sixteen runs of sixteen floats out of one array, at any offsets.
  float runs[64];
  for (int k = 0; k < 64; ++k)
    runs[k] = input.positive[static_cast<std::size_t>(k % 16)] + static_cast<float>(k);
  std::int32_t offsets[16];
  for (int k = 0; k < 16; ++k) offsets[k] = (5 * input.index[static_cast<std::size_t>(k)]) % 49;
  F columns[16];
  load_transposed(runs, offsets, columns);
  for (const F& column : columns) add(out, "load_transposed", column);
  add(out, "gather", gather(input.positive.data(), index));
  add(out, "int gather", gather(input.i.data(), index));
  add(out, "lookup16", lookup16(a, index));

  const F small = a * set(1e-12F);
  add(out, "sum", sum(small));
  add(out, "int sum", sum(shift_right<5>(i)));
  add(out, "min_lane", min_lane(a));
  add(out, "max_lane", max_lane(a));
  add(out, "int min_lane", min_lane(i));
  add(out, "int max_lane", max_lane(i));
  BestOf16 best;
  best.offer(positive, iota());
  best.offer(gather(input.positive.data(), index), index + set(std::int32_t{16}));
  add(out, "best value", best.best_value());
  add(out, "best index", best.best_index());
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#include <gtest/gtest.h>

#include <bit>
#include <random>

namespace quantfit::kernels {
namespace {

using RunLanes = void (*)(const LaneInput&, std::vector<LaneResult>&);

struct CompiledTarget {
  const char* name;
  std::int64_t flag;
  RunLanes run;
};

// All targets of this build but the reference.
const std::vector<CompiledTarget>& compiled_targets() {
  static const std::vector<CompiledTarget> targets = {
#if HWY_TARGETS & HWY_AVX3_DL
    {"avx512_dl", HWY_AVX3_DL, N_AVX3_DL::run_lane_operations},
#endif
#if HWY_TARGETS & HWY_AVX3
    {"avx512", HWY_AVX3, N_AVX3::run_lane_operations},
#endif
#if HWY_TARGETS & HWY_AVX2
    {"avx2", HWY_AVX2, N_AVX2::run_lane_operations},
#endif
#if HWY_TARGETS & HWY_NEON
    {"neon", HWY_NEON, N_NEON::run_lane_operations},
#endif
  };
  return targets;
}

float finite_float(std::mt19937& random) {
  switch (random() % 4) {
    case 0: {  // any finite pattern but a negative zero, whose order against zero min and max leave open
      const auto bits = static_cast<std::uint32_t>(random());
      const auto value =
          std::bit_cast<float>((bits & 0x7F800000U) == 0x7F800000U ? bits ^ 0x40000000U : bits);
      return value == 0.0F ? 0.0F : value;
    }
    case 1:
      return static_cast<float>(static_cast<int>(random() % 17) - 8) * 0.5F;  // ties
    case 2:
      return std::bit_cast<float>(static_cast<std::uint32_t>(random()) & 0x807FFFFFU) + 0.0F;  // subnormal
    default:
      return std::normal_distribution<float>(0.0F, 3.0F)(random);
  }
}

LaneInput random_input(std::mt19937& random) {
  LaneInput input{};
  for (std::size_t k = 0; k < 16; ++k) {
    input.a[k] = finite_float(random);
    input.b[k] = random() % 8 == 0 ? input.a[k] : finite_float(random);
    input.c[k] = finite_float(random);
    input.positive[k] = std::uniform_real_distribution<float>(0.001F, 1000.0F)(random);
    input.i[k] = static_cast<std::int32_t>(random() >> (random() % 8 + 1));
    input.j[k] = random() % 8 == 0 ? input.i[k] : -static_cast<std::int32_t>(random() >> 1);
    input.i[k] /= 65536;  // products stay inside 32 bits
    input.j[k] /= 65536;
    input.index[k] = static_cast<std::int32_t>(random() % 16);
    input.bytes[k] = static_cast<std::uint8_t>(random());
    input.halves[k] = static_cast<std::uint16_t>(random());
  }
  return input;
}

bool is_nan(std::uint32_t pattern) {
  return (pattern & 0x7FFFFFFFU) > 0x7F800000U;
}

TEST(LanesTest, EveryOperationGivesTheSameBitsOnEveryTarget) {
#if HWY_TARGETS & HWY_EMU128
  const RunLanes reference = N_EMU128::run_lane_operations;
#else
  const RunLanes reference = N_SCALAR::run_lane_operations;
#endif
  std::mt19937 random(3);
  for (int round = 0; round < 500; ++round) {
    const LaneInput input = random_input(random);
    std::vector<LaneResult> expected;
    reference(input, expected);
    ASSERT_GT(expected.size(), 60U);
    for (const CompiledTarget& target : compiled_targets()) {
      if ((hwy::SupportedTargets() & target.flag) == 0) continue;
      std::vector<LaneResult> actual;
      target.run(input, actual);
      ASSERT_EQ(actual.size(), expected.size());
      for (std::size_t k = 0; k < expected.size(); ++k) {
        for (std::size_t lane = 0; lane < 16; ++lane) {
          if (is_nan(actual[k].lanes[lane]) && is_nan(expected[k].lanes[lane]) &&
              expected[k].operation != "load_half" && expected[k].operation != "set_half" &&
              expected[k].operation != "half_value" && expected[k].operation != "load_bfloat16")
            continue;  // inf - inf: the sign of that NaN is the machine's own
          ASSERT_EQ(actual[k].lanes[lane], expected[k].lanes[lane])
              << target.name << ", " << expected[k].operation << ", lane " << lane << ", round " << round;
        }
      }
    }
  }
}

TEST(LanesTest, SumUsesTheDocumentedTree) {
  std::mt19937 random(4);
  for (int round = 0; round < 100; ++round) {
    LaneInput input = random_input(random);
    for (float& value : input.a) value = std::normal_distribution<float>(0.0F, 1.0F)(random);
    std::array<float, 16> t{};
    for (std::size_t k = 0; k < 16; ++k) t[k] = input.a[k] * 1e-12F;
    for (const std::size_t step : {8U, 4U, 2U, 1U})
      for (std::size_t k = 0; k < step; ++k) t[k] = t[k] + t[k + step];
    for (const CompiledTarget& target : compiled_targets()) {
      if ((hwy::SupportedTargets() & target.flag) == 0) continue;
      std::vector<LaneResult> results;
      target.run(input, results);
      for (const LaneResult& result : results)
        if (result.operation == "sum") {
          EXPECT_EQ(result.lanes[0], std::bit_cast<std::uint32_t>(t[0])) << target.name;
        }
    }
  }
}

}  // namespace
}  // namespace quantfit::kernels
#endif  // HWY_ONCE
