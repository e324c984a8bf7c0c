// Sixteen float or int32 lanes with the same results on every instruction set.
//
// Every kernel is written once, on these types, and compiled once per target (kernels/CMakeLists.txt): one
// 512-bit register, two 256-bit registers, four 128-bit ones, or plain arrays (the scalar reference). Each
// operation is one correctly rounded IEEE operation per lane, multiply-adds are fused on every target, and
// sums over lanes use one fixed tree: all variants give the same bytes, and the plain arrays define them.
//
// Contract: no NaN reaches min, max, compare or to_int; to_int and round take |value| < 2^30.
// Included once per target, between HWY_BEFORE_NAMESPACE() and HWY_AFTER_NAMESPACE() of hwy/highway.h.
// Do not use lambdas in target code: they would not inherit the target's instruction set.

#if defined(QUANTFIT_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTFIT_LANES_INL_H_
#undef QUANTFIT_LANES_INL_H_
#else
#define QUANTFIT_LANES_INL_H_
#endif

#include <hwy/highway.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/half.h"

#undef QF_SCALAR_LANES
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
#define QF_SCALAR_LANES 1
#else
#define QF_SCALAR_LANES 0
#endif

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {

inline constexpr int kLaneCount = 16;

#if QF_SCALAR_LANES

inline constexpr int kParts = 1;
struct F {
  float v[16];
};
struct I {
  std::int32_t v[16];
};
struct M {
  bool v[16];
};

#define QF_EACH for (int i = 0; i < 16; ++i)

// One operation a line.
// clang-format off

HWY_INLINE F load(const float* p) { F r; QF_EACH r.v[i] = p[i]; return r; }
HWY_INLINE void store(F a, float* p) { QF_EACH p[i] = a.v[i]; }
HWY_INLINE F set(float x) { F r; QF_EACH r.v[i] = x; return r; }
HWY_INLINE F operator+(F a, F b) { F r; QF_EACH r.v[i] = a.v[i] + b.v[i]; return r; }
HWY_INLINE F operator-(F a, F b) { F r; QF_EACH r.v[i] = a.v[i] - b.v[i]; return r; }
HWY_INLINE F operator*(F a, F b) { F r; QF_EACH r.v[i] = a.v[i] * b.v[i]; return r; }
HWY_INLINE F operator/(F a, F b) { F r; QF_EACH r.v[i] = a.v[i] / b.v[i]; return r; }
HWY_INLINE F operator-(F a) { F r; QF_EACH r.v[i] = -a.v[i]; return r; }
HWY_INLINE F fma(F a, F b, F c) { F r; QF_EACH r.v[i] = std::fma(a.v[i], b.v[i], c.v[i]); return r; }
HWY_INLINE F fnma(F a, F b, F c) { F r; QF_EACH r.v[i] = std::fma(-a.v[i], b.v[i], c.v[i]); return r; }
HWY_INLINE F min(F a, F b) { F r; QF_EACH r.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]; return r; }
HWY_INLINE F max(F a, F b) { F r; QF_EACH r.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return r; }
HWY_INLINE F min_nonnegative(F a, F b) { return min(a, b); }
HWY_INLINE F abs(F a) { F r; QF_EACH r.v[i] = std::fabs(a.v[i]); return r; }
HWY_INLINE F sqrt(F a) { F r; QF_EACH r.v[i] = std::sqrt(a.v[i]); return r; }
HWY_INLINE F round(F a) { F r; QF_EACH r.v[i] = std::nearbyint(a.v[i]); return r; }
HWY_INLINE I to_int(F a) {
  I r;
  QF_EACH r.v[i] = static_cast<std::int32_t>(std::nearbyint(a.v[i]));
  return r;
}
HWY_INLINE F to_float(I a) { F r; QF_EACH r.v[i] = static_cast<float>(a.v[i]); return r; }
HWY_INLINE I bits_of(F a) { I r; std::memcpy(r.v, a.v, sizeof(r.v)); return r; }
HWY_INLINE F float_of_bits(I a) { F r; std::memcpy(r.v, a.v, sizeof(r.v)); return r; }
HWY_INLINE M operator<(F a, F b) { M r; QF_EACH r.v[i] = a.v[i] < b.v[i]; return r; }
HWY_INLINE M operator<=(F a, F b) { M r; QF_EACH r.v[i] = a.v[i] <= b.v[i]; return r; }
HWY_INLINE M operator>(F a, F b) { M r; QF_EACH r.v[i] = a.v[i] > b.v[i]; return r; }
HWY_INLINE M operator==(F a, F b) { M r; QF_EACH r.v[i] = a.v[i] == b.v[i]; return r; }
HWY_INLINE F select(M m, F a, F b) { F r; QF_EACH r.v[i] = m.v[i] ? a.v[i] : b.v[i]; return r; }
HWY_INLINE I select(M m, I a, I b) { I r; QF_EACH r.v[i] = m.v[i] ? a.v[i] : b.v[i]; return r; }
HWY_INLINE M operator&(M a, M b) { M r; QF_EACH r.v[i] = a.v[i] && b.v[i]; return r; }
HWY_INLINE M operator|(M a, M b) { M r; QF_EACH r.v[i] = a.v[i] || b.v[i]; return r; }
HWY_INLINE M operator!(M a) { M r; QF_EACH r.v[i] = !a.v[i]; return r; }
HWY_INLINE std::uint32_t bits(M m) { std::uint32_t r = 0; QF_EACH r |= (m.v[i] ? 1U : 0U) << i; return r; }
HWY_INLINE M mask_of_bits(std::uint32_t b) { M r; QF_EACH r.v[i] = ((b >> i) & 1U) != 0; return r; }

