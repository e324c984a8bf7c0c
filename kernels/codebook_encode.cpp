// Encoders of the codebook formats IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS and IQ3_S.
//
// What a super-block's scales, vectors and bytes are stands in codebook_blocks-inl.h; error feedback through
// a covariance in codebook_feedback-inl.h.
//
// Row sums. The row's bias and gain (error_metric.h) enter as a shift of the targets, x - (l_p p + l_q q) /
// v, with the multipliers l = (I + M)^-1 s that the rest of the row would choose at the continuous optimum; s
// holds the sums of the blocks done and the shrinkage that least squares will cause in those to come. When a
// block's scales stand, groups are searched again at the multipliers that its true sums give, and each change
// that lowers D is kept.

#include "kernels/instruction_set.h"
// First: it decides which instruction set the following headers are compiled for.
#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/codebook_blocks-inl.h"
#include "kernels/codebook_feedback-inl.h"
#include "kernels/lanes-inl.h"
#include "kernels/targets.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {
namespace codebook {
namespace {

template <class Spec>
HWY_NOINLINE void encode_row(const PreparedRow& row, Effort effort, std::byte* out) {
  const Plan plan = plan_for<Spec>(effort);
  auto* blocks = reinterpret_cast<typename Spec::Block*>(out);
  BlockState<Spec> block;
  block.coupled = row.has_p || row.has_q;
  if (!block.coupled)
    for (int e = 0; e < 16; ++e) block.p[e] = block.q[e] = zero();
  const double shrinkage = Spec::kShrinkage;
  Pair sums;       // of the blocks done, in units of the row
  Pair ahead;      // sum p x, sum q x over the blocks not done
  Symmetric able;  // sum (p, q)^T (p, q) / v over the blocks not done
  if (block.coupled) {
    F px = zero(), qx = zero(), pp = zero(), pq = zero(), qq = zero();
    for (std::size_t j = 0; j < row.columns; j += 16) {
      const F p = load(row.p + j);
      const F q = load(row.q + j);
      const F inverse = inverse_price(load(row.v + j), p, q);
      px = fma(p, load(row.x + j), px);
      qx = fma(q, load(row.x + j), qx);
      pp = fma(p * inverse, p, pp);
      pq = fma(p * inverse, q, pq);
      qq = fma(q * inverse, q, qq);
    }
    ahead = {sum(px), sum(qx)};
    able = {sum(pp), sum(pq), sum(qq)};
  }
  for (std::size_t j = 0; j < row.columns; j += 256, ++blocks) {
    load_chunks<Spec>(row.x + j, block.x);
    F largest = zero();
    for (int e = 0; e < 16; ++e) largest = max(largest, abs(block.x[e]));
    const float maximum = max_lane(largest);
    Fields fields;
    // An all-zero block; so is one in which even the smallest half scale is far too large.
    if (!(maximum > 1e-12F)) {
      pack(fields, *blocks);
      continue;
    }
    const int exponent =
        std::min(static_cast<int>((std::bit_cast<std::uint32_t>(maximum) >> 23) & 255) - 127, 126);
    block.up = std::bit_cast<float>(static_cast<std::uint32_t>(exponent + 127) << 23);
    block.down = 1 / block.up;
    load_chunks<Spec>(row.v + j, block.w);
    for (int e = 0; e < 16; ++e) block.x[e] = block.x[e] * set(block.down);
    Pair before;       // sums of the blocks done and the shrinkage expected of those after this one
    Pair multipliers;  // of the row sums at the expected optimum
    Symmetric rest;    // prices sums before the blocks after this one have compensated them
    Symmetric now;     // and before this one has
    Symmetric own;     // the block's part of `able`
    Pair here;         // sum p x, sum q x of the block
    if (block.coupled) {
      load_chunks<Spec>(row.p + j, block.p);
      load_chunks<Spec>(row.q + j, block.q);
      F px = zero(), qx = zero(), pp = zero(), pq = zero(), qq = zero();
      for (int e = 0; e < 16; ++e) {
        const F p = block.p[e];
        const F q = block.q[e];
        const F inverse = inverse_price(block.w[e], p, q);
        block.inverse[e] = inverse;
        px = fma(p, block.x[e], px);
        qx = fma(q, block.x[e], qx);
        pp = fma(p * inverse, p, pp);
        pq = fma(p * inverse, q, pq);
        qq = fma(q * inverse, q, qq);
      }
      here = {sum(px), sum(qx)};
      own = {sum(pp), sum(pq), sum(qq)};
      const double down = block.down;
      before = {(sums.p - shrinkage * ahead.p) * down + shrinkage * here.p,
                (sums.q - shrinkage * ahead.q) * down + shrinkage * here.q};
      now = compensation(able);
      able = {std::max(able.pp - own.pp, 0.0), able.pq - own.pq, std::max(able.qq - own.qq, 0.0)};
      if (j + 256 >= row.columns) able = {};
      rest = compensation(able);
      // A weight's own error enters the price of the sums with its square.
      for (int e = 0; e < 16; ++e) {
        const F p = block.p[e];
        const F q = block.q[e];
        const F self = fma(fma(set(static_cast<float>(now.pp)), p, set(static_cast<float>(2 * now.pq)) * q),
                           p, set(static_cast<float>(now.qq)) * q * q);
        block.targets.w[e] = block.w[e] + max(self, zero());
      }
      multipliers = now.times({before.p - shrinkage * here.p, before.q - shrinkage * here.q});
    }
    if (!block.coupled) std::copy(block.w, block.w + 16, block.targets.w);
    aim<Spec>(block, multipliers);
    Assignment<Spec> assignment;
    float unit = 0;
    F codes = zero();
    choose_scales<Spec>(block, plan, unit, codes, assignment.choice);

    Assignment<Spec> other;
    Costs costs;
    const F multiple = fma(codes, set(2.0F), set(1.0F));
    assign<Spec>(block, set(unit) * multiple, plan.shift_searches > (plan.starts > 0 ? 1 : 0), assignment);
    if (unit > 0) {
      // The scale that is best for the vectors found, sums included.
      F wu = zero(), ux = zero(), up = zero(), uq = zero();
      for (int e = 0; e < 16; ++e) {
        const F u = multiple * assignment.value[e];
        wu = fma(block.w[e] * u, u, wu);
        ux = fma(block.w[e] * u, block.x[e], ux);
        up = fma(block.p[e], u, up);
        uq = fma(block.q[e], u, uq);
      }
      const Pair u{sum(up), sum(uq)};
      const Pair wanted{here.p - before.p, here.q - before.q};
      const Pair price = rest.times(u);
      const double fitted = (double{sum(ux)} + price.p * wanted.p + price.q * wanted.q) /
                            (double{sum(wu)} + price.p * u.p + price.q * u.q);
      const float rounded = rounded_unit(block, static_cast<float>(fitted));
      if (rounded > 0.8F * unit && rounded < 1.25F * unit) unit = rounded;
    }
    if (block.coupled) {
      Pair sum_here;
      double variance = 0;
      const F s = set(unit) * multiple;
      measure_runs<Spec>(block, s, assignment, costs);
      for (int i = 0; i < kRuns * 16; ++i) {
        sum_here.p += costs.p[i];
        sum_here.q += costs.q[i];
        variance += double{costs.variance[i]};
      }
      Costs changed;
      for (int sweep = 0; sweep < plan.sweeps; ++sweep) {
        Pair total{before.p + sum_here.p, before.q + sum_here.q};
        // A change of the multipliers by dl changes the block's sums by about -M dl, M the block's part of
        // the suffix: the fixed point l = (I + M_rest)^-1 (total - M (l - l_0)).
        const Pair taken = own.times(multipliers);
        const Pair better = now.times({total.p + taken.p, total.q + taken.q});
        // What the change is worth at the continuous optimum. Blocks in the middle of a row rarely have to
        // search again: those after them make up for the noise of their sums.
        const Pair step{better.p - multipliers.p, better.q - multipliers.q};
        const Pair moved = own.times(step);
        const double gain = step.p * moved.p + step.q * moved.q + rest.form(moved);
        if (gain <= double{plan.least_gain} * variance) break;
        multipliers = better;
        aim<Spec>(block, multipliers);
        other.choice = assignment.choice;
        assign<Spec>(block, s, plan.shift_searches > 1, other);
        measure_runs<Spec>(block, s, other, changed);
        double price = rest.form(total);
        std::uint32_t lanes[kRuns] = {};
        for (int i = 0; i < kRuns * 16; ++i) {
          if (changed.p[i] == costs.p[i] && changed.q[i] == costs.q[i]) continue;
          const Pair next{total.p + changed.p[i] - costs.p[i], total.q + changed.q[i] - costs.q[i]};
          const double next_price = rest.form(next);
          if (next_price - price + double{changed.variance[i]} - double{costs.variance[i]} >= 0) continue;
          lanes[i / 16] |= 1U << (i % 16);
          price = next_price;
          total = next;
          costs.variance[i] = changed.variance[i];
          costs.p[i] = changed.p[i];
          costs.q[i] = changed.q[i];
        }
        sum_here = {total.p - before.p, total.q - before.q};
        if ((lanes[0] | lanes[1]) == 0) break;
        take_over<Spec>(lanes, other, assignment);
      }
      const double up = block.up;
      sums = {sums.p + sum_here.p * up, sums.q + sum_here.q * up};
      ahead = {ahead.p - here.p * up, ahead.q - here.q * up};
    }
    fields.d = float_to_half(std::min(unit * block.up / Spec::kUnit, 65504.0F));
    fields_of<Spec>(assignment, codes, fields);
    pack(fields, *blocks);
  }
}

template <class Spec>
void encode_row_or_feedback(const PreparedRow& row, Effort effort, std::byte* out) {
  if (row.covariance != nullptr) {
    encode_row_with_feedback<Spec>(row, effort, out);
  } else {
    encode_row<Spec>(row, effort, out);
  }
}

template <class Spec>
void fill(RowKernels& table) {
  table.encode[static_cast<std::size_t>(Spec::kFormat)] = encode_row_or_feedback<Spec>;
}

}  // namespace
}  // namespace codebook

void fill_codebook_encoders(RowKernels& table) {
  codebook::fill<codebook::SpecIQ2_XXS>(table);
  codebook::fill<codebook::SpecIQ2_XS>(table);
  codebook::fill<codebook::SpecIQ2_S>(table);
  codebook::fill<codebook::SpecIQ3_XXS>(table);
  codebook::fill<codebook::SpecIQ3_S>(table);
  codebook::fill<codebook::SpecIQ1_S>(table);
  codebook::fill<codebook::SpecIQ1_M>(table);
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
