// The two sums that couple the weights of a row, carried from block to block by every encoder.
//
// With e = decoded - x the objective is D(e) = sum v e^2 + s_p^2 + s_q^2, s_p = sum p e, s_q = sum q e. After
// some columns are coded, the columns still to come can take up part of the sums: for a continuous e the best
// total price is s^T (I + M)^-1 s with M = sum over the columns to come of (p, q)(p, q)^T / v
// (PreparedRow::suffix), reached by e_j = -(alpha p_j + beta q_j) / v_j with (alpha, beta) = (I + M)^-1 s. So
// a block is coded against shifted targets by an encoder that knows nothing of the sums, and candidates for a
// block are compared by their variance term plus the price of the sums they leave behind.
//
// A column that hardly varies but has a large mean (v much below p^2) would promise a capacity
// that its few levels cannot keep; so v + p^2 / 4 stands for v here and in `suffix`, which bounds
// what one column contributes.
//
// Plain scalar arithmetic, the same on every instruction set. Included once per target, as lanes-inl.h.

#if defined(QUANTFIT_ROW_SUMS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTFIT_ROW_SUMS_INL_H_
#undef QUANTFIT_ROW_SUMS_INL_H_
#else
#define QUANTFIT_ROW_SUMS_INL_H_
#endif

#include "kernels/error_metric.h"
#include "kernels/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {

// The inverse of I + M: a symmetric positive matrix of 2 x 2.
struct SumPrice {
  float pp = 1;
  float pq = 0;
  float qq = 1;

  // What sums (p, q) cost at best.
  HWY_INLINE float of(float p, float q) const {
    return std::fma(pp * p, p, std::fma(2.0F * pq * p, q, qq * q * q));
  }
  // The same for sixteen candidates.
  HWY_INLINE F of(F p, F q) const { return fma(set(pp) * p, p, fma(set(2.0F * pq) * p, q, set(qq) * q * q)); }
};

// Shift of the targets: x'_j = x_j - (alpha p_j + beta q_j) / v_j.
struct TargetShift {
  float alpha = 0;
  float beta = 0;
  HWY_INLINE bool none() const { return alpha == 0.0F && beta == 0.0F; }
};

// Shifted targets of sixteen columns. `inverse_v` = 1 / (v + p^2 / 4)
// (PreparedRow::shift_tiles). `limit` >= 0 bounds the shift
// of each column: a good choice is the distance of neighbouring levels.
HWY_INLINE F shifted_targets(F x, F inverse_v, F p, F q, TargetShift shift, F limit) {
  const F wanted = fma(p, set(shift.alpha), q * set(shift.beta)) * inverse_v;
  return x - clamp(wanted, -limit, limit);
}

// Columns are counted in groups of sixteen, as in PreparedRow::suffix.
class RowSums {
 public:
  HWY_INLINE explicit RowSums(const PreparedRow& row)
      : suffix_(row.suffix), active_(row.has_p || row.has_q) {}

  // False when the objective is the variance term alone: shifts and prices are then zero.
  HWY_INLINE bool active() const { return active_; }
  HWY_INLINE float p() const { return p_; }  // sum p e over the columns done
  HWY_INLINE float q() const { return q_; }  // sum q e over the columns done

  // Price matrix when the columns from `group` on are free.
  HWY_INLINE SumPrice price_from(std::size_t group) const {
    SumPrice price;
    if (!active_) {
      price.pp = price.qq = 0;
      return price;
    }
    const double pp = 1.0 + double{suffix_[3 * group]};
    const double pq = double{suffix_[3 * group + 1]};
    const double qq = 1.0 + double{suffix_[3 * group + 2]};
    // pp qq - pq^2 >= pp + qq - 1 >= 1 by Cauchy and Schwarz, but for rounding.
    const double determinant = pp * qq - pq * pq;
    const double inverse = 1.0 / (determinant > 1.0 ? determinant : 1.0);
    price.pp = static_cast<float>(qq * inverse);
    price.pq = static_cast<float>(-pq * inverse);
    price.qq = static_cast<float>(pp * inverse);
    return price;
  }

  // The shift of the targets from `group` on that spreads the compensation of the sums so far, and of further
  // (extra_p, extra_q) that the caller expects, evenly over the columns to come.
  HWY_INLINE TargetShift shift_from(std::size_t group, float extra_p = 0, float extra_q = 0) const {
    TargetShift shift;
    if (!active_) return shift;
    const SumPrice price = price_from(group);
    const float p = p_ + extra_p;
    const float q = q_ + extra_q;
    shift.alpha = std::fma(price.pp, p, price.pq * q);
    shift.beta = std::fma(price.pq, p, price.qq * q);
    return shift;
  }

  // Adds the sums of a block that is now coded: sum p e and sum q e with e = decoded - x (the unshifted x).
  HWY_INLINE void add(float p, float q) {
    p_ += p;
    q_ += q;
  }

 private:
  const float* suffix_;
  bool active_;
  float p_ = 0;
  float q_ = 0;
};

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // QUANTFIT_ROW_SUMS_INL_H_