HWY_INLINE I load(const std::int32_t* p) { I r; QF_EACH r.v[i] = p[i]; return r; }
HWY_INLINE void store(I a, std::int32_t* p) { QF_EACH p[i] = a.v[i]; }
HWY_INLINE I set(std::int32_t x) { I r; QF_EACH r.v[i] = x; return r; }
HWY_INLINE I iota() { I r; QF_EACH r.v[i] = i; return r; }
HWY_INLINE I operator+(I a, I b) { I r; QF_EACH r.v[i] = a.v[i] + b.v[i]; return r; }
HWY_INLINE I operator-(I a, I b) { I r; QF_EACH r.v[i] = a.v[i] - b.v[i]; return r; }
HWY_INLINE I operator*(I a, I b) { I r; QF_EACH r.v[i] = a.v[i] * b.v[i]; return r; }
HWY_INLINE I operator&(I a, I b) { I r; QF_EACH r.v[i] = a.v[i] & b.v[i]; return r; }
HWY_INLINE I operator|(I a, I b) { I r; QF_EACH r.v[i] = a.v[i] | b.v[i]; return r; }
HWY_INLINE I operator^(I a, I b) { I r; QF_EACH r.v[i] = a.v[i] ^ b.v[i]; return r; }
template <int kBits>
HWY_INLINE I shift_left(I a) {
  I r;
  QF_EACH r.v[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(a.v[i]) << kBits);
  return r;
}
// Logical: zeros come in from above.
template <int kBits>
HWY_INLINE I shift_right(I a) {
  I r;
  QF_EACH r.v[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(a.v[i]) >> kBits);
  return r;
}
HWY_INLINE I min(I a, I b) { I r; QF_EACH r.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]; return r; }
HWY_INLINE I max(I a, I b) { I r; QF_EACH r.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return r; }
HWY_INLINE M operator==(I a, I b) { M r; QF_EACH r.v[i] = a.v[i] == b.v[i]; return r; }
HWY_INLINE M operator<(I a, I b) { M r; QF_EACH r.v[i] = a.v[i] < b.v[i]; return r; }
HWY_INLINE I load_u8(const std::uint8_t* p) { I r; QF_EACH r.v[i] = p[i]; return r; }
HWY_INLINE I load_i8(const std::int8_t* p) { I r; QF_EACH r.v[i] = p[i]; return r; }
HWY_INLINE I load_u8_2x8(const std::uint8_t* p0, const std::uint8_t* p1) {
  I r;
  QF_EACH r.v[i] = i < 8 ? p0[i] : p1[i - 8];
  return r;
}
HWY_INLINE I load_i8_2x8(const std::int8_t* p0, const std::int8_t* p1) {
  I r;
  QF_EACH r.v[i] = i < 8 ? p0[i] : p1[i - 8];
  return r;
}
HWY_INLINE I load_u8_4x4(const std::uint8_t* p0, const std::uint8_t* p1, const std::uint8_t* p2,
                         const std::uint8_t* p3) {
  const std::uint8_t* p[4] = {p0, p1, p2, p3};
  I r;
  QF_EACH r.v[i] = p[i / 4][i % 4];
  return r;
}
HWY_INLINE I shift_right_by(I a, I count) {
  I r;
  QF_EACH r.v[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(a.v[i]) >> count.v[i]);
  return r;
}
HWY_INLINE void store_u8(I a, std::uint8_t* p) { QF_EACH p[i] = static_cast<std::uint8_t>(a.v[i]); }
HWY_INLINE void store_i8(I a, std::int8_t* p) { QF_EACH p[i] = static_cast<std::int8_t>(a.v[i]); }
HWY_INLINE void store_u16(I a, std::uint16_t* p) { QF_EACH p[i] = static_cast<std::uint16_t>(a.v[i]); }
HWY_INLINE F load_half(const std::uint16_t* p) { F r; QF_EACH r.v[i] = half_to_float(p[i]); return r; }
HWY_INLINE F set_half(std::uint16_t pattern) { return set(half_to_float(pattern)); }
HWY_INLINE float half_value(std::uint16_t pattern) { return half_to_float(pattern); }
HWY_INLINE F load_bfloat16(const std::uint16_t* p) {
  F r;
  QF_EACH r.v[i] = bfloat16_to_float(p[i]);
  return r;
}
HWY_INLINE F gather(const float* base, I index) { F r; QF_EACH r.v[i] = base[index.v[i]]; return r; }
HWY_INLINE I gather(const std::int32_t* base, I index) { I r; QF_EACH r.v[i] = base[index.v[i]]; return r; }
HWY_INLINE F lookup16(F table, I index) { F r; QF_EACH r.v[i] = table.v[index.v[i]]; return r; }
HWY_INLINE void load_transposed(const float* base, const std::int32_t* offset, F* out) {
  for (int e = 0; e < 16; ++e) QF_EACH out[e].v[i] = base[offset[i] + e];
}
HWY_INLINE F swap_halves(F a) { F r; QF_EACH r.v[i] = a.v[(i + 8) % 16]; return r; }
HWY_INLINE F insert_bits(F a, I kept, I inserted) {
  const I merged = (bits_of(a) & kept) | inserted;
  return float_of_bits(merged);
}
template <int kDistance>
HWY_INLINE F swap_lanes(F a) { F r; QF_EACH r.v[i] = a.v[i ^ kDistance]; return r; }
HWY_INLINE void load_transposed(const float* p, F* out) {
  for (int k = 0; k < 16; ++k) QF_EACH out[k].v[i] = p[16 * i + k];
}
HWY_INLINE void store_transposed_u8(const I* a, std::uint8_t* p) {
  for (int k = 0; k < 16; ++k) QF_EACH p[16 * i + k] = static_cast<std::uint8_t>(a[k].v[i]);
}
HWY_INLINE float sum(F a) {
  float t[8];
  for (int i = 0; i < 8; ++i) t[i] = a.v[i] + a.v[i + 8];
  for (int i = 0; i < 4; ++i) t[i] = t[i] + t[i + 4];
  return (t[0] + t[2]) + (t[1] + t[3]);
}
HWY_INLINE std::int32_t sum(I a) { std::int32_t r = 0; QF_EACH r += a.v[i]; return r; }
HWY_INLINE float min_lane(F a) { float r = a.v[0]; QF_EACH r = a.v[i] < r ? a.v[i] : r; return r; }
HWY_INLINE float max_lane(F a) { float r = a.v[0]; QF_EACH r = a.v[i] > r ? a.v[i] : r; return r; }
HWY_INLINE std::int32_t min_lane(I a) {
  std::int32_t r = a.v[0];
  QF_EACH r = a.v[i] < r ? a.v[i] : r;
  return r;
}
HWY_INLINE std::int32_t max_lane(I a) {
  std::int32_t r = a.v[0];
  QF_EACH r = a.v[i] > r ? a.v[i] : r;
  return r;
}
// clang-format on
#undef QF_EACH

#else  // vector registers

namespace hn = hwy::HWY_NAMESPACE;
using DF = hn::CappedTag<float, 16>;
using DI = hn::RebindToSigned<DF>;
inline constexpr int kPartLanes = static_cast<int>(hn::MaxLanes(DF()));
inline constexpr int kParts = 16 / kPartLanes;

// NEON vectors of Highway are no trivial types, and an implicit constructor would not inherit the target's
// instruction set. Not forced inline: structs that hold lanes have implicit ones of their own, which call it.
#undef QF_LANES_CONSTRUCTOR
#if HWY_ARCH_ARM
#define QF_LANES_CONSTRUCTOR(type) \
  type() {}
#else
#define QF_LANES_CONSTRUCTOR(type)
#endif

struct F {
  hn::Vec<DF> v[kParts];
  QF_LANES_CONSTRUCTOR(F)
};
struct I {
  hn::Vec<DI> v[kParts];
  QF_LANES_CONSTRUCTOR(I)
};
// Masks of 32-bit lanes, kept as masks of float lanes.
struct M {
  hn::Mask<DF> v[kParts];
  QF_LANES_CONSTRUCTOR(M)
};

#define QF_EACH for (int i = 0; i < kParts; ++i)

// clang-format off

HWY_INLINE F load(const float* p) { F r; QF_EACH r.v[i] = hn::LoadU(DF(), p + i * kPartLanes); return r; }
HWY_INLINE void store(F a, float* p) { QF_EACH hn::StoreU(a.v[i], DF(), p + i * kPartLanes); }
HWY_INLINE F set(float x) { F r; QF_EACH r.v[i] = hn::Set(DF(), x); return r; }
HWY_INLINE F operator+(F a, F b) { F r; QF_EACH r.v[i] = hn::Add(a.v[i], b.v[i]); return r; }
HWY_INLINE F operator-(F a, F b) { F r; QF_EACH r.v[i] = hn::Sub(a.v[i], b.v[i]); return r; }
HWY_INLINE F operator*(F a, F b) { F r; QF_EACH r.v[i] = hn::Mul(a.v[i], b.v[i]); return r; }
HWY_INLINE F operator/(F a, F b) { F r; QF_EACH r.v[i] = hn::Div(a.v[i], b.v[i]); return r; }
HWY_INLINE F operator-(F a) { F r; QF_EACH r.v[i] = hn::Neg(a.v[i]); return r; }
HWY_INLINE F fma(F a, F b, F c) { F r; QF_EACH r.v[i] = hn::MulAdd(a.v[i], b.v[i], c.v[i]); return r; }
HWY_INLINE F fnma(F a, F b, F c) { F r; QF_EACH r.v[i] = hn::NegMulAdd(a.v[i], b.v[i], c.v[i]); return r; }
HWY_INLINE F min(F a, F b) { F r; QF_EACH r.v[i] = hn::Min(a.v[i], b.v[i]); return r; }
HWY_INLINE F max(F a, F b) { F r; QF_EACH r.v[i] = hn::Max(a.v[i], b.v[i]); return r; }
// The minimum where no sign bit is set: floats are ordered as integers then, at twice the throughput.
HWY_INLINE F min_nonnegative(F a, F b) {
  F r;
  QF_EACH r.v[i] = hn::BitCast(DF(), hn::Min(hn::BitCast(DI(), a.v[i]), hn::BitCast(DI(), b.v[i])));
  return r;
}
HWY_INLINE F abs(F a) { F r; QF_EACH r.v[i] = hn::Abs(a.v[i]); return r; }
HWY_INLINE F sqrt(F a) { F r; QF_EACH r.v[i] = hn::Sqrt(a.v[i]); return r; }
HWY_INLINE F round(F a) { F r; QF_EACH r.v[i] = hn::Round(a.v[i]); return r; }
HWY_INLINE I to_int(F a) { I r; QF_EACH r.v[i] = hn::NearestInt(a.v[i]); return r; }
HWY_INLINE F to_float(I a) { F r; QF_EACH r.v[i] = hn::ConvertTo(DF(), a.v[i]); return r; }
HWY_INLINE I bits_of(F a) { I r; QF_EACH r.v[i] = hn::BitCast(DI(), a.v[i]); return r; }
HWY_INLINE F float_of_bits(I a) { F r; QF_EACH r.v[i] = hn::BitCast(DF(), a.v[i]); return r; }
HWY_INLINE M operator<(F a, F b) { M r; QF_EACH r.v[i] = hn::Lt(a.v[i], b.v[i]); return r; }
HWY_INLINE M operator<=(F a, F b) { M r; QF_EACH r.v[i] = hn::Le(a.v[i], b.v[i]); return r; }
HWY_INLINE M operator>(F a, F b) { M r; QF_EACH r.v[i] = hn::Gt(a.v[i], b.v[i]); return r; }
HWY_INLINE M operator==(F a, F b) { M r; QF_EACH r.v[i] = hn::Eq(a.v[i], b.v[i]); return r; }
HWY_INLINE F select(M m, F a, F b) { F r; QF_EACH r.v[i] = hn::IfThenElse(m.v[i], a.v[i], b.v[i]); return r; }
HWY_INLINE I select(M m, I a, I b) {
  I r;
  QF_EACH r.v[i] = hn::IfThenElse(hn::RebindMask(DI(), m.v[i]), a.v[i], b.v[i]);
  return r;
}
HWY_INLINE M operator&(M a, M b) { M r; QF_EACH r.v[i] = hn::And(a.v[i], b.v[i]); return r; }
HWY_INLINE M operator|(M a, M b) { M r; QF_EACH r.v[i] = hn::Or(a.v[i], b.v[i]); return r; }
HWY_INLINE M operator!(M a) { M r; QF_EACH r.v[i] = hn::Not(a.v[i]); return r; }
HWY_INLINE std::uint32_t bits(M m) {
  std::uint32_t r = 0;
  QF_EACH {
    std::uint8_t bytes[8] = {};
    hn::StoreMaskBits(DF(), m.v[i], bytes);
    r |= (std::uint32_t{bytes[0]} | (std::uint32_t{bytes[1]} << 8)) << (i * kPartLanes);
  }
  return r & 0xFFFFU;
}
HWY_INLINE M mask_of_bits(std::uint32_t b) {
  M r;
  QF_EACH {
    const std::uint32_t part = (b & 0xFFFFU) >> (i * kPartLanes);
    const std::uint8_t bytes[8] = {static_cast<std::uint8_t>(part), static_cast<std::uint8_t>(part >> 8)};
    r.v[i] = hn::LoadMaskBits(DF(), bytes);
  }
  return r;
}

HWY_INLINE I load(const std::int32_t* p) {
  I r;
  QF_EACH r.v[i] = hn::LoadU(DI(), p + i * kPartLanes);
  return r;
}
HWY_INLINE void store(I a, std::int32_t* p) { QF_EACH hn::StoreU(a.v[i], DI(), p + i * kPartLanes); }
HWY_INLINE I set(std::int32_t x) { I r; QF_EACH r.v[i] = hn::Set(DI(), x); return r; }
HWY_INLINE I iota() { I r; QF_EACH r.v[i] = hn::Iota(DI(), i * kPartLanes); return r; }
HWY_INLINE I operator+(I a, I b) { I r; QF_EACH r.v[i] = hn::Add(a.v[i], b.v[i]); return r; }
HWY_INLINE I operator-(I a, I b) { I r; QF_EACH r.v[i] = hn::Sub(a.v[i], b.v[i]); return r; }
HWY_INLINE I operator*(I a, I b) { I r; QF_EACH r.v[i] = hn::Mul(a.v[i], b.v[i]); return r; }
HWY_INLINE I operator&(I a, I b) { I r; QF_EACH r.v[i] = hn::And(a.v[i], b.v[i]); return r; }
HWY_INLINE I operator|(I a, I b) { I r; QF_EACH r.v[i] = hn::Or(a.v[i], b.v[i]); return r; }
HWY_INLINE I operator^(I a, I b) { I r; QF_EACH r.v[i] = hn::Xor(a.v[i], b.v[i]); return r; }
template <int kBits>
HWY_INLINE I shift_left(I a) {
  I r;
  QF_EACH r.v[i] = hn::ShiftLeft<kBits>(a.v[i]);
  return r;
}
// Logical: zeros come in from above.
template <int kBits>
HWY_INLINE I shift_right(I a) {
  using DU = hn::RebindToUnsigned<DF>;
  I r;
  QF_EACH r.v[i] = hn::BitCast(DI(), hn::ShiftRight<kBits>(hn::BitCast(DU(), a.v[i])));
  return r;
}
HWY_INLINE I min(I a, I b) { I r; QF_EACH r.v[i] = hn::Min(a.v[i], b.v[i]); return r; }
HWY_INLINE I max(I a, I b) { I r; QF_EACH r.v[i] = hn::Max(a.v[i], b.v[i]); return r; }
HWY_INLINE M operator==(I a, I b) {
  M r;
  QF_EACH r.v[i] = hn::RebindMask(DF(), hn::Eq(a.v[i], b.v[i]));
  return r;
}
HWY_INLINE M operator<(I a, I b) {
  M r;
  QF_EACH r.v[i] = hn::RebindMask(DF(), hn::Lt(a.v[i], b.v[i]));
  return r;
}
HWY_INLINE I load_u8(const std::uint8_t* p) {
  const hn::Rebind<std::uint8_t, DI> d8;
  I r;
  QF_EACH r.v[i] = hn::PromoteTo(DI(), hn::LoadU(d8, p + i * kPartLanes));
  return r;
}
HWY_INLINE I load_i8(const std::int8_t* p) {
  const hn::Rebind<std::int8_t, DI> d8;
  I r;
  QF_EACH r.v[i] = hn::PromoteTo(DI(), hn::LoadU(d8, p + i * kPartLanes));
  return r;
}
// Lanes 0..7 from p0, 8..15 from p1.
HWY_INLINE I load_u8_2x8(const std::uint8_t* p0, const std::uint8_t* p1) {
  const hn::Rebind<std::uint8_t, DI> d8;
  I r;
  if constexpr (kParts == 1) {
    const hn::Half<decltype(d8)> half;
    r.v[0] = hn::PromoteTo(DI(), hn::Combine(d8, hn::LoadU(half, p1), hn::LoadU(half, p0)));
  } else {
    QF_EACH {
      const int lane = i * kPartLanes;
      r.v[i] = hn::PromoteTo(DI(), hn::LoadU(d8, lane < 8 ? p0 + lane : p1 + (lane - 8)));
    }
  }
  return r;
}
HWY_INLINE I load_i8_2x8(const std::int8_t* p0, const std::int8_t* p1) {
  const hn::Rebind<std::int8_t, DI> d8;
  I r;
  if constexpr (kParts == 1) {
    const hn::Half<decltype(d8)> half;
    r.v[0] = hn::PromoteTo(DI(), hn::Combine(d8, hn::LoadU(half, p1), hn::LoadU(half, p0)));
  } else {
    QF_EACH {
      const int lane = i * kPartLanes;
      r.v[i] = hn::PromoteTo(DI(), hn::LoadU(d8, lane < 8 ? p0 + lane : p1 + (lane - 8)));
    }
  }
  return r;
}
// Lanes 4 k .. 4 k + 3 from the k-th pointer.
HWY_INLINE I load_u8_4x4(const std::uint8_t* p0, const std::uint8_t* p1, const std::uint8_t* p2,
                         const std::uint8_t* p3) {
  const hn::Rebind<std::uint8_t, DI> d8;
  I r;
  if constexpr (kParts == 4) {
    const std::uint8_t* p[4] = {p0, p1, p2, p3};
    QF_EACH r.v[i] = hn::PromoteTo(DI(), hn::LoadU(d8, p[i]));
  } else {
    std::uint32_t words[4];
    std::memcpy(&words[0], p0, 4);
    std::memcpy(&words[1], p1, 4);
    std::memcpy(&words[2], p2, 4);
    std::memcpy(&words[3], p3, 4);
    const std::uint64_t low = words[0] | (std::uint64_t{words[1]} << 32);
    const std::uint64_t high = words[2] | (std::uint64_t{words[3]} << 32);
    r = load_u8_2x8(reinterpret_cast<const std::uint8_t*>(&low),
                    reinterpret_cast<const std::uint8_t*>(&high));
  }
  return r;
}
// Logical, by 0..31 bits, another count in every lane.
HWY_INLINE I shift_right_by(I a, I count) {
  using DU = hn::RebindToUnsigned<DF>;
  I r;
  QF_EACH r.v[i] = hn::BitCast(DI(), hn::Shr(hn::BitCast(DU(), a.v[i]), hn::BitCast(DU(), count.v[i])));
  return r;
}
// Lanes must be 0..255.
HWY_INLINE void store_u8(I a, std::uint8_t* p) {
  const hn::Rebind<std::uint8_t, DI> d8;
  QF_EACH hn::StoreU(hn::DemoteTo(d8, a.v[i]), d8, p + i * kPartLanes);
}
// Lanes must be -128..127.
HWY_INLINE void store_i8(I a, std::int8_t* p) {
  const hn::Rebind<std::int8_t, DI> d8;
  QF_EACH hn::StoreU(hn::DemoteTo(d8, a.v[i]), d8, p + i * kPartLanes);
}
// Lanes must be 0..65535.
HWY_INLINE void store_u16(I a, std::uint16_t* p) {
  const hn::Rebind<std::uint16_t, DI> d16;
  QF_EACH hn::StoreU(hn::DemoteTo(d16, a.v[i]), d16, p + i * kPartLanes);
}
HWY_INLINE F load_half(const std::uint16_t* p) {
  const hn::Rebind<hwy::float16_t, DF> d16;
  F r;
  const auto* halves = reinterpret_cast<const hwy::float16_t*>(p);
  QF_EACH r.v[i] = hn::PromoteTo(DF(), hn::LoadU(d16, halves + i * kPartLanes));
  return r;
}
// One half in all lanes, and as a number: half_to_float by one instruction where there is one.
HWY_INLINE F set_half(std::uint16_t pattern) {
  const hn::Rebind<std::uint16_t, DF> d16;
  const hn::Rebind<hwy::float16_t, DF> dh;
  F r;
  QF_EACH r.v[i] = hn::PromoteTo(DF(), hn::BitCast(dh, hn::Set(d16, pattern)));
  return r;
}
HWY_INLINE float half_value(std::uint16_t pattern) {
  const hn::CappedTag<float, 4> d4;
  const hn::Rebind<std::uint16_t, decltype(d4)> d16;
  const hn::Rebind<hwy::float16_t, decltype(d4)> dh;
  return hn::GetLane(hn::PromoteTo(d4, hn::BitCast(dh, hn::Set(d16, pattern))));
}
HWY_INLINE F load_bfloat16(const std::uint16_t* p) {
  const hn::Rebind<std::uint16_t, DI> d16;
  F r;
  QF_EACH r.v[i] =
      hn::BitCast(DF(), hn::ShiftLeft<16>(hn::PromoteTo(DI(), hn::LoadU(d16, p + i * kPartLanes))));
  return r;
}
HWY_INLINE F gather(const float* base, I index) {
  F r;
  QF_EACH r.v[i] = hn::GatherIndex(DF(), base, index.v[i]);
  return r;
}
HWY_INLINE I gather(const std::int32_t* base, I index) {
  I r;
  QF_EACH r.v[i] = hn::GatherIndex(DI(), base, index.v[i]);
  return r;
}
// table[index] for indices 0..15.
HWY_INLINE F lookup16(F table, I index) {
  F r;
  if constexpr (kParts == 1) {
    r.v[0] = hn::TableLookupLanes(table.v[0], hn::IndicesFromVec(DF(), index.v[0]));
  } else if constexpr (kParts == 2) {
    QF_EACH {
      const auto low_index = hn::IndicesFromVec(DF(), hn::And(index.v[i], hn::Set(DI(), 7)));
      const auto high = hn::RebindMask(DF(), hn::Gt(index.v[i], hn::Set(DI(), 7)));
      r.v[i] = hn::IfThenElse(high, hn::TableLookupLanes(table.v[kParts - 1], low_index),
                              hn::TableLookupLanes(table.v[0], low_index));
    }
  } else {
    HWY_ALIGN float entries[16];
    store(table, entries);
    r = gather(entries, index);
  }
  return r;
}

// A vector of 128-bit blocks, block b from from[offset[4 b]].
template <class D>
HWY_INLINE hn::Vec<D> load_blocks(D d, const float* from, const std::int32_t* offset) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    return hn::LoadU(d, from + offset[0]);
  } else {
    const hn::Half<D> half;
    const auto high = load_blocks(half, from, offset + hn::MaxLanes(D()) / 2);
    return hn::Combine(d, high, load_blocks(half, from, offset));
  }
}
// Lane l of out[e] is base[offset[l] + e], e = 0..15: sixteen runs of sixteen floats, one per lane.
HWY_INLINE void load_transposed(const float* base, const std::int32_t* offset, F* out) {
  const hn::Repartition<std::uint64_t, DF> d64;
  for (int k = 0; k < 4; ++k) {  // four floats of each run at a time: 4 x 4 transposes in 128-bit blocks
    for (int i = 0; i < kParts; ++i) {
      hn::Vec<DF> row[4];
      for (int r = 0; r < 4; ++r) row[r] = load_blocks(DF(), base + 4 * k, offset + i * kPartLanes + r);
      const auto low01 = hn::BitCast(d64, hn::InterleaveLower(DF(), row[0], row[1]));
      const auto low23 = hn::BitCast(d64, hn::InterleaveLower(DF(), row[2], row[3]));
      const auto high01 = hn::BitCast(d64, hn::InterleaveUpper(DF(), row[0], row[1]));
      const auto high23 = hn::BitCast(d64, hn::InterleaveUpper(DF(), row[2], row[3]));
      out[4 * k].v[i] = hn::BitCast(DF(), hn::InterleaveLower(d64, low01, low23));
      out[4 * k + 1].v[i] = hn::BitCast(DF(), hn::InterleaveUpper(d64, low01, low23));
      out[4 * k + 2].v[i] = hn::BitCast(DF(), hn::InterleaveLower(d64, high01, high23));
      out[4 * k + 3].v[i] = hn::BitCast(DF(), hn::InterleaveUpper(d64, high01, high23));
    }
  }
}
// Lanes 0..7 and 8..15 exchanged.
HWY_INLINE F swap_halves(F a) {
  F r;
  if constexpr (kParts == 1) {
    r.v[0] = hn::ConcatLowerUpper(DF(), a.v[0], a.v[0]);
  } else {
    QF_EACH r.v[i] = a.v[(i + kParts / 2) % kParts];
  }
  return r;
}
// The bits of `a` under the mask `kept`, or-ed with `inserted`.
HWY_INLINE F insert_bits(F a, I kept, I inserted) {
  F r;
  QF_EACH r.v[i] = hn::BitCast(DF(), hn::OrAnd(inserted.v[i], hn::BitCast(DI(), a.v[i]), kept.v[i]));
  return r;
}
// Lane i from lane i ^ kDistance, kDistance 1, 2, 4 or 8.
template <int kDistance>
HWY_INLINE F swap_lanes(F a) {
  F r;
  if constexpr (kDistance == 1) {
    QF_EACH r.v[i] = hn::Shuffle2301(a.v[i]);
  } else if constexpr (kDistance == 2) {
    QF_EACH r.v[i] = hn::Shuffle1032(a.v[i]);
  } else if constexpr (kDistance >= kPartLanes) {
    QF_EACH r.v[i] = a.v[(i ^ (kDistance / kPartLanes)) % kParts];
  } else if constexpr (kDistance == 4) {
    QF_EACH r.v[i] = hn::SwapAdjacentBlocks(a.v[i]);
  } else {
    QF_EACH r.v[i] = hn::ConcatLowerUpper(DF(), a.v[i], a.v[i]);
  }
  return r;
}
// Four floats from each of p, p + 64, p + 128, ... into the 128-bit blocks of one part.
template <class D>
HWY_INLINE hn::Vec<D> load_blocks(D d, const float* p) {
  const hn::CappedTag<float, 4> d4;
  if constexpr (kPartLanes == 4) {
    return hn::LoadU(d, p);
  } else if constexpr (kPartLanes == 8) {
    return hn::Combine(d, hn::LoadU(d4, p + 64), hn::LoadU(d4, p));
  } else {
    const hn::Half<D> d8;  // depends on D, so that narrower targets need not make sense of it
    return hn::Combine(d, hn::Combine(d8, hn::LoadU(d4, p + 192), hn::LoadU(d4, p + 128)),
                       hn::Combine(d8, hn::LoadU(d4, p + 64), hn::LoadU(d4, p)));
  }
}
// 256 floats as a matrix of 16 x 16, transposed: lane i of out[k] is p[16 i + k].
HWY_INLINE void load_transposed(const float* p, F* out) {
  const hn::Repartition<double, DF> d64;
  QF_EACH {
    for (int c = 0; c < 16; c += 4) {
      const float* corner = p + 16 * i * kPartLanes + c;
      const auto r0 = load_blocks(DF(), corner);
      const auto r1 = load_blocks(DF(), corner + 16);
      const auto r2 = load_blocks(DF(), corner + 32);
      const auto r3 = load_blocks(DF(), corner + 48);
      const auto low01 = hn::BitCast(d64, hn::InterleaveLower(DF(), r0, r1));
      const auto low23 = hn::BitCast(d64, hn::InterleaveLower(DF(), r2, r3));
      const auto high01 = hn::BitCast(d64, hn::InterleaveUpper(DF(), r0, r1));
      const auto high23 = hn::BitCast(d64, hn::InterleaveUpper(DF(), r2, r3));
      out[c].v[i] = hn::BitCast(DF(), hn::InterleaveLower(d64, low01, low23));
      out[c + 1].v[i] = hn::BitCast(DF(), hn::InterleaveUpper(d64, low01, low23));
      out[c + 2].v[i] = hn::BitCast(DF(), hn::InterleaveLower(d64, high01, high23));
      out[c + 3].v[i] = hn::BitCast(DF(), hn::InterleaveUpper(d64, high01, high23));
    }
  }
}
// The inverse for bytes: p[16 i + k] is lane i of a[k], which must be 0..255.
HWY_INLINE void store_transposed_u8(const I* a, std::uint8_t* p) {
  const hn::FixedTag<std::uint8_t, 16> d8;
  HWY_ALIGN std::uint8_t rows[256];
  for (int k = 0; k < 16; ++k) store_u8(a[k], rows + 16 * k);
  // Interleaving row k with row k + 8, four times over, is the transposition.
  hn::Vec<decltype(d8)> r[16];
  hn::Vec<decltype(d8)> t[16];
  for (int k = 0; k < 16; ++k) r[k] = hn::Load(d8, rows + 16 * k);
  for (int round = 0; round < 4; ++round) {
    for (int k = 0; k < 8; ++k) {
      t[2 * k] = hn::InterleaveLower(d8, r[k], r[k + 8]);
      t[2 * k + 1] = hn::InterleaveUpper(d8, r[k], r[k + 8]);
    }
    for (int k = 0; k < 16; ++k) r[k] = t[k];
  }
  for (int k = 0; k < 16; ++k) hn::StoreU(r[k], d8, p + 16 * k);
}

// Sum of the lanes by one fixed tree: i with i+8, then i+4, i+2, i+1.
HWY_INLINE float sum(F a) {
  HWY_ALIGN float t[16];
  if constexpr (kParts == 1) {
    const hn::Half<DF> d8;
    const hn::Half<decltype(d8)> d4;
    const auto eight = hn::Add(hn::LowerHalf(d8, a.v[0]), hn::UpperHalf(d8, a.v[0]));
    hn::StoreU(hn::Add(hn::LowerHalf(d4, eight), hn::UpperHalf(d4, eight)), d4, t);
  } else if constexpr (kParts == 2) {
    const hn::Half<DF> d4;
    const auto eight = hn::Add(a.v[0], a.v[kParts - 1]);
    hn::StoreU(hn::Add(hn::LowerHalf(d4, eight), hn::UpperHalf(d4, eight)), d4, t);
  } else {
    store(a, t);
    for (int i = 0; i < 8; ++i) t[i] = t[i] + t[i + 8];
    for (int i = 0; i < 4; ++i) t[i] = t[i] + t[i + 4];
  }
  return (t[0] + t[2]) + (t[1] + t[3]);
}
HWY_INLINE std::int32_t sum(I a) {
  auto total = a.v[0];
  for (int i = 1; i < kParts; ++i) total = hn::Add(total, a.v[i]);
  return hn::GetLane(hn::SumOfLanes(DI(), total));
}
HWY_INLINE float min_lane(F a) {
  auto best = a.v[0];
  for (int i = 1; i < kParts; ++i) best = hn::Min(best, a.v[i]);
  return hn::GetLane(hn::MinOfLanes(DF(), best));
}
HWY_INLINE float max_lane(F a) {
  auto best = a.v[0];
  for (int i = 1; i < kParts; ++i) best = hn::Max(best, a.v[i]);
  return hn::GetLane(hn::MaxOfLanes(DF(), best));
}
HWY_INLINE std::int32_t min_lane(I a) {
  auto best = a.v[0];
  for (int i = 1; i < kParts; ++i) best = hn::Min(best, a.v[i]);
  return hn::GetLane(hn::MinOfLanes(DI(), best));
}
HWY_INLINE std::int32_t max_lane(I a) {
  auto best = a.v[0];
  for (int i = 1; i < kParts; ++i) best = hn::Max(best, a.v[i]);
  return hn::GetLane(hn::MaxOfLanes(DI(), best));
}
// clang-format on
#undef QF_EACH

#endif  // QF_SCALAR_LANES

HWY_INLINE F zero() {
  return set(0.0F);
}
HWY_INLINE F clamp(F a, F low, F high) {
  return min(max(a, low), high);
}
HWY_INLINE bool any(M m) {
  return bits(m) != 0;
}
HWY_INLINE bool all(M m) {
  return bits(m) == 0xFFFFU;
}

// Sums over neighbouring lanes, kLanes = 1, 2, 4, 8 or 16 at a time, present in each of them.
template <int kLanes>
HWY_INLINE F group_sum(F a) {
  if constexpr (kLanes >= 2) a = a + swap_lanes<1>(a);
  if constexpr (kLanes >= 4) a = a + swap_lanes<2>(a);
  if constexpr (kLanes >= 8) a = a + swap_lanes<4>(a);
  if constexpr (kLanes >= 16) a = a + swap_lanes<8>(a);
  return a;
}
template <int kLanes>
HWY_INLINE F group_max(F a) {
  if constexpr (kLanes >= 2) a = max(a, swap_lanes<1>(a));
  if constexpr (kLanes >= 4) a = max(a, swap_lanes<2>(a));
  if constexpr (kLanes >= 8) a = max(a, swap_lanes<4>(a));
  if constexpr (kLanes >= 16) a = max(a, swap_lanes<8>(a));
  return a;
}
// The values that fields of half precision would hold: round to nearest even, saturated at +-65504.
HWY_INLINE F rounded_to_half(F a) {
  const I pattern = bits_of(a);
  const I sign = pattern & set(static_cast<std::int32_t>(0x80000000U));
  const F magnitude = min(abs(a), set(65504.0F));
  const I normal = bits_of(magnitude) + set(std::int32_t{0xFFF}) +
                   (shift_right<13>(bits_of(magnitude)) & set(std::int32_t{1}));
  // Below 2^-14 a unit in the last place is 2^-24, as that of 0.5.
  const F subnormal = (magnitude + set(0.5F)) - set(0.5F);
  const F rounded = select(magnitude < set(0x1p-14F), subnormal,
                           float_of_bits(normal & set(static_cast<std::int32_t>(0xFFFFE000U))));
  return float_of_bits(bits_of(rounded) | sign);
}

// The smallest value and, among lanes that hold it, the smallest index: the same answer whatever the order in
// which candidates were visited.
struct BestOf16 {
  F value;
  I index;
  // Written out: an implicit constructor would not inherit the target's instruction set.
  HWY_INLINE BestOf16() : value(set(3.0e38F)), index(set(std::int32_t{0})) {}
  HWY_INLINE void offer(F candidate, I candidate_index) {
    const M better = candidate < value;
    value = select(better, candidate, value);
    index = select(better, candidate_index, index);
  }
  HWY_INLINE float best_value() const { return min_lane(value); }
  HWY_INLINE std::int32_t best_index() const {
    return min_lane(select(value == set(best_value()), index, set(std::int32_t{0x7FFFFFFF})));
  }
};

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // QUANTFIT_LANES_INL_H_
